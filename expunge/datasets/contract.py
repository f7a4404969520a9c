"""The dataset contract: which columns there are, whose rows they are, and how they become features.

The canonical frame has ``record_id`` (0-based row of the original order), ``subject_id``, ``label``, ``split`` and the
feature columns. Constants are public (written in the contract) or ``from-data`` (computed on training rows, so on
the certificate's coverage map, and recomputed from the retain set at every removal).
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expunge.errors import DatasetError

RESERVED = ("record_id", "subject_id", "label", "split")
SPLITS = ("train", "test")
_SPLIT_BITS = 64


class _Strict(BaseModel):
    # classes: [0, 1] are labels, so text
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Scale(_Strict):
    """Public affine scaling: ``(x - shift) / divide``."""

    shift: float = Field(0.0, allow_inf_nan=False)
    divide: float = Field(1.0, gt=0, allow_inf_nan=False)


class ColumnRule(_Strict):
    """How one column becomes features.

    A numeric column: ``transform``, then ``scale`` (``from-data`` means the training rows' mean and deviation). A
    categorical column: one feature a category; a value outside the categories gives all zeros.
    """

    name: str
    kind: Literal["numeric", "categorical"] = "numeric"
    transform: Literal["none", "log1p"] = "none"
    scale: Literal["none", "from-data"] | Scale = "from-data"
    categories: Literal["from-data"] | tuple[str, ...] = "from-data"
    missing: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "ColumnRule":
        if self.kind == "numeric":
            if self.categories != "from-data":
                raise ValueError(f"{self.name}: categories need `kind: categorical`")
            if self.transform == "log1p" and self.missing is not None and self.missing <= -1:
                raise ValueError(f"{self.name}: log1p needs a `missing` value above -1")
            return self
        if (self.transform, self.scale, self.missing) != ("none", "from-data", None):
            raise ValueError(f"{self.name}: transform, scale and missing are for numeric columns")
        if len(set(self.categories)) != len(self.categories) and self.categories != "from-data":
            raise ValueError(f"{self.name}: categories named twice")
        return self

    @property
    def from_data(self) -> bool:
        """Whether its constants are computed on training rows."""
        return (self.scale if self.kind == "numeric" else self.categories) == "from-data"


class SplitRule(_Strict):
    """A split column with values train and test, or a share of subjects held out by a hash of their id."""

    column: str | None = None
    test_fraction: float = Field(0.2, gt=0, lt=1)
    seed: int = 0


class DatasetContract(_Strict):
    """What a dataset promises.

    Args:
        name: Of the dataset: letters, digits, dashes.
        subject: Column with the person; None where each row is one person.
        label: Column with the class.
        classes: All class labels, public.
        split: How rows are split.
        columns: Feature columns.
    """

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    subject: str | None = None
    label: str
    classes: tuple[str, ...] = Field(min_length=2)
    split: SplitRule = SplitRule()
    columns: tuple[ColumnRule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "DatasetContract":
        names = [column.name for column in self.columns]
        faults = sorted({name for name in names if names.count(name) > 1})
        if faults:
            raise ValueError(f"columns named twice: {', '.join(faults)}")
        special = {self.subject, self.label, self.split.column} - {None}
        clash = sorted(set(names) & (special | set(RESERVED)))
        if clash:
            raise ValueError(f"cannot be features: {', '.join(clash)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes named twice")
        return self

    @property
    def data_dependent(self) -> tuple[str, ...]:
        """Names of the columns whose constants are computed on training rows."""
        return tuple(column.name for column in self.columns if column.from_data)


def read_contract(path: Path) -> DatasetContract:
    """Read a contract, reporting every fault.

    Args:
        path: A YAML file.

    Returns:
        The contract.

    Raises:
        DatasetError: If it is missing, not YAML or not valid.
    """
    try:
        return DatasetContract.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DatasetError(
            "the dataset has no contract", expected=path.name, remedy="write one (README: your own data)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path.name}", expected="a YAML file in UTF-8", got=type(error).__name__
        ) from error
    except yaml.YAMLError as error:
        raise DatasetError(f"{path.name} is not YAML", got=" ".join(str(error).split())) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
            # YAML's own trap: an unquoted no is False
            + (
                " in quotes (YAML reads yes, no, on, off as booleans)"
                if isinstance(fault["input"], bool)
                else ""
            )
            for fault in error.errors()
        )
        raise DatasetError(
            f"{path.name} is not a valid contract", got=faults, remedy="correct the file"
        ) from error


def write_contract(contract: DatasetContract, path: Path) -> None:
    """Write a contract as YAML.

    Args:
        contract: The contract.
        path: The file.
    """
    content: dict[str, Any] = contract.model_dump(mode="json", exclude_defaults=True)
    content = {"version": 1, **content}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def canonical_frame(raw: pd.DataFrame, contract: DatasetContract, *, whole: bool = True) -> pd.DataFrame:
    """Bring raw rows into canonical form, or list everything that is wrong with them.

    Args:
        raw: Rows in their original order.
        contract: What they promise.
        whole: Whether they are a whole dataset.

    Returns:
        The canonical frame.

    Raises:
        DatasetError: With every fault.
    """
    faults = check_raw(raw, contract, whole=whole)
    if faults:
        raise DatasetError(
            "the data do not keep their contract",
            got="; ".join(faults),
            remedy="correct the data or contract.yaml",
        )
    ids = pd.Series(range(len(raw)), dtype="int64")
    subjects = ids.astype(str) if contract.subject is None else _text(raw[contract.subject])
    frame = {
        "record_id": ids.to_numpy(),
        "subject_id": subjects.to_numpy(dtype=object),
        "label": _text(raw[contract.label]).to_numpy(dtype=object),
        "split": _split(raw, subjects, contract.split),
    }
    for column in contract.columns:
        values = raw[column.name]
        if column.kind == "categorical":
            values = _text(values)
        else:
            values = pd.to_numeric(values)
            values = values if column.missing is None else values.fillna(column.missing)
        frame[column.name] = values.to_numpy()
    return pd.DataFrame(frame)


def check_raw(raw: pd.DataFrame, contract: DatasetContract, *, whole: bool = True) -> list[str]:
    """Every fault of raw rows; messages name columns and counts, never values of a row.

    Args:
        raw: Rows in their original order.
        contract: What they promise.
        whole: Whether they are a whole dataset, with rows in every split and inside the categories.

    Returns:
        Faults in words; empty if there is none.
    """
    needed = [c.name for c in contract.columns] + [contract.label]
    needed += [name for name in (contract.subject, contract.split.column) if name]
    present = set(raw.columns)
    faults = [f"column {name} is missing" for name in needed if name not in present]
    if raw.empty:
        return [*faults, "there are no rows"]

    def count(name: str, bad: "pd.Series[bool]", what: str) -> None:
        if rows := int(bad.sum()):
            faults.append(f"column {name} has {rows} rows {what}")

    if contract.subject in present:
        people = raw[contract.subject]
        count(contract.subject, people.isna() | (people.astype(str).str.strip() == ""), "without a person")
    if contract.label in present:
        count(contract.label, ~_text(raw[contract.label]).isin(contract.classes), "outside classes")
    if contract.split.column in present:
        count(contract.split.column, ~raw[contract.split.column].isin(SPLITS), "other than train and test")
    for column in contract.columns:
        if column.name not in present:
            continue
        values = raw[column.name]
        if column.kind == "categorical":
            if (
                whole
                and column.categories != "from-data"
                and not _text(values.drop_duplicates()).isin(column.categories).any()
            ):
                faults.append(f"column {column.name} has no row inside its categories")
            continue
        numbers = pd.to_numeric(values, errors="coerce")
        empty = values.isna()
        count(column.name, numbers.isna() & ~empty, "that are not numbers")
        if pd.api.types.is_float_dtype(numbers):  # thousands of pixel columns are whole numbers
            count(column.name, numbers.isin([float("inf"), float("-inf")]), "that are infinite")
        if column.transform == "log1p":
            count(column.name, numbers <= -1, "without a logarithm (log1p needs values above -1)")
        if column.missing is None:
            count(column.name, empty, "that are empty (the contract has no `missing` value)")
    if whole and present >= {contract.subject, contract.split.column} - {None}:
        ids = pd.Series(range(len(raw)))
        places = set(
            _split(raw, _text(ids if contract.subject is None else raw[contract.subject]), contract.split)
        )
        faults += [f"no rows fall into {split}" for split in SPLITS if split not in places]
    return faults


def _text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """As text, None where empty; whole numbers that a file keeps as 7.0 because of an empty cell become 7."""
    if pd.api.types.is_float_dtype(values) and bool((values.dropna() % 1 == 0).all()):
        values = values.astype("Int64")
    objects = values.astype(object).where(values.notna(), None)
    return (
        objects
        if isinstance(values.dtype, pd.StringDtype)
        else objects.map(lambda v: v if v is None else str(v))
    )


def _split(raw: pd.DataFrame, subjects: pd.Series, rule: SplitRule) -> Any:
    """A person is wholly in train or in test, and whether does not depend on anyone else."""
    if rule.column is not None:
        return raw[rule.column].astype(str).to_numpy(dtype=object)
    limit = int(rule.test_fraction * 2**_SPLIT_BITS)

    def place(subject: str) -> str:
        hashed = hashlib.sha256(f"{rule.seed}:{subject}".encode()).digest()
        return "test" if int.from_bytes(hashed[: _SPLIT_BITS // 8]) < limit else "train"

    return subjects.map({subject: place(subject) for subject in subjects.unique()}).to_numpy(dtype=object)
