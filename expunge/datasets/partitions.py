"""Parquet partitions with opaque names, one subject in one partition: a removal rewrites few files."""

import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge import nonces
from expunge.errors import DatasetError
from expunge.subjects import AS_THEY_ARE, Identity

if TYPE_CHECKING:
    from expunge.datasets.placement import Placement

_FORMAT: dict[str, Any] = {"compression": "zstd", "store_schema": False}
_ROWS_A_PARTITION, _FEWEST, _MOST = 2000, 8, 256


def partition_name(key: bytes, index: int) -> str:
    """Opaque file name of a partition.

    Args:
        key: Secret of the workspace.
        index: Of the partition.

    Returns:
        ``part-<12 hex>.parquet``.
    """
    return f"part-{hmac.digest(key, f'partition:{index}'.encode(), hashlib.sha256).hex()[:12]}.parquet"


def partition_index(key: bytes, subject_id: str, count: int) -> int:
    """Which partition holds a subject: a keyed hash, so that names and places tell nothing.

    Args:
        key: Secret of the workspace.
        subject_id: The person.
        count: Number of partitions.

    Returns:
        In [0, count).
    """
    hashed = hmac.digest(key, f"subject:{subject_id}".encode(), hashlib.sha256)
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
            write_partition(table.filter(pc.equal(placed, number)), staging / partition_name(key, number))
        if directory.exists():
            directory.rmdir()
        staging.chmod(0o755)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return sorted(directory.glob("part-*.parquet"))


def write_partition(table: pa.Table, path: Path) -> None:
    """Write the rows of one partition, and a new nonce.

    Args:
        table: Canonical rows.
        path: The file.
    """
    with _writer(path, table.schema) as target:
        target.write_table(table)


@contextmanager
def _writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with pq.ParquetWriter(path, schema.remove_metadata(), **_FORMAT) as target:
        target.add_key_value_metadata({nonces.NONCE: nonces.draw()})
        yield target


def salted(files: Iterable[Path]) -> bool:
    """Tell whether each of these partitions carries a nonce; reads no row.

    Args:
        files: Partitions.

    Returns:
        False where one was written by an earlier release, or by hand.
    """
    return all(nonces.NONCE.encode() in (_metadata(path).metadata or {}) for path in files)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one sentence that a partition cannot be read, and what to do.

    Args:
        path: The partition that is read within.

    Yields:
        Nothing.

    Raises:
        DatasetError: If it is cut off, or is no Parquet file.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the operating system: not what the file holds
        raise DatasetError(
            "a partition of the dataset cannot be read",
            expected=f"{path.name} as it was written",
            got=" ".join(str(error).split())[:100],
            remedy="remove the damaged file, then `dvc checkout --force data/dataset.dvc`, or restore it from a backup",
        ) from error


def _metadata(path: Path) -> pq.FileMetaData:
    with readable(path):
        return pq.read_metadata(path)


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    with readable(path):
        return pq.read_table(path, columns=columns)


def partition_files(directory: Path) -> list[Path]:
    """The partitions of a dataset.

    Args:
        directory: The dataset.

    Returns:
        Files, sorted by name.

    Raises:
        DatasetError: If there is none, or something else lies among them: a removal would not look into it.
    """
    files = sorted(directory.glob("part-*.parquet"))
    if not files:
        raise DatasetError(
            "the dataset is not here",
            expected="Parquet partitions in data/dataset",
            got="an empty folder",
            remedy="run `dvc checkout` on the newest revision; purged revisions cannot come back",
        )
    if others := sum(not path.name.startswith(".") for path in directory.iterdir()) - len(files):
        raise DatasetError(
            "something other than partitions lies in the dataset folder",
            expected="part-*.parquet",
            got=f"{others} other files",
            remedy="move them elsewhere: people's rows in them would not be found",
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
    tables = [_table(path) for path in partition_files(directory)]
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
    return sum(_metadata(path).num_rows for path in partition_files(directory))


def count_training_rows(directory: Path) -> int:
    """How many rows of a dataset are for training; reads their split alone.

    Args:
        directory: The dataset.

    Returns:
        Their number.

    Raises:
        DatasetError: If there is no partition.
    """
    splits = (_table(path, ["split"])["split"] for path in partition_files(directory))
    return sum(int(pc.sum(pc.equal(split, "train")).as_py() or 0) for split in splits)


def subject_column(path: Path) -> Iterator[pa.Array]:
    """Whose the rows of a partition are; nothing else of it is read.

    Args:
        path: The partition.

    Yields:
        Ids as text, some ten thousand rows at a time.
    """
    with readable(path), pq.ParquetFile(path) as source:
        for batch in source.iter_batches(columns=["subject_id"]):
            yield batch.column(0).cast(pa.string())


def find_subjects(
    directory: Path, subject_ids: Collection[str], placement: "Placement | None" = None
) -> dict[str, int]:
    """How many rows each subject has; reads the subject column only.

    Args:
        directory: The dataset.
        subject_ids: Whom to look for.
        placement: Says which partitions can hold them; without it all are read.

    Returns:
        Rows by subject, 0 for unknown ones.
    """
    identity = _identity(placement)
    forms = {subject: identity.canonical(subject) for subject in subject_ids}
    counts, wanted = dict.fromkeys(forms.values(), 0), set(forms.values())
    for path in _candidates(directory, subject_ids, placement):
        for column in subject_column(path):
            for subject in column.filter(_are(column, wanted, identity)).to_pylist():
                counts[identity.canonical(subject)] += 1
    return {subject: counts[form] for subject, form in forms.items()}


def rows_of(
    directory: Path, subject_ids: Collection[str], placement: "Placement | None" = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows of some subjects, and the partitions that hold them; a row group is in memory at a time.

    Args:
        directory: The dataset.
        subject_ids: Whose.
        placement: Says which partitions can hold them; without it all are read.

    Returns:
        Canonical rows, in their original order, and file names.
    """
    identity = _identity(placement)
    wanted = _forms(subject_ids, identity)
    held = [path for path in _candidates(directory, subject_ids, placement) if _holds(path, wanted, identity)]
    empty = [] if held else [pq.read_schema(partition_files(directory)[0]).empty_table()]
    return _frame([*_rows(held, wanted, identity), *empty]), tuple(path.name for path in held)


def rows_in(
    files: Iterable[Path], subject_ids: Collection[str], identity: Identity = AS_THEY_ARE
) -> pd.DataFrame:
    """Rows of some subjects in partitions that lie anywhere, such as those of an earlier version.

    Args:
        files: Of the partitions, at least one.
        subject_ids: Whose.
        identity: Which spellings of an id are one person.

    Returns:
        Canonical rows, in their original order; in memory only.
    """
    return _frame(_rows(files, _forms(subject_ids, identity), identity))


def _rows(files: Iterable[Path], wanted: set[str], identity: Identity) -> Iterator[pa.Table]:
    """Of each row group those that are wanted: one group is in memory at a time."""
    for path in files:
        with readable(path), pq.ParquetFile(path) as source:
            for number in range(source.num_row_groups):
                group = source.read_row_group(number)
                yield group.filter(_are_of(group, wanted, identity))


def _frame(tables: Iterable[pa.Table]) -> pd.DataFrame:
    frame: pd.DataFrame = pa.concat_tables(list(tables), promote_options="permissive").to_pandas()
    return frame.sort_values("record_id", ignore_index=True)


def remove_subjects(
    directory: Path, subject_ids: Collection[str], placement: "Placement | None" = None
) -> int:
    """Rewrite the partitions that hold these subjects, without their rows; repeating it changes nothing.

    All rows of a subject leave together, in training and test.

    Args:
        directory: The dataset.
        subject_ids: Whom to remove.
        placement: Says which partitions can hold them; without it all are read.

    Returns:
        Number of rows removed.
    """
    for leftover in directory.glob(
        ".part-*.tmp"
    ):  # of a run that was killed: rows that nobody would look for
        leftover.unlink()
    identity = _identity(placement)
    erased = _forms(subject_ids, identity)
    held = [path for path in _candidates(directory, subject_ids, placement) if _holds(path, erased, identity)]
    with nullcontext() if placement is None else placement.losing_rows(held):
        return sum(rewrite_partition(path, subject_ids, identity) for path in held)


def rewrite_partition(path: Path, subject_ids: Iterable[str], identity: Identity = AS_THEY_ARE) -> int:
    """Put a partition without some subjects' rows in its place; a row group is in memory at a time.

    Args:
        path: The partition.
        subject_ids: Whom to leave out.
        identity: Which spellings of an id are one person.

    Returns:
        Number of rows left out.
    """
    erased, removed = _forms(subject_ids, identity), 0
    staging = path.with_name(f".{path.name}.tmp")
    try:
        with (
            readable(path),
            pq.ParquetFile(path) as source,
            _writer(staging, source.schema_arrow) as target,
        ):
            for number in range(source.num_row_groups):
                group = source.read_row_group(number)
                kept = group.filter(pc.invert(_are_of(group, erased, identity)))
                target.write_table(kept, row_group_size=max(1, kept.num_rows))
                removed += group.num_rows - kept.num_rows
        os.replace(staging, path)
    except OSError:
        staging.unlink(missing_ok=True)  # a full disk needs the room
        raise
    return removed


def _candidates(directory: Path, subject_ids: Collection[str], placement: "Placement | None") -> list[Path]:
    return (
        partition_files(directory) if placement is None else placement.partitions_of(directory, subject_ids)
    )


def _identity(placement: "Placement | None") -> Identity:
    return AS_THEY_ARE if placement is None else placement.identity


def _forms(subject_ids: Iterable[str], identity: Identity) -> set[str]:
    return {identity.canonical(subject) for subject in subject_ids}


def _are(column: pa.Array | pa.ChunkedArray, forms: set[str], identity: Identity) -> Any:
    """Which cells are one of these people, in whatever spelling the contract joins."""
    if not identity.strict:
        there = pc.unique(column).drop_null().to_pylist()
        forms = {subject for subject in there if identity.canonical(subject) in forms}
    return pc.is_in(column, value_set=pa.array(sorted(forms), type=pa.string()))


def _are_of(rows: pa.Table, forms: set[str], identity: Identity) -> pa.ChunkedArray:
    return _are(rows.column("subject_id").cast(pa.string()), forms, identity)


def _holds(path: Path, forms: set[str], identity: Identity) -> bool:
    return any(pc.any(_are(column, forms, identity)).as_py() for column in subject_column(path))
