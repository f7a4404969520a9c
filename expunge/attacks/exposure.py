"""What an unlearning does to those who stay: whose record became easier to tell, and by how much."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from expunge.attacks.intervals import CONFIDENCE
from expunge.attacks.scores import vector
from expunge.errors import InputError

_QUANTILES = (0.01, 0.5, 0.99)
_WORST = 10


@dataclass(frozen=True)
class Exposure:
    """Change of per-record scores between two models.

    Args:
        records: How many retained records.
        mean_change: Mean of after minus before, in units of the score.
        mean_low: Lower end of its 95 % interval.
        mean_high: Upper end.
        quantiles: Of the changes: 1 %, median, 99 %.
        raised: Share of records whose score rose.
        worst: ``(position, change)`` of the largest rises, the largest first; names are the caller's.
    """

    records: int
    mean_change: float
    mean_low: float
    mean_high: float
    quantiles: tuple[float, ...]
    raised: float
    worst: tuple[tuple[int, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, to be sealed.

        Returns:
            A JSON-able dict.
        """
        return asdict(self)


def exposure_change(before: ArrayLike, after: ArrayLike) -> Exposure:
    """Compare what an attack says of retained records before and after an unlearning.

    Formula: paired differences; the interval is Student's.

    Reference: Carlini et al., "The privacy onion effect" (NeurIPS 2022): removing some exposes others.

    Args:
        before: Scores under the parent, shape (n,).
        after: Scores of the same records under the child, shape (n,).

    Returns:
        The change.

    Raises:
        InputError: If there are fewer than two records, or not as many on both sides.
    """
    old, new = vector(before, "scores before"), vector(after, "scores after")
    if len(old) != len(new) or len(old) < 2:
        raise InputError(
            "scores do not fit", expected="two records or more, the same before and after",
            got=f"{len(old)} and {len(new)}",
        )  # fmt: skip
    change = new - old
    mean, n = float(change.mean()), len(change)
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * change.std(ddof=1) / np.sqrt(n))
    order = np.argsort(-change, kind="stable")[:_WORST]
    return Exposure(
        records=n,
        mean_change=mean,
        mean_low=mean - half,
        mean_high=mean + half,
        quantiles=tuple(float(q) for q in np.quantile(change, _QUANTILES)),
        raised=float((change > 0).mean()),
        worst=tuple((int(i), float(change[i])) for i in order),
    )
