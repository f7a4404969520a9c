"""Rows that lie in a model's own parts: frozen tensors, initial weights, numbers that are written in code.

No batch changes these parts, so a person whose row lies there stays in the model. Found is what equals a row to the
last digit of single or double precision, as it is in the dataset or as the model sees it, rows or columns of a matrix
alike. A row that was scaled, rounded or mixed with others is not.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from expunge.datasets.contract import DatasetContract
from expunge.datasets.preprocessing import Preprocessing, encode_features
from expunge.errors import CertificateRefusedError, DatasetError
from expunge.models.own_code import numbers_of
from expunge.models.parts import Parts
from expunge.residue.embedded import Embedded, embeddings

View = tuple[list[str], NDArray[np.float64]]
_ROWS = 50_000  # at a time


def row_views(
    frame: pd.DataFrame, contract: DatasetContract, preprocessing: Preprocessing | None
) -> list[View]:
    """How rows look as numbers: as they are, and as a model sees them.

    Args:
        frame: The rows.
        contract: Of the dataset.
        preprocessing: Of the model, if there is one.

    Returns:
        Which columns count, and the numbers made of them.
    """
    numeric = [rule.name for rule in contract.columns if rule.kind == "numeric"]
    views: list[View] = [(numeric, frame[numeric].to_numpy(dtype="float64", na_value=np.nan))]
    if preprocessing is not None:
        try:
            encoded = encode_features(frame, preprocessing)
        except DatasetError:  # of another contract: no such row was ever encoded
            return views
        views.append(([rule.name for rule in contract.columns], encoded))
    return views


def refuse_rows(
    parts: Parts,
    hyperparameters: Mapping[str, Any],
    frame: pd.DataFrame,
    contract: DatasetContract,
    preprocessing: Preprocessing,
) -> None:
    """Refuse a model whose own parts hold a row of the dataset.

    Args:
        parts: Of the model; those of the catalogue come from the seed alone.
        hyperparameters: That its factory gets.
        frame: All rows of the dataset.
        contract: Of the dataset.
        preprocessing: Of the model.

    Raises:
        CertificateRefusedError: If a part holds a row.
    """
    if not parts.code:
        return
    contents = list(_contents(parts, hyperparameters))
    for start in range(0, len(frame), _ROWS):
        part, key = frame.iloc[start : start + _ROWS], os.urandom(32)
        scanner = Embedded(embeddings(part, row_views(part, contract, preprocessing), key), key)
        held = sorted({name for name, content in contents if scanner.find(content)})
        if held:
            raise CertificateRefusedError(
                "the model holds rows of the dataset in parts that unlearning does not change",
                expected="code, frozen tensors and initial weights that no record has shaped",
                got=", ".join(held[:4]),
                remedy="make them from public data or from the seed",
            )


def _contents(parts: Parts, hyperparameters: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for name, source in parts.code.items():
        yield from _forms(name, np.array(numbers_of(source)))
    yield from _forms("model.hyperparameters of params.yaml", np.array(list(_numbers(hyperparameters))))
    tensors = {**(parts.frozen or {}), **({} if parts.origin is None else {"initial weights": parts.origin})}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        yield from _forms(name, values)
        if values.ndim > 1:
            yield from _forms(name, values.reshape(len(values), -1).T)


def _forms(name: str, values: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """As it is, and in single precision: doubles may have been singles before."""
    yield name, np.ascontiguousarray(values).tobytes()
    if values.dtype != np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            yield name, np.ascontiguousarray(values, dtype=np.float32).tobytes()


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(_numbers(part) for part in value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
