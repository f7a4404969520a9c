"""Lower confidence bounds on epsilon from samples: what an attack can prove against a claimed guarantee."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

_THRESHOLDS = 200
_FEWEST = 10  # samples above a threshold that is considered


def clopper_pearson(successes: int, trials: int, failure: float) -> tuple[float, float]:
    """Two bounds on a probability, each wrong with at most this probability."""
    low = float(beta.ppf(failure, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.isf(failure, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def epsilon_lower_bound(
    mechanism: ArrayLike, reference: ArrayLike, delta: float, *, failure: float = 1e-6
) -> float:
    """Epsilon is at least this at delta, but for the failure probability.

    The event (side, tail and threshold) is chosen on the first half of the samples and judged on the second, so that
    the search over thresholds needs no correction: ``P <= e^epsilon Q + delta`` must hold for the chosen event.
    """
    halves = [np.array_split(np.asarray(s, dtype=float).ravel(), 2) for s in (mechanism, reference)]
    best, chosen = -math.inf, None
    for swapped in (False, True):
        p, q = (halves[1], halves[0]) if swapped else (halves[0], halves[1])
        for sign in (1.0, -1.0):
            for threshold in np.unique(
                np.quantile(sign * np.concatenate([p[0], q[0]]), np.linspace(0, 1, _THRESHOLDS))
            ):
                above, under = int((sign * p[0] >= threshold).sum()), int((sign * q[0] >= threshold).sum())
                low, high = (
                    clopper_pearson(above, len(p[0]), 0.01)[0],
                    clopper_pearson(under, len(q[0]), 0.01)[1],
                )
                if above >= _FEWEST and low > delta and math.log((low - delta) / high) > best:
                    best, chosen = math.log((low - delta) / high), (swapped, sign, threshold)
    if chosen is None:
        return 0.0
    swapped, sign, threshold = chosen
    p, q = (halves[1][1], halves[0][1]) if swapped else (halves[0][1], halves[1][1])
    low = clopper_pearson(int((sign * p >= threshold).sum()), len(p), failure / 2)[0]
    high = clopper_pearson(int((sign * q >= threshold).sum()), len(q), failure / 2)[1]
    return max(0.0, math.log((low - delta) / high)) if low > delta else 0.0
