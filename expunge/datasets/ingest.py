"""Bringing rows into a dataset that is there already: whoever was removed stays out, and no row that is there changes.

The partitions that change are written aside first, whole, and take their places afterwards: file by file, which may
be interrupted and done again.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expunge.datasets import catalogue
from expunge.datasets.contract import RESERVED, DatasetContract, SplitRule, SubjectRule, canonical_frame
from expunge.datasets.folder import CONTRACT_FILE
from expunge.datasets.partitions import (
    find_subjects,
    partition_files,
    partition_index,
    partition_name,
    rows_of,
    write_partition,
)
from expunge.datasets.placement import Placement
from expunge.errors import DatasetError


@dataclass(frozen=True)
class Arrivals:
    """A dump, sorted out.

    Args:
        frame: Canonical rows of the people who are new.
        further: Canonical rows of people who are there, and who have no such row yet.
        read: Rows and people of the dump.
        suppressed: Rows and people that were dropped because they were removed.
        present: Rows and people that are in the dataset already.
    """

    frame: pd.DataFrame
    further: pd.DataFrame
    read: tuple[int, int]
    suppressed: tuple[int, int]
    present: tuple[int, int]


def read_dump(path: str, contract: DatasetContract) -> pd.DataFrame:
    """Read a dump as `expunge init` would.

    Args:
        path: A folder of one's own data, the source of the workspace's catalogue dataset, or the name of a bundled one.
        contract: The workspace's.

    Returns:
        Canonical rows.

    Raises:
        DatasetError: If it is not what the contract promises, or its people cannot be told apart.
    """
    names = {entry.name for entry in catalogue.ENTRIES}
    own = path not in names and (Path(path) / CONTRACT_FILE).is_file()
    if own or path in names:
        loaded = catalogue.load(path, whole=False, known=contract)
    elif contract.name in names:
        loaded = catalogue.load(contract.name, Path(path), whole=False, known=contract)
    else:
        raise DatasetError(
            "this is no dump of the workspace's dataset",
            expected=f"a folder with {CONTRACT_FILE} and CSV or Parquet files",
            got=path,
            remedy="check the path",
        )
    if loaded.contract != contract:
        raise DatasetError(
            "the dump has another contract than the workspace",
            expected="that of data/contract.yaml",
            got=f"one of {loaded.contract.name}",
            remedy="bring the dump into the workspace's form",
        )
    if own and contract.subject is None:
        raise DatasetError(
            "the dump does not say whose rows they are",
            expected="a subject column: a row's number in one file says nothing about another file",
            got="subject: null in contract.yaml",
            remedy="name people in the data; only a checked catalogue source is imported without",
        )
    return loaded.frame


def read_backup(folder: Path, contract: DatasetContract) -> pd.DataFrame:
    """Read a backup of data/dataset.

    Args:
        folder: Of Parquet partitions.
        contract: The workspace's.

    Returns:
        Canonical rows.

    Raises:
        DatasetError: If it is no such folder, or its rows do not keep the contract.
    """
    try:
        files = [path for path in sorted(folder.glob("*.parquet")) if path.is_file()]
        tables = [pq.read_table(path) for path in files]
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas() if tables else None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            "the backup cannot be read", got=type(error).__name__, remedy="restore it from another copy"
        ) from error
    if frame is None:
        raise DatasetError(
            "there is no backup",
            expected="a folder of Parquet partitions",
            got=str(folder),
            remedy="check it",
        )
    # the backup's own columns, held to the same rules as the raw data once were
    own = SubjectRule(column="subject_id", normalise=contract.identity.rules)
    rules = {"subject": own, "label": "label", "split": SplitRule(column="split")}
    return canonical_frame(frame, contract.model_copy(update=rules), whole=False, identity=contract.identity)


def sort_out(
    frame: pd.DataFrame, directory: Path, placement: Placement, suppressed: Mapping[str, str]
) -> Arrivals:
    """Tell the removed, the present and the new apart.

    Args:
        frame: Canonical rows of a dump.
        directory: The dataset.
        placement: Which partitions can hold them.
        suppressed: People who were removed, by subject id.

    Returns:
        The arrivals.
    """
    people = frame["subject_id"]
    removed = people.isin(list(suppressed))
    counts = find_subjects(directory, set(people.unique()) - set(suppressed), placement)  # in any spelling
    known = [person for person, rows in counts.items() if rows]
    there = people.isin(known)
    lacking = there.copy()
    lacking[there] = _lacking(frame[there], rows_of(directory, known, placement)[0])

    def figures(rows: "pd.Series[bool]") -> tuple[int, int]:
        return int(rows.sum()), int(people[rows].nunique())

    return Arrivals(
        frame=frame[~removed & ~there],
        further=frame[lacking],
        read=(len(frame), int(people.nunique())),
        suppressed=figures(removed),
        present=figures(there & ~lacking),
    )


def _lacking(arriving: pd.DataFrame, there: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows the dataset lacks: a row is there as often as it lies there, whatever split either of them names."""
    columns = [name for name in arriving.columns if name not in ("record_id", "split")]

    def rows(frame: pd.DataFrame) -> Iterator[tuple[object, ...]]:
        values = frame[columns].astype(object)
        return values.where(values.notna(), None).itertuples(index=False, name=None)

    left = Counter(rows(there))
    lacking = []
    for row in rows(arriving):
        lacking.append(not left[row])
        left[row] -= left[row] > 0
    return pd.Series(lacking, index=arriving.index, dtype=bool)


def _by_partition(directory: Path, people: Iterable[str], key: bytes) -> dict[Path, list[str]]:
    count = len(partition_files(directory))
    groups: dict[Path, list[str]] = {}
    for person in sorted(people):
        name = partition_name(key, partition_index(key, person, count))
        groups.setdefault(directory / name, []).append(person)
    if any(not path.is_file() for path in groups):
        raise DatasetError(
            "the dataset's partitions are not those of the workspace's key",
            expected="the files that `expunge init` wrote, by their names",
            got="others",
            remedy="restore them with `expunge data checkout`",
        )
    return groups


def stage(frame: pd.DataFrame, directory: Path, key: bytes, staging: Path) -> None:
    """Write the partitions that new rows go into, old rows first, into another folder; record ids go on.

    Args:
        frame: Canonical rows that are not there yet.
        directory: The dataset; nothing in it is changed.
        key: Secret of the workspace's partitions.
        staging: An empty folder.

    Raises:
        DatasetError: If a column is of another kind than in the dataset, or the partitions are others.
    """
    columns = [pq.read_table(path, columns=["record_id"])["record_id"] for path in partition_files(directory)]
    largest = max((pc.max(column).as_py() or 0) for column in columns if len(column))
    numbered = frame.assign(record_id=range(largest + 1, largest + 1 + len(frame)))
    for path, people in _by_partition(directory, frame["subject_id"].unique(), key).items():
        table = pq.read_table(path)
        rows = numbered.loc[numbered["subject_id"].isin(people), table.column_names]
        try:
            new = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
            both = pa.concat_tables([table, new], promote_options="permissive")
        except pa.ArrowException as error:
            raise DatasetError(
                "a column of the dump is of another kind than in the dataset",
                expected=", ".join(name for name in table.column_names if name not in RESERVED),
                got=type(error).__name__,
                remedy="bring the dump into the dataset's form",
            ) from error
        write_partition(both, staging / path.name)


def install(staging: Path, directory: Path) -> None:
    """Move staged partitions to their places; repeating it goes on where it was interrupted.

    Args:
        staging: Written by :func:`stage`.
        directory: The dataset.
    """
    for path in sorted(staging.glob("part-*.parquet")):
        os.replace(path, directory / path.name)
