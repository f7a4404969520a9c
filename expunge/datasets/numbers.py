"""Numbers as programs write them: decimal points or commas, separators of thousands, true and false.

Nothing is guessed: what can be read in two ways is refused until the contract says which (``files: {decimal: ...}``).
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd

Decimal = Literal[".", ","]
_GROUP = " '’\u00a0\u202f"  # apostrophes and blanks part thousands in both forms
_COMMAS, _POINTS = (re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:\{mark}\d{{3}})+") for mark in ",.")
_DECIMAL_COMMA, _DECIMAL_POINT = (
    re.compile(rf"[+-]?\d[\d{_GROUP}\{group}]*\{mark}\d+(?:[eE][+-]?\d+)?")
    for mark, group in ((",", "."), (".", ","))
)
_TRUTH = {"true": 1.0, "false": 0.0}
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?")
_SHOWN = 3


def decimal_marks(texts: Iterable[str]) -> set[Decimal]:
    """Which marks of a decimal fraction these numbers can only have been written with.

    Args:
        texts: Cells of number columns.

    Returns:
        Both where two programs wrote them; none where every cell can be read in either way.

    Example:
        >>> decimal_marks(["53,2", "1.234"]), decimal_marks(["1,234"])
        ({','}, set())
    """
    marks: set[Decimal] = set()
    for text in map(str.strip, texts):
        commas, points = _COMMAS.fullmatch(text), _POINTS.fullmatch(text)  # maybe thousands
        if (_DECIMAL_COMMA.fullmatch(text) and not commas) or (points and text.count(".") > 1):
            marks.add(",")
        elif (_DECIMAL_POINT.fullmatch(text) and not points) or (commas and text.count(",") > 1):
            marks.add(".")
    return marks


def number(text: str, decimal: Decimal) -> float | None:
    """One cell as a number.

    Args:
        text: The cell.
        decimal: The mark of its fraction; the other one parts thousands.

    Returns:
        The number, or None if it is none.

    Example:
        >>> number("1.234,5", ","), number("1.5", ","), number("1'234", ".")
        (1234.5, None, 1234.0)
    """
    text = text.strip()
    whole, mark, fraction = text.partition(decimal)
    thousands = "." if decimal == "," else ","
    grouped = re.fullmatch(rf"([+-]?\d{{1,3}})((?:[{_GROUP}{thousands}]\d{{3}})+)", whole)
    if grouped:
        whole = re.sub(rf"[{_GROUP}{thousands}]", "", whole)
    elif thousands in whole or any(mark in whole for mark in _GROUP):
        return None
    plain = f"{whole}.{fraction}" if mark else whole
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", plain):
        return None
    return float(plain)


def as_numbers(values: "pd.Series[Any]", decimal: Decimal) -> "pd.Series[Any]":
    """A column of text as numbers; cells that are none stay as they are.

    Args:
        values: Text, missing where empty.
        decimal: The mark of a fraction.

    Returns:
        Numbers, with true as 1 and false as 0 where the column holds nothing else.
    """
    distinct = [one for one in values.dropna().unique() if isinstance(one, str)]
    read: dict[str, Any]
    if distinct and {one.strip().casefold() for one in distinct} <= set(_TRUTH):
        read = {one: _TRUTH[one.strip().casefold()] for one in distinct}
    else:
        read = {
            one: found if (found := number(one, decimal)) is not None else one
            for one in distinct
            if one.strip()
        }
    made = values.astype(object).map(lambda cell: read.get(cell, cell) if isinstance(cell, str) else cell)
    if all(not isinstance(one, str) for one in read.values()):
        return (
            pd.to_numeric(made, errors="coerce") if not made.map(lambda c: isinstance(c, str)).any() else made
        )
    return made


def no_numbers(values: "pd.Series[Any]") -> str:
    """Describe cells that are no numbers, without showing one: their shape, with 9 for digits and a for letters.

    Args:
        values: The cells.

    Returns:
        In words, with what to do.

    Example:
        >>> no_numbers(pd.Series(["12 kg", "70 kg"]))
        'of the form 99 aa'
    """
    texts = [str(one).strip() for one in values.drop_duplicates().iloc[:1000]]
    if texts and all(_DATE.fullmatch(one) for one in texts):
        return DATES
    if texts and {one.casefold() for one in texts} <= {"yes", "no", "y", "n", "true", "false", "t", "f"}:
        return "but yes or no: write `kind: categorical`"
    shapes = list(dict.fromkeys(re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", one))[:20] for one in texts))
    more = " and others" if len(shapes) > _SHOWN else ""
    return f"of the form {', '.join(shapes[:_SHOWN])}{more}"


DATES = (
    "but dates, which no feature can be: leave the column out, or bring a number (days since a public day) or a "
    "category (the month) instead"
)
