"""Whose rows they are: ids out of raw columns, what is wrong with them, and the contract's decision on spellings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from expunge.datasets.alike import Alike, alike, inferred
from expunge.subjects import (
    RULES,
    Identity,
    Rule,
    is_blank,
    join_parts,
    kind_of,
    left_by_programs,
    scientific,
    split_parts,
)

if TYPE_CHECKING:
    from expunge.datasets.contract import DatasetContract

_EXACT = 2**53  # above it floating point does not tell whole numbers apart


def as_text(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """As text, None where empty; whole numbers that a file keeps as 7.0 because of an empty cell become 7.

    Args:
        values: One column.

    Returns:
        Objects: text or None.
    """
    if pd.api.types.is_float_dtype(values) and bool((values.dropna() % 1 == 0).all()):
        values = values.astype("Int64")
    objects = values.astype(object).where(values.notna(), None)
    return (
        objects
        if isinstance(values.dtype, pd.StringDtype)
        else objects.map(lambda v: v if v is None else str(v))
    )


def ids_of(raw: pd.DataFrame, columns: Sequence[str], identity: Identity) -> "pd.Series[Any]":
    """The ids of raw rows in their one form; None where a part is empty.

    Args:
        raw: The rows, with these columns.
        columns: That make up an id.
        identity: Which spellings are one person.

    Returns:
        Text or None.
    """
    parts = [as_text(raw[name]) for name in columns]
    joined = parts[0]
    if len(parts) > 1:
        joined = pd.Series(
            [None if None in row else join_parts(row) for row in zip(*parts, strict=True)],
            index=raw.index,
            dtype=object,
        )
    if identity.strict:
        return joined
    forms = {one: identity.canonical(one) for one in joined.dropna().unique()}
    return joined.map(forms).astype(object).where(joined.notna(), None)


def id_faults(raw: pd.DataFrame, columns: Sequence[str], rules: Sequence[Rule]) -> list[str]:
    """What is wrong with raw ids; messages name columns and counts, never an id.

    Args:
        raw: The rows, with these columns.
        columns: That make up an id.
        rules: How spellings are read.

    Returns:
        Faults in words.
    """
    faults = []
    for name in columns:
        values = raw[name]
        whole_numbers = pd.api.types.is_float_dtype(values)
        text = as_text(values)
        distinct = text.dropna().unique()
        read_as_numbers = "integer" in rules or all(
            kind_of(one) == "integer" or scientific(one) for one in distinct
        )

        def count(bad: "pd.Series[bool]", what: str, name: str = name) -> None:
            if rows := int(bad.sum()):
                faults.append(f"column {name} has {rows} rows {what}")

        def such(chosen: Any, text: "pd.Series[Any]" = text, distinct: Any = distinct) -> "pd.Series[bool]":
            return text.isin([one for one in distinct if chosen(one)])

        count(text.isna() | such(is_blank), "without a person")
        count(
            such(left_by_programs),
            "whose id is what a program writes for an empty cell (nan, NaT): leave the cell empty, or drop the rows",
        )
        if len(distinct) and {one.strip().casefold() for one in distinct} <= {"true", "false"}:
            faults.append(f"column {name} holds true and false, which name nobody")
        elif whole_numbers:
            count(
                values.abs() >= _EXACT,
                "whose id is a number of 16 or more digits kept as floating point: digits are lost, export it as text",
            )
        elif read_as_numbers:
            count(
                such(scientific),
                "whose id is a number in scientific notation: digits may be lost, export it as text",
            )
    return faults


def decided(raw: pd.DataFrame, contract: "DatasetContract") -> tuple["DatasetContract", Alike | None]:
    """The contract with rules for spellings, and the ids that are still told apart by spelling alone.

    Args:
        raw: A whole dataset's rows.
        contract: Where it names no rules, those are taken that its columns look like.

    Returns:
        The contract, and what to ask its author about, if anything.
    """
    rule = contract.subject
    if rule is None or not set(rule.columns) <= set(raw.columns):
        return contract, None
    if rule.normalise is not None:
        return contract, told_apart(ids_of(raw, rule.columns, rule.identity), rule.identity)
    joined = ids_of(raw, rule.columns, Identity()).dropna().unique()
    parts = list(zip(*map(split_parts if len(rule.columns) > 1 else _whole, joined), strict=True))
    kinds = {one for part in parts for one in inferred(part)}
    # A rule is for every part: "007" of another column must not become 7.
    if any(
        "integer" not in inferred(part) and any(kind_of(one) == "integer" for one in part) for part in parts
    ):
        kinds.discard("integer")
    rules = tuple(one for one in RULES if one in kinds)
    made = contract.model_copy(update={"subject": rule.model_copy(update={"normalise": rules})})
    return made, alike(joined, rules, parts=len(rule.columns))


def _whole(subject_id: str) -> list[str]:
    return [subject_id]


def told_apart(ids: "pd.Series[Any]", identity: Identity) -> Alike | None:
    """Ids that spelling alone tells apart, unless the contract says that they are other people.

    Args:
        ids: In their one form.
        identity: The contract's.

    Returns:
        What they are, or None.
    """
    if identity.settled:
        return None
    return alike(ids.dropna().unique(), identity.rules or (), parts=identity.parts)
