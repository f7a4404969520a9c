"""Ids that spelling alone tells apart: rules that a column suggests, and the question to the contract's author."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from expunge.errors import DatasetError
from expunge.subjects import RULES, Identity, Rule, folded, is_padded, kind_of

# What each rule makes equal, in words for a reader.
WORDS: dict[Rule, str] = {
    "trim": "blanks",
    "casefold": "case",
    "nfc": "how accents are encoded",
    "uuid": "how a UUID is written",
    "email": "case or blanks of an e-mail address",
    "phone": "how a phone number is written",
    "integer": "how a whole number is written",
}


def inferred(values: Iterable[str]) -> tuple[Rule, ...]:
    """Rules for what a column looks like: those that only join what is surely one person.

    Args:
        values: The ids of one column, as they came.

    Returns:
        ``trim`` and ``nfc``, and the rule of the kind that every id is of. Zero-padded numbers stay as they are.
    """
    kinds, padded = set[Rule | None](), False
    for value in values:
        kinds.add(kind_of(value))
        padded = padded or is_padded(value)
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None or (kind == "integer" and padded):
        return ("trim", "nfc")
    return ("trim", "nfc", kind)


@dataclass(frozen=True)
class Alike:
    """Ids that differ in their form only.

    Args:
        ids: How many share their folded form with another id.
        people: How many folded forms they have.
        words: In what they differ.
        rules: That would make them one person each.
    """

    ids: int
    people: int
    words: tuple[str, ...]
    rules: tuple[Rule, ...]


def alike(subject_ids: Iterable[str], rules: Sequence[Rule] = (), *, parts: int = 1) -> Alike | None:
    """Which ids are told apart by spelling alone.

    Args:
        subject_ids: Distinct ids.
        rules: That the contract has already, or that the column suggests.
        parts: Number of columns of an id.

    Returns:
        What they are, or None if there are none.
    """
    groups: dict[str, set[str]] = {}
    for one in subject_ids:
        groups.setdefault(folded(one), set()).add(one)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return None

    def joins(rule: Rule) -> bool:
        identity = Identity((rule,), parts)
        return any(len({identity.canonical(one) for one in group}) < len(group) for group in several)

    found = [rule for rule in WORDS if joins(rule)]
    # An e-mail address's case is a case: one word for it is enough.
    told = [rule for rule in found if rule != "email" or not {"trim", "casefold"} & set(found)]
    chosen = {*rules, *found} - {"exact"}
    if "uuid" in chosen or "email" in rules:
        chosen.discard("casefold")
        told = told or found
    whole = Identity(tuple(rule for rule in RULES if rule in chosen), parts)
    rest = any(len({whole.canonical(one) for one in group}) > 1 for group in several)
    if rest:  # what one rule alone does not join, such as large letters with another encoding of accents
        chosen |= {*found, "trim", "casefold", "nfc"}
        whole = Identity(tuple(rule for rule in RULES if rule in chosen), parts)
        rest = any(len({whole.canonical(one) for one in group}) > 1 for group in several)
    words = [WORDS[rule] for rule in told] + (["characters that look alike"] if rest or not told else [])
    return Alike(sum(map(len, several)), len(several), tuple(words), whole.rules or ())


def require_told_apart(found: Alike | None, columns: Sequence[str], *, where: str = "contract.yaml") -> None:
    """Refuse ids that spelling alone tells apart, until the contract says what that means.

    Args:
        found: From :func:`alike`.
        columns: That hold the ids.
        where: The contract to change.

    Raises:
        DatasetError: With counts and forms; no id.
    """
    if found is None:
        return
    column = columns[0] if len(columns) == 1 else f"[{', '.join(columns)}]"
    rules, others = ", ".join(found.rules), ", ".join((*found.rules, "exact"))
    raise DatasetError(
        f"{found.ids:,} ids of column {column} differ only in {' or '.join(found.words)}",
        expected="a contract that says whether they are one person",
        got=f"{found.people:,} groups of such ids, and nothing about them",
        remedy=(
            f"in {where} write `subject: {{column: {column}, normalise: [{rules}]}}` if the ids of a group are "
            f"one person, `normalise: []` if each id is another person"
            + (f", `[{others}]` if these rules join one person and the rest are others" if rules else "")
        ),
    )
