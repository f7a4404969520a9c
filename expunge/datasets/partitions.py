"""Parquet partitions with opaque names, one subject in one partition: a removal rewrites few files."""

import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge.errors import DatasetError

_ROWS_A_PARTITION, _FEWEST, _MOST = 2000, 8, 256


def partition_name(key: bytes, index: int) -> str:
    """Opaque file name of a partition.

    Args:
        key: Secret of the workspace.
        index: Of the partition.

    Returns:
        ``part-<12 hex>.parquet``.
    """
    return f"part-{hmac.new(key, f'partition:{index}'.encode(), hashlib.sha256).hexdigest()[:12]}.parquet"


def partition_index(key: bytes, subject_id: str, count: int) -> int:
    """Which partition holds a subject: a keyed hash, so that names and places tell nothing.

    Args:
        key: Secret of the workspace.
        subject_id: The person.
        count: Number of partitions.

    Returns:
        In [0, count).
    """
    hashed = hmac.new(key, f"subject:{subject_id}".encode(), hashlib.sha256).digest()
    return int.from_bytes(hashed[:8]) % count


def write_partitions(
    frame: pd.DataFrame, directory: Path, key: bytes, count: int | None = None
) -> list[Path]:
    """Write a canonical frame as partitions, wholly or not at all.

    Args:
        frame: Canonical rows.
        directory: Must not exist, or be empty.
        key: Secret of the workspace.
        count: Number of partitions; by default one for 2,000 rows, between 8 and 256.

    Returns:
        The files.

    Raises:
        DatasetError: If the directory holds something.
    """
    if directory.exists() and any(directory.iterdir()):
        raise DatasetError(
            "the dataset folder is not empty", got=directory.name, remedy="choose another workspace"
        )
    count = count or max(_FEWEST, min(_MOST, len(frame) // _ROWS_A_PARTITION))
    places = {subject: partition_index(key, subject, count) for subject in frame["subject_id"].unique()}
    ordered = frame.sort_values("record_id")
    table = pa.Table.from_pandas(ordered, preserve_index=False)
    placed = pa.array(ordered["subject_id"].map(places))
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".staging-"))
    try:
        for number in range(count):
            _write(table.filter(pc.equal(placed, number)), staging / partition_name(key, number))
        if directory.exists():
            directory.rmdir()
        staging.chmod(0o755)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return sorted(directory.glob("part-*.parquet"))


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table.replace_schema_metadata(None), path, compression="zstd", store_schema=False)


def partition_files(directory: Path) -> list[Path]:
    """The partitions of a dataset.

    Args:
        directory: The dataset.

    Returns:
        Files, sorted by name.

    Raises:
        DatasetError: If there is none.
    """
    files = sorted(directory.glob("part-*.parquet"))
    if not files:
        raise DatasetError(
            "the dataset is not here",
            expected="Parquet partitions in data/dataset",
            got="an empty folder",
            remedy="run `dvc checkout` on the newest revision; purged revisions cannot come back",
        )
    return files


def read_dataset(directory: Path) -> pd.DataFrame:
    """All rows, in their original order.

    Args:
        directory: The dataset.

    Returns:
        The canonical frame.

    Raises:
        DatasetError: If there is no partition.
    """
    tables = [pq.read_table(path) for path in partition_files(directory)]
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return frame.sort_values("record_id", ignore_index=True)


def count_rows(directory: Path) -> int:
    """How many rows a dataset has; reads no row.

    Args:
        directory: The dataset.

    Returns:
        Their number.

    Raises:
        DatasetError: If there is no partition.
    """
    return sum(pq.read_metadata(path).num_rows for path in partition_files(directory))


def find_subjects(directory: Path, subject_ids: Iterable[str]) -> dict[str, int]:
    """How many rows each subject has; reads the subject column only.

    Args:
        directory: The dataset.
        subject_ids: Whom to look for.

    Returns:
        Rows by subject, 0 for unknown ones.
    """
    wanted = set(subject_ids)
    counts = dict.fromkeys(wanted, 0)
    values = pa.array(sorted(wanted), type=pa.string())
    for path in partition_files(directory):
        column = pq.read_table(path, columns=["subject_id"]).column("subject_id").cast(pa.string())
        for subject in column.filter(pc.is_in(column, value_set=values)).to_pylist():
            counts[subject] += 1
    return counts


def rows_of(directory: Path, subject_ids: Iterable[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows of some subjects, and the partitions that hold them.

    Args:
        directory: The dataset.
        subject_ids: Whose.

    Returns:
        Canonical rows, in their original order, and file names.
    """
    values = pa.array(sorted(set(subject_ids)), type=pa.string())
    tables: list[pa.Table] = []
    names: list[str] = []
    for path in partition_files(directory):
        table = pq.read_table(path)
        kept = table.filter(pc.is_in(table.column("subject_id").cast(pa.string()), value_set=values))
        if kept.num_rows or not tables:
            tables.append(kept)
        if kept.num_rows:
            names.append(path.name)
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return frame.sort_values("record_id", ignore_index=True), tuple(names)


def remove_subjects(directory: Path, subject_ids: Iterable[str]) -> int:
    """Rewrite the partitions that hold these subjects, without their rows; repeating it changes nothing.

    All rows of a subject leave together, in training and test.

    Args:
        directory: The dataset.
        subject_ids: Whom to remove.

    Returns:
        Number of rows removed.
    """
    values = pa.array(sorted(set(subject_ids)), type=pa.string())
    for leftover in directory.glob(
        ".part-*.tmp"
    ):  # of a run that was killed: rows that nobody would look for
        leftover.unlink()
    removed = 0
    for path in partition_files(directory):
        column = pq.read_table(path, columns=["subject_id"]).column("subject_id").cast(pa.string())
        erased = pc.is_in(column, value_set=values)
        count = pc.sum(erased).as_py() or 0
        if not count:
            continue
        staging = path.with_name(f".{path.name}.tmp")
        try:
            _write(pq.read_table(path).filter(pc.invert(erased)), staging)
            os.replace(staging, path)
        except OSError:
            staging.unlink(missing_ok=True)  # a full disk needs the room
            raise
        removed += count
    return removed
