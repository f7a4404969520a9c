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
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Strict):
    """Public affine scaling: ``(x - shift) / divide``."""

    shift: float = 0.0
    divide: float = Field(1.0, gt=0)


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
    missing: float | None = None

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
    except yaml.YAMLError as error:
        raise DatasetError(f"{path.name} is not YAML", got=" ".join(str(error).split())) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'file'}: {f['msg']}" for f in error.errors())
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


def canonical_frame(raw: pd.DataFrame, contract: DatasetContract) -> pd.DataFrame:
    """Bring raw rows into canonical form, or list everything that is wrong with them.

    Args:
        raw: Rows in their original order.
        contract: What they promise.

    Returns:
        The canonical frame.

    Raises:
        DatasetError: With every fault.
    """
    faults = check_raw(raw, contract)
    if faults:
        raise DatasetError(
            "the data do not keep their contract",
            got="; ".join(faults),
            remedy="correct the data or contract.yaml",
        )
    ids = pd.Series(range(len(raw)), dtype="int64")
    subjects = ids.astype(str) if contract.subject is None else raw[contract.subject].astype(str)
    frame = {
        "record_id": ids.to_numpy(),
        "subject_id": subjects.to_numpy(dtype=object),
        "label": raw[contract.label].astype(str).to_numpy(dtype=object),
        "split": _split(raw, subjects, contract.split),
    }
    for column in contract.columns:
        values = raw[column.name]
        if column.kind == "categorical":
            values = (
                values.astype(object).where(values.notna(), None).map(lambda v: v if v is None else str(v))
            )
        elif column.missing is not None:
            values = pd.to_numeric(values).fillna(column.missing)
        frame[column.name] = values.to_numpy()
    return pd.DataFrame(frame)


def check_raw(raw: pd.DataFrame, contract: DatasetContract) -> list[str]:
    """Every fault of raw rows; messages name columns and counts, never values of a row.

    Args:
        raw: Rows in their original order.
        contract: What they promise.

    Returns:
        Faults in words; empty if there is none.
    """
    needed = [c.name for c in contract.columns] + [contract.label]
    needed += [name for name in (contract.subject, contract.split.column) if name]
    faults = [f"column {name} is missing" for name in needed if name not in raw.columns]
    if raw.empty:
        faults.append("there are no rows")
    present = set(raw.columns)
    if contract.subject in present and (empty := int(raw[contract.subject].isna().sum())):
        faults.append(f"column {contract.subject} has {empty} rows without a person")
    if contract.label in present:
        unknown = int((~raw[contract.label].astype(str).isin(contract.classes)).sum())
        if unknown:
            faults.append(f"column {contract.label} has {unknown} rows outside classes")
    if contract.split.column in present:
        unknown = int((~raw[contract.split.column].isin(SPLITS)).sum())
        if unknown:
            faults.append(f"column {contract.split.column} has {unknown} rows other than train and test")
    for column in contract.columns:
        if column.name in present and column.kind == "numeric":
            numbers = pd.to_numeric(raw[column.name], errors="coerce")
            bad = int(numbers.isna().sum() - raw[column.name].isna().sum())
            if bad:
                faults.append(f"column {column.name} has {bad} rows that are not numbers")
            if column.missing is None and int(raw[column.name].isna().sum()):
                faults.append(f"column {column.name} has empty rows and no `missing` value in the contract")
    return faults


def _split(raw: pd.DataFrame, subjects: pd.Series, rule: SplitRule) -> Any:
    """A person is wholly in train or in test, and whether does not depend on anyone else."""
    if rule.column is not None:
        return raw[rule.column].astype(str).to_numpy(dtype=object)
    limit = int(rule.test_fraction * 2**_SPLIT_BITS)

    def place(subject: str) -> str:
        hashed = hashlib.sha256(f"{rule.seed}:{subject}".encode()).digest()
        return "test" if int.from_bytes(hashed[: _SPLIT_BITS // 8]) < limit else "train"

    return subjects.map({subject: place(subject) for subject in subjects.unique()}).to_numpy(dtype=object)
