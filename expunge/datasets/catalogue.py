"""The catalogue of datasets, and one's own folder of files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from expunge.datasets import folder
from expunge.datasets.alike import require_told_apart
from expunge.datasets.contract import DatasetContract, FilesRule, canonical_frame, read_contract
from expunge.datasets.folder import CONTRACT_FILE
from expunge.datasets.loaders import bundled, images, tabular
from expunge.datasets.people import decided, ids_of
from expunge.datasets.poor import shortcomings
from expunge.errors import DatasetError
from expunge.subjects import Identity

Loader = Callable[[Path | None], tuple[pd.DataFrame, DatasetContract]]


@dataclass(frozen=True)
class Entry:
    """One dataset of the catalogue.

    Args:
        name: As on the command line.
        description: One line.
        bundled: Whether it comes inside a dependency.
        load: From a source path (or None) to raw rows and contract.
    """

    name: str
    description: str
    bundled: bool
    load: Loader


ENTRIES = (
    Entry(
        "breast-cancer", "569 patients, one row each; bundled", True, lambda _: bundled.load_breast_cancer()
    ),
    Entry("digits", "1,797 images of digits; bundled", True, lambda _: bundled.load_digits()),
    Entry("diabetes130", "101,766 stays of 71,518 patients; UCI zip", False, tabular.load_diabetes130),
    Entry("adult", "48,842 persons; folder of adult.data and adult.test", False, tabular.load_adult),
    Entry("mnist", "70,000 digits; folder of idx files", False, images.load_mnist),
    Entry(
        "fashion-mnist", "70,000 pieces of clothing; folder of idx files", False, images.load_fashion_mnist
    ),
    Entry("cifar10", "60,000 colour images; folder of binary batches", False, images.load_cifar10),
)


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset, ready for partitions.

    Args:
        frame: Canonical rows.
        contract: What they keep, with rules for the spellings of ids.
        spellings: How many different ids the source has, where the contract joins some into one person.
        read: Which files of a folder were read, how, and which were not.
        warnings: What is poor about the data.
    """

    frame: pd.DataFrame
    contract: DatasetContract
    spellings: int
    read: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load(
    name: str, source: Path | None = None, *, whole: bool = True, known: DatasetContract | None = None
) -> LoadedDataset:
    """Load a dataset of the catalogue, or a folder of one's own.

    Args:
        name: Of the catalogue, or the path of a folder with contract.yaml and CSV or Parquet files.
        source: Where a catalogue dataset's files lie; None to download them.
        whole: Whether this must be a whole dataset, and not a few people's rows to add to one.
        known: The contract of the workspace that they come into: its rules for spellings hold, unless the folder's
            contract has others.

    Returns:
        Canonical rows and contract.

    Raises:
        DatasetError: If the name is unknown, or files or rows are not as promised.

    Example:
        >>> len(load("breast-cancer").frame)
        569
    """
    read: list[str] = []
    entry = next((entry for entry in ENTRIES if entry.name == name), None)
    if entry is None:
        if not Path(name).is_dir():
            raise DatasetError(
                "unknown dataset",
                expected=f"{', '.join(e.name for e in ENTRIES)}, or a folder with {CONTRACT_FILE}",
                got=name,
                remedy="check the name or the path",
            )
        if source is not None:
            raise DatasetError(
                f"{name} is a folder of your own",
                expected="no --source",
                got=str(source),
                remedy="leave it out",
            )
        contract = read_contract(Path(name) / CONTRACT_FILE)
        raw, read = folder.read(Path(name), contract)
        contract = contract.model_copy(update={"files": FilesRule()})
    else:
        if source is not None and entry.bundled:
            raise DatasetError(
                f"{name} is bundled", expected="no --source", got=source.name, remedy="leave it out"
            )
        if source is not None and not source.exists():
            raise DatasetError("the source is not there", got=str(source), remedy="check --source")
        raw, contract = entry.load(source)
    if known is None:
        contract, alike = decided(raw, contract)
    else:
        contract, alike = _as_known(contract, known), None
    frame = canonical_frame(raw, contract, whole=whole)
    require_told_apart(alike, contract.subject_columns)
    people = int(frame["subject_id"].nunique())
    spellings = people
    if not contract.identity.strict:
        spellings = ids_of(raw, contract.subject_columns, Identity()).nunique()
    return LoadedDataset(
        frame, contract, spellings, tuple(read), tuple(shortcomings(frame, contract)) if whole else ()
    )


def _as_known(contract: DatasetContract, known: DatasetContract) -> DatasetContract:
    mine, theirs = contract.subject, known.subject
    if mine is None or theirs is None or mine.columns != theirs.columns or mine.normalise is not None:
        return contract
    return contract.model_copy(update={"subject": theirs})
