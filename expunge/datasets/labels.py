"""Labels as files write them, and the classes that the contract names."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd

from expunge.datasets.people import as_text

_SHOWN, _WIDTH, _MOST = 8, 24, 20
NO_REGRESSION = (
    "Expunge removes people from classifiers; a label that is a measured number (regression) is not supported: "
    "group it into classes, such as low and high"
)


def _form(label: str) -> str:
    """One form of a label that programs write as 1 or 1.0, true or True."""
    text = label.strip()
    if re.fullmatch(r"[+-]?\d+\.0+", text):
        return text.partition(".")[0]
    return text.casefold() if text.casefold() in ("true", "false") else text


def as_classes(values: "pd.Series[Any]", classes: Sequence[str]) -> "pd.Series[Any]":
    """Labels as the contract writes its classes, where they differ only in 1.0 for 1, True for true, or blanks around.

    Args:
        values: The label column.
        classes: Of the contract.

    Returns:
        Text; labels that fit no class as they are, and None where empty.
    """
    text, forms = as_text(values), [_form(one) for one in classes]
    if text.isin(classes).all() or len(set(forms)) != len(forms):
        return text
    known = {**dict(zip(forms, classes, strict=True)), **{one: one for one in classes}}
    fitting = {one: known.get(one, known.get(_form(one), one)) for one in text.dropna().unique()}
    return text.map(fitting).astype(object).where(text.notna(), None)


def outside(labels: "pd.Series[Any]", classes: Sequence[str], secret: Collection[str]) -> str:
    """Name what the label column holds besides the classes: values, or how many if they may be anything.

    Args:
        labels: As :func:`as_classes` gives them.
        classes: Of the contract.
        secret: Ids of people: never shown.

    Returns:
        In words.
    """
    wrong = labels[~labels.isin(classes)]
    counts = wrong.dropna().value_counts()
    if len(counts) > _MOST and counts.index.map(lambda one: bool(re.fullmatch(r"[+-]?\d*\.?\d+", one))).all():
        return f"(it holds {len(counts)} different numbers; {NO_REGRESSION})"
    parts = []
    if len(counts) > _MOST:
        parts = [f"{len(counts)} different values"]
    elif len(counts):
        named = [(one, n) for one, n in counts.items() if str(one) not in secret]
        parts = [f"{str(one)[:_WIDTH]!r} in {n}" for one, n in named[:_SHOWN]]
        parts += [f"{left} other values"] if (left := len(counts) - len(parts)) else []
    if empty := int(wrong.isna().sum()):
        parts.append(f"nothing in {empty}")
    return f"(it holds {', '.join(parts)}; the classes are {', '.join(classes[:_MOST])})"
