"""What a membership attack found; everything in it depends on the records that were attacked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from expunge.attacks.roc import Roc, halves, measure_roc
from expunge.attacks.scores import Floats, vector

_WORST = 10


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack on one model.

    Args:
        attack: Its name.
        scores: Of the candidates, the larger the more like members, shape (m,).
        percentiles: Share of the scored non-members at or below each candidate, ties half, shape (m,).
        roc: Candidates against non-members.
        worst: Positions of the candidates that stand out most, the largest score first.
    """

    attack: str
    scores: Floats
    percentiles: Floats
    roc: Roc
    worst: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, to be sealed.

        Returns:
            A JSON-able dict, without the scores of each record.
        """
        return {
            "attack": self.attack,
            "roc": self.roc.to_json(),
            "worst": [{"position": i, "percentile": float(self.percentiles[i])} for i in self.worst],
        }


def attack_result(
    attack: str, candidates: ArrayLike, non_members: ArrayLike, *, seed: int = 0
) -> AttackResult:
    """Judge an attack by its scores; half of the non-members choose thresholds, the other half is scored.

    Args:
        attack: Its name.
        candidates: Scores of the records in question, shape (m,).
        non_members: Scores of records never trained on, shape (n,), at least two.
        seed: Public, of the halves.

    Returns:
        The result.

    Raises:
        InputError: If there are no candidates or non-members, or a score is not a number.
    """
    scores, others = vector(candidates, "scores of candidates"), vector(non_members, "scores of non-members")
    aside, judged = halves(len(others), seed)
    return result_of(attack, scores, others[judged], others[aside])


def result_of(attack: str, candidates: Floats, non_members: Floats, set_aside: Floats) -> AttackResult:
    """Judge an attack by its scores, the non-members already split.

    Args:
        attack: Its name.
        candidates: Shape (m,).
        non_members: To be scored, shape (n,).
        set_aside: Others, for thresholds, shape (k,).

    Returns:
        The result.

    Raises:
        InputError: If there are no candidates or non-members, or a score is not a number.
    """
    roc = measure_roc(candidates, non_members, set_aside)
    ordered = np.sort(non_members)
    below, within = (np.searchsorted(ordered, candidates, side) for side in ("left", "right"))
    worst = np.argsort(-candidates, kind="stable")[:_WORST]
    return AttackResult(
        attack, candidates, (below + within) / (2 * len(ordered)), roc, tuple(int(i) for i in worst)
    )
