"""The receiver operating characteristic of an attack, with intervals, and thresholds chosen apart from what is scored.

A threshold that is chosen on the records it is judged by flatters the attack (pure noise has a true positive rate
above its false positive rate somewhere). Here every threshold comes from non-members that are then not scored.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from expunge.attacks.intervals import CONFIDENCE, clopper_pearson
from expunge.attacks.scores import Floats, vector
from expunge.errors import InputError

FALSE_POSITIVE_RATES = (0.001, 0.01)
_TINY = 1e-12
_Z = float(norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class OperatingPoint:
    """The attack at one false positive rate.

    Args:
        target: False positive rate that the threshold was chosen for, in expectation at most this.
        threshold: Scores above it are called members; None with too few non-members.
        tpr: Share of members above the threshold; None with too few non-members.
        tpr_low: Lower end of its 95 % interval.
        tpr_high: Upper end.
        fpr: Share of the scored non-members above it: what the threshold did, not what it was chosen for.
        fpr_low: Lower end of its 95 % interval.
        fpr_high: Upper end.
        note: Why there is no number; empty where there is one.
    """

    target: float
    threshold: float | None = None
    tpr: float | None = None
    tpr_low: float | None = None
    tpr_high: float | None = None
    fpr: float | None = None
    fpr_low: float | None = None
    fpr_high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Roc:
    """How well a score tells members from non-members.

    Args:
        fpr: False positive rates of the curve, from 0 to 1.
        tpr: True positive rates, likewise.
        auc: Area under it: P[a member's score is above a non-member's], ties half.
        auc_low: Lower end of its 95 % interval.
        auc_high: Upper end.
        members: Scored members.
        non_members: Scored non-members.
        set_aside: Non-members that thresholds come from; not scored.
        points: At low false positive rates.
    """

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    auc: float
    auc_low: float
    auc_high: float
    members: int
    non_members: int
    set_aside: int
    points: tuple[OperatingPoint, ...] = ()

    @property
    def tells_apart(self) -> bool:
        """Whether the interval excludes 0.5, on either side: forgetting too much shows as well."""
        return self.auc_low > 0.5 or self.auc_high < 0.5

    def at(self, target: float) -> OperatingPoint:
        """The point of a false positive rate.

        Args:
            target: One of those measured.

        Returns:
            The point.

        Raises:
            InputError: If it was not measured.
        """
        for point in self.points:
            if point.target == target:
                return point
        raise InputError(
            "the rate was not measured",
            expected=", ".join(f"{p.target:g}" for p in self.points),
            got=f"{target:g}",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; all of it depends on the members.

        Returns:
            A JSON-able dict.
        """
        return asdict(self)


def halves(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Positions of two halves of a list, drawn publicly: nothing but its length enters.

    Args:
        count: Length.
        seed: Of the draw.

    Returns:
        Positions to set aside, at most half, and positions to score, each in order.

    Example:
        >>> [len(half) for half in halves(5, seed=0)]
        [2, 3]
    """
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def measure_roc(
    members: ArrayLike,
    non_members: ArrayLike,
    set_aside: ArrayLike,
    rates: tuple[float, ...] = FALSE_POSITIVE_RATES,
) -> Roc:
    """Curve, area and low false positive rates of an attack.

    Args:
        members: Scores of members, shape (m,).
        non_members: Scores of non-members to judge by, shape (n,).
        set_aside: Scores of other non-members, which thresholds come from, shape (k,).
        rates: False positive rates, each in (0, 1).

    Returns:
        The characteristic.

    Raises:
        InputError: If there is no member or non-member, or a score is not a number.
    """
    positive, negative = vector(members, "scores of members"), vector(non_members, "scores of non-members")
    aside = vector(set_aside, "scores set aside")
    if not (len(positive) and len(negative)):
        raise InputError("nothing to compare", expected="members and non-members", got="none of one of them")
    auc, low, high = auc_interval(positive, negative)
    fpr, tpr = _curve(positive, negative)
    return Roc(
        fpr=tuple(fpr.tolist()),
        tpr=tuple(tpr.tolist()),
        auc=auc,
        auc_low=low,
        auc_high=high,
        members=len(positive),
        non_members=len(negative),
        set_aside=len(aside),
        points=tuple(_point(rate, positive, negative, aside) for rate in rates),
    )


def auc_interval(positive: Floats, negative: Floats) -> tuple[float, float, float]:
    """Area under the curve with a 95 % interval.

    The wider of two intervals that fail in different places: DeLong's variance assumes nothing of the scores but
    degenerates near complete separation, also on the logit scale; Newcombe's score interval holds there, but takes
    the variance from a model of the scores.

    Reference: DeLong, DeLong and Clarke-Pearson (Biometrics, 1988), by mid-ranks as in Sun and Xu (2014); Newcombe
    (Statistics in Medicine, 2006), method 5.

    Args:
        positive: Scores of members, shape (m,).
        negative: Scores of non-members, shape (n,).

    Returns:
        ``(auc, low, high)``.
    """
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n  # of each member: share of non-members below it
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    auc = float(above.mean())
    low, high = _newcombe(auc, m, n)
    if m > 1 and n > 1 and 0 < auc < 1:
        deviation = math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
        centre, half = math.log(auc / (1 - auc)), _Z * deviation / (auc * (1 - auc))
        low = min(low, _expit(centre - half))
        high = max(high, _expit(centre + half))
    return auc, low, high


def _expit(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _newcombe(auc: float, m: int, n: int) -> tuple[float, float]:
    """Both solutions of ``|auc - t| = z sqrt(V(t))``; V after Hanley and McNeil with equal mean group sizes."""
    mean = (m + n) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + mean * (1 - t) / (2 - t) + mean * t / (1 + t)) / (m * n)
        return (auc - t) ** 2 - _Z**2 * variance

    # at 0 and 1 themselves both sides vanish, which is no solution
    low = 0.0 if auc == 0 else float(brentq(excess, 0.0, min(auc, 1 - _TINY)))
    high = 1.0 if auc == 1 else float(brentq(excess, max(auc, _TINY), 1.0))
    return low, high


def _curve(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Corners of the curve, as many as there are."""
    from sklearn.metrics import roc_curve  # slow to import, and the command line imports this module

    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    ranks = rankdata(np.concatenate([positive, negative]), method="dense")  # also where scores are infinite
    fpr, tpr, _ = roc_curve(labels, ranks)
    return fpr, tpr


def _point(rate: float, positive: Floats, negative: Floats, aside: Floats) -> OperatingPoint:
    """A new non-member is above the k-th largest of n others with probability at most k / (n + 1)."""
    if len(negative) < 1 / rate or math.floor(rate * (len(aside) + 1) + 1e-9) < 1:
        few = min(len(negative), len(aside))
        return OperatingPoint(rate, note=f"too few non-members: {few} a half, at least {math.ceil(1 / rate)}")
    allowed = math.floor(rate * (len(aside) + 1) + 1e-9)
    threshold = float(np.partition(aside, -allowed)[-allowed])
    hits, alarms = int((positive > threshold).sum()), int((negative > threshold).sum())
    tpr_low, tpr_high = clopper_pearson(hits, len(positive))
    fpr_low, fpr_high = clopper_pearson(alarms, len(negative))
    return OperatingPoint(
        rate,
        threshold,
        hits / len(positive),
        tpr_low,
        tpr_high,
        alarms / len(negative),
        fpr_low,
        fpr_high,
    )
