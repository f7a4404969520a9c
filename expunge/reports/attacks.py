"""What attacks found, from an opened annex: for the auditor, in words and as rows of a table."""

from collections.abc import Mapping
from typing import Any


def attack_lines(attacks: Mapping[str, Any] | None) -> list[str]:
    """How to read the figures.

    Args:
        attacks: Of an opened annex; None where it has none.

    Returns:
        Sentences.
    """
    if attacks is None:
        return ["No attack is recorded: the release is of an earlier version of Expunge."]
    if not attacks.get("attacked"):
        return [f"No attack was made: {attacks.get('why', 'no reason is given')}."]
    said = [
        f"An alarm: AUC at least {attacks['margin']:g} from 0.5 and a p-value of at most {attacks['level']:.2g}. "
        "An AUC of 0.5 is a coin's; near 0 people are told as well as near 1.",
        "The parent was trained on these people: what the attack finds there is what it can find at all.",
    ]
    if not attacks["enforced"]:
        said.append(
            "The release was retrained, so that no alarm stops it: then these people are unlike the others."
        )
    return said


def attack_rows(attacks: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    """One row an attack.

    Args:
        attacks: As above.

    Returns:
        ``(attack, people, never trained, AUC, p-value, alarm)``.
    """
    if attacks is None or not attacks.get("attacked"):
        return []
    found = dict(attacks["gates"])
    found["the parent, for comparison"] = attacks["parent"]
    if attacks["retained"] is not None:
        found["people who stay, for comparison"] = attacks["retained"]
    return [
        (
            name,
            str(one["people"]),
            str(one["others"]),
            f"{one['auc']:.3f}",
            f"{one['p_value']:.3g}",
            {True: "yes", False: "no"}.get(one.get("alarm"), ""),
        )
        for name, one in found.items()
    ]
