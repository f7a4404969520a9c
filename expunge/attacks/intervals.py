"""Exact confidence bounds on a probability."""

from scipy.stats import beta

CONFIDENCE = 0.95


def clopper_pearson(
    successes: int, trials: int, failure: float = (1 - CONFIDENCE) / 2
) -> tuple[float, float]:
    """Two bounds on a probability, each of them wrong with at most this probability.

    Formula: quantiles ``Beta(failure; k, n - k + 1)`` and ``Beta(1 - failure; k + 1, n - k)``.

    Reference: Clopper and Pearson (Biometrika, 1934).

    Args:
        successes: k.
        trials: n; with none the bounds are 0 and 1.
        failure: Of one bound, in (0, 0.5).

    Returns:
        ``(low, high)``.

    Example:
        >>> [round(bound, 3) for bound in clopper_pearson(0, 10)]
        [0.0, 0.308]
    """
    low = float(beta.ppf(failure, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.isf(failure, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high
