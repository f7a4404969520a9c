"""The dataset contract: which columns there are, whose rows they are, and how they become features.

The canonical frame has ``record_id`` (0-based row of the original order), ``subject_id``, ``label``, ``split`` and the
feature columns. Constants are public (written in the contract) or ``from-data`` (computed on training rows, so on
the certificate's coverage map, and recomputed from the retain set at every removal).
"""

import codecs
import difflib
import hashlib
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from expunge.datasets.labels import NO_REGRESSION, as_classes, outside
from expunge.datasets.numbers import DATES, no_numbers
from expunge.datasets.people import as_text, id_faults, ids_of
from expunge.errors import DatasetError
from expunge.subjects import Identity, Rule

RESERVED = ("record_id", "subject_id", "label", "split")
SPLITS = ("train", "test")
_SPLIT_BITS = 64
_NAMED = 12  # columns in a message


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


class SubjectRule(_Strict):
    """Which column is the person, or which columns together, and which spellings of an id are one person.

    Args:
        column: One name, or several.
        normalise: Rules of :mod:`expunge.subjects`; none means that each spelling is another person, and None that
            nobody has said.
    """

    column: str | tuple[str, ...]
    normalise: tuple[Rule, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "SubjectRule":
        if len(self.columns) == 0 or len(set(self.columns)) != len(self.columns):
            raise ValueError("subject: name one column, or several different ones")
        if self.normalise is not None and len(set(self.normalise)) != len(self.normalise):
            raise ValueError("subject: a rule is named twice")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        return self.column if self.normalise is None and isinstance(self.column, str) else handler(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that make up an id."""
        return (self.column,) if isinstance(self.column, str) else self.column

    @property
    def identity(self) -> Identity:
        """Which spellings are one person."""
        return Identity(self.normalise, len(self.columns))


class FilesRule(_Strict):
    """How text files are written, where that cannot be told from them.

    Args:
        encoding: As Python names it, such as cp1252.
        delimiter: Between cells.
        decimal: The mark of a fraction; the other one parts thousands.
    """

    encoding: str | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    decimal: Literal[".", ","] | None = None

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        try:
            return name if name is None else codecs.lookup(name).name
        except LookupError as error:
            raise ValueError("no such encoding: write utf-8, utf-16, cp1252, latin-1 or the like") from error


class DatasetContract(_Strict):
    """What a dataset promises.

    Args:
        name: Of the dataset: letters, digits, dashes.
        subject: The person's column, alone or with rules; None where each row is one person.
        label: Column with the class.
        classes: All class labels, public.
        split: How rows are split.
        columns: Feature columns.
        files: How text files are written; the workspace's own contract says nothing of it.
    """

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    subject: SubjectRule | None = None
    label: str
    classes: tuple[str, ...] = Field(min_length=2)
    split: SplitRule = SplitRule()
    columns: tuple[ColumnRule, ...] = Field(min_length=1)
    files: FilesRule = FilesRule()

    @field_validator("subject", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return (
            {"column": given}
            if isinstance(given, str | int | float) and not isinstance(given, bool)
            else given
        )

    @model_validator(mode="after")
    def _distinct(self) -> "DatasetContract":
        names = [column.name for column in self.columns]
        faults = sorted({name for name in names if names.count(name) > 1})
        if faults:
            raise ValueError(f"columns named twice: {', '.join(faults)}")
        special = {*self.subject_columns, self.label, self.split.column} - {None}
        clash = sorted(set(names) & (special | set(RESERVED)))
        if clash:
            raise ValueError(f"cannot be features: {', '.join(clash)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes named twice")
        return self

    @property
    def subject_columns(self) -> tuple[str, ...]:
        """Columns that make up a person's id; none where each row is one person."""
        return () if self.subject is None else self.subject.columns

    @property
    def identity(self) -> Identity:
        """Which spellings of an id are one person."""
        return Identity() if self.subject is None else self.subject.identity

    @property
    def data_dependent(self) -> tuple[str, ...]:
        """Names of the columns whose constants are computed on training rows."""
        return tuple(column.name for column in self.columns if column.from_data)


class _AsWritten(yaml.SafeLoader):
    """Reads yes, no, true and dates within a list (classes, categories) as the text that is written."""

    def construct_sequence(self, node: Any, deep: bool = False) -> list[Any]:
        for one in node.value:
            if one.tag.rpartition(":")[2] in ("bool", "timestamp"):
                one.tag = "tag:yaml.org,2002:str"
        return list(super().construct_sequence(node, deep=deep))


def _advice(fault: Any) -> str:
    """Guess what people most often mean by what is not valid."""
    place, given = fault["loc"], fault["input"]
    if isinstance(given, bool):  # YAML's own trap: an unquoted no is False
        return " in quotes (YAML reads yes, no, on, off as booleans)"
    if place == ("classes",) and fault["type"] == "missing":
        return f" (name every class label, such as `classes: [ill, well]`; {NO_REGRESSION})"
    if place and place[0] == "columns" and place[-1] == "kind":
        kinds = {
            "text": "free text is not supported: leave the column out, or bring numbers in its place, such as "
            "counts of words of a public list",
            "date": DATES.removeprefix("but "),
            "datetime": DATES.removeprefix("but "),
            "boolean": "write categorical, or numeric for true and false",
            "bool": "write categorical, or numeric for true and false",
        }
        return f" (got {str(given)[:40]}{'; ' + kinds[given] if given in kinds else ''})"
    if place == ("columns",) and fault["type"] == "missing":
        return " (name the feature columns; a folder of images is not read: bring a table with a column for each pixel)"
    return ""


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
        return DatasetContract.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=_AsWritten))
    except FileNotFoundError as error:
        raise DatasetError(
            "the dataset has no contract",
            expected=path.name,
            remedy="let `expunge init --draft-contract --dataset FOLDER` write one, then correct it",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read {path.name}", expected="a YAML file in UTF-8", got=type(error).__name__
        ) from error
    except yaml.YAMLError as error:
        raise DatasetError(f"{path.name} is not YAML", got=" ".join(str(error).split())) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" + _advice(fault)
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


def canonical_frame(
    raw: pd.DataFrame, contract: DatasetContract, *, whole: bool = True, identity: Identity | None = None
) -> pd.DataFrame:
    """Bring raw rows into canonical form, or list everything that is wrong with them.

    Args:
        raw: Rows in their original order.
        contract: What they promise.
        whole: Whether they are a whole dataset.
        identity: Which spellings are one person; the contract's by default.

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
    subjects = _subjects(raw, contract, identity or contract.identity)
    frame = {
        "record_id": ids.to_numpy(),
        "subject_id": subjects.to_numpy(dtype=object),
        "label": as_classes(raw[contract.label], contract.classes).to_numpy(dtype=object),
        "split": _split(raw, subjects, contract.split),
    }
    for column in contract.columns:
        values = raw[column.name]
        if column.kind == "categorical":
            values = as_text(values)
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
    needed += [name for name in (*contract.subject_columns, contract.split.column) if name]
    present = set(raw.columns)
    faults = [f"column {name} is missing{_near(name, present)}" for name in needed if name not in present]
    if faults:
        faults.append(
            f"the data have {len(present)} columns: {', '.join(sorted(map(str, present))[:_NAMED])}"
        )
    if raw.empty:
        return [*faults, "there are no rows"]

    def count(name: str, bad: "pd.Series[bool]", what: str) -> None:
        if rows := int(bad.sum()):
            faults.append(f"column {name} has {rows} rows {what}")

    named = present.issuperset(contract.subject_columns)
    if named:
        faults += id_faults(raw, contract.subject_columns, contract.identity.rules or ())
    if contract.label in present:
        labels = as_classes(raw[contract.label], contract.classes)
        if not (fits := labels.isin(contract.classes)).all():
            people = {
                one for name in contract.subject_columns if name in present for one in as_text(raw[name])
            }
            count(contract.label, ~fits, f"outside classes {outside(labels, contract.classes, people)}")
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
                and not as_text(values.drop_duplicates()).isin(column.categories).any()
            ):
                faults.append(f"column {column.name} has no row inside its categories")
            continue
        if pd.api.types.is_datetime64_any_dtype(values) or pd.api.types.is_timedelta64_dtype(values):
            count(column.name, values.notna(), f"that are not numbers, {DATES}")
            continue
        numbers = pd.to_numeric(values, errors="coerce")
        empty = values.isna()
        if (words := numbers.isna() & ~empty).any():
            count(column.name, words, f"that are not numbers, {no_numbers(values[words])}")
        if pd.api.types.is_float_dtype(numbers):  # thousands of pixel columns are whole numbers
            count(column.name, numbers.isin([float("inf"), float("-inf")]), "that are infinite")
        if column.transform == "log1p":
            count(column.name, numbers <= -1, "without a logarithm (log1p needs values above -1)")
        if column.missing is None:
            count(column.name, empty, "that are empty (the contract has no `missing` value)")
    if whole and named and present >= {contract.split.column} - {None}:
        places = set(_split(raw, _subjects(raw, contract, contract.identity), contract.split))
        faults += [f"no rows fall into {split}" for split in SPLITS if split not in places]
    return faults


def _near(name: str, present: set[str]) -> str:
    forms = {str(one).strip().casefold(): str(one) for one in present}
    close = difflib.get_close_matches(name.strip().casefold(), forms, n=1)
    return f" (there is {forms[close[0]]!r})" if close else ""


def _subjects(raw: pd.DataFrame, contract: DatasetContract, identity: Identity) -> "pd.Series[Any]":
    if contract.subject is None:
        return pd.Series(range(len(raw)), dtype="int64").astype(str)
    return ids_of(raw, contract.subject_columns, identity)


def _split(raw: pd.DataFrame, subjects: pd.Series, rule: SplitRule) -> Any:
    """A person is wholly in train or in test, and whether does not depend on anyone else."""
    if rule.column is not None:
        return raw[rule.column].astype(str).to_numpy(dtype=object)
    limit = int(rule.test_fraction * 2**_SPLIT_BITS)

    def place(subject: str) -> str:
        hashed = hashlib.sha256(f"{rule.seed}:{subject}".encode()).digest()
        return "test" if int.from_bytes(hashed[: _SPLIT_BITS // 8]) < limit else "train"

    return subjects.map({subject: place(subject) for subject in subjects.unique()}).to_numpy(dtype=object)
