"""From canonical rows to features, with every constant kept and its provenance readable."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expunge.datasets.contract import ColumnRule, DatasetContract, Scale
from expunge.errors import DatasetError

_SMALLEST_DEVIATION = 1e-12


@dataclass(frozen=True)
class ColumnConstants:
    """The constants of one column.

    Args:
        name: Of the column.
        kind: numeric or categorical.
        transform: none or log1p.
        shift: Subtracted from a numeric value.
        divide: Divides it, above 0.
        categories: Of a categorical column, in feature order.
        provenance: public or from-data.
    """

    name: str
    kind: str
    transform: str
    shift: float
    divide: float
    categories: tuple[str, ...]
    provenance: str


@dataclass(frozen=True)
class Preprocessing:
    """All constants between rows and features.

    Args:
        columns: In feature order.
        classes: In label order.
    """

    columns: tuple[ColumnConstants, ...]
    classes: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(
            name
            for column in self.columns
            for name in (
                [column.name]
                if column.kind == "numeric"
                else [f"{column.name}={v}" for v in column.categories]
            )
        )

    @property
    def from_data(self) -> tuple[str, ...]:
        """Names of the columns whose constants were computed on training rows."""
        return tuple(column.name for column in self.columns if column.provenance == "from-data")

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict, the inverse of :meth:`from_json`.
        """
        return {
            "classes": list(self.classes),
            "columns": [{**vars(column), "categories": list(column.categories)} for column in self.columns],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Preprocessing":
        """Read what :meth:`to_json` wrote.

        Args:
            data: The dict.

        Returns:
            The preprocessing.
        """
        columns = tuple(
            ColumnConstants(**{**column, "categories": tuple(column["categories"])})
            for column in data["columns"]
        )
        return cls(columns, tuple(data["classes"]))


@dataclass(frozen=True)
class Encoded:
    """Features and labels.

    Args:
        features: float64, C-contiguous, shape (n, d).
        labels: int64 class indices, shape (n,).
    """

    features: NDArray[np.float64]
    labels: NDArray[np.int64]


def fit(train: pd.DataFrame, contract: DatasetContract) -> Preprocessing:
    """Compute the constants that the contract leaves to the data, from these training rows alone.

    Args:
        train: Canonical training rows.
        contract: The contract.

    Returns:
        The constants.

    Raises:
        DatasetError: If there are no training rows.
    """
    if train.empty:
        raise DatasetError("no training rows are left", expected="at least one", remedy="check the split")
    return Preprocessing(tuple(_constants(train, rule) for rule in contract.columns), contract.classes)


def _constants(train: pd.DataFrame, rule: ColumnRule) -> ColumnConstants:
    provenance = "from-data" if rule.from_data else "public"
    if rule.kind == "categorical":
        categories = (
            tuple(sorted(train[rule.name].dropna().unique()))
            if rule.categories == "from-data"
            else rule.categories
        )
        return ColumnConstants(rule.name, rule.kind, "none", 0.0, 1.0, tuple(categories), provenance)
    shift, divide = 0.0, 1.0
    if isinstance(rule.scale, Scale):
        shift, divide = rule.scale.shift, rule.scale.divide
    elif rule.scale == "from-data":
        values = _transformed(train[rule.name], rule.transform)
        shift, deviation = float(values.mean()), float(values.std())
        divide = deviation if deviation > _SMALLEST_DEVIATION else 1.0
    return ColumnConstants(rule.name, rule.kind, rule.transform, shift, divide, (), provenance)


def _transformed(values: "pd.Series[Any]", transform: str) -> NDArray[np.float64]:
    numbers = values.to_numpy(dtype=np.float64)
    return np.log1p(numbers) if transform == "log1p" else numbers


def encode_features(frame: pd.DataFrame, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Features of rows.

    Args:
        frame: Rows with the contract's feature columns.
        preprocessing: The constants.

    Returns:
        float64, C-contiguous, shape (n, d).

    Raises:
        DatasetError: If a column is missing, or a numeric value is missing or not finite.
    """
    missing = [column.name for column in preprocessing.columns if column.name not in frame.columns]
    if missing:
        raise DatasetError("feature columns are missing", got=", ".join(missing), remedy="pass every column")
    out = np.zeros((len(frame), len(preprocessing.feature_names)), dtype=np.float64)
    at, bad = 0, []
    for column in preprocessing.columns:
        if column.kind == "numeric":
            values = (_transformed(frame[column.name], column.transform) - column.shift) / column.divide
            if not np.isfinite(values).all():
                bad.append(column.name)
            out[:, at] = values
            at += 1
            continue
        codes = pd.Categorical(frame[column.name], categories=list(column.categories)).codes.astype(np.int64)
        rows = np.flatnonzero(codes >= 0)
        out[rows, at + codes[rows]] = 1.0
        at += len(column.categories)
    if bad:
        raise DatasetError(
            "values are missing or not finite", got=", ".join(bad), remedy="give a `missing` value"
        )
    return out


def encode(frame: pd.DataFrame, preprocessing: Preprocessing) -> Encoded:
    """Features and labels of canonical rows.

    Args:
        frame: Canonical rows.
        preprocessing: The constants.

    Returns:
        The encoded rows, in the frame's order.

    Raises:
        DatasetError: If a label is not a class, or as :func:`encode_features`.
    """
    labels = pd.Categorical(frame["label"], categories=list(preprocessing.classes)).codes.astype(np.int64)
    if unknown := int((labels < 0).sum()):
        raise DatasetError(
            "labels outside the classes",
            expected=", ".join(preprocessing.classes),
            got=f"{unknown} rows",
            remedy="correct the data or the contract's classes",
        )
    return Encoded(encode_features(frame, preprocessing), labels)


def synthetic_example(preprocessing: Preprocessing) -> pd.DataFrame:
    """One made-up record from the constants alone: an input example that is nobody's.

    Args:
        preprocessing: The constants.

    Returns:
        One row of raw feature columns.
    """
    row: dict[str, list[Any]] = {}
    for column in preprocessing.columns:
        if column.kind == "categorical":
            row[column.name] = [column.categories[0] if column.categories else ""]
        else:
            centre = float(np.expm1(column.shift)) if column.transform == "log1p" else column.shift
            row[column.name] = [float(round(centre))]
    return pd.DataFrame(row)
