"""Lower confidence bounds on epsilon: what an attack can prove against a claimed guarantee.

From many runs of mechanism and reference, or from one run with canaries that a coin put in or left out. Neither is an
estimate of epsilon: a bound of 0 proves nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom

from expunge.attacks.intervals import CONFIDENCE, clopper_pearson
from expunge.attacks.scores import Floats
from expunge.errors import InputError

_THRESHOLDS = 200
_FEWEST = 10  # samples above a threshold that is considered
_STEP = 0.01  # of the epsilons that are tried for one run
_LARGEST = 20.0
_PARTS = 100  # of them, one after another: most are never needed


def epsilon_from_rates(
    true_positives: int, positives: int, false_positives: int, negatives: int, delta: float, *, failure: float
) -> float:
    """Epsilon is at least this at delta, for a threshold that was fixed beforehand.

    Formula: ``log((TPR_low - delta) / FPR_high)`` and ``log((TNR_low - delta) / FNR_high)``, the larger; one-sided
    Clopper-Pearson bounds, four in all, each failing with a quarter of the probability.

    Reference: Jagielski, Ullman and Oprea, "Auditing differentially private machine learning" (NeurIPS 2020); Nasr et
    al. (S&P 2021).

    Args:
        true_positives: Runs of the mechanism whose score was above the threshold.
        positives: Runs of the mechanism.
        false_positives: Runs of the reference above it.
        negatives: Runs of the reference.
        delta: At which epsilon is stated.
        failure: Probability that the bound is wrong.

    Returns:
        At least 0.

    Example:
        >>> round(epsilon_from_rates(1000, 1000, 0, 1000, 0.0, failure=0.05), 2)
        5.43
    """
    tpr = clopper_pearson(true_positives, positives, failure / 4)
    fpr = clopper_pearson(false_positives, negatives, failure / 4)
    bounds = [0.0]
    for low, high in ((tpr[0], fpr[1]), (1 - fpr[1], 1 - tpr[0])):
        if low > delta and high > 0:
            bounds.append(math.log((low - delta) / high))
    return max(bounds)


def epsilon_lower_bound(
    mechanism: ArrayLike, reference: ArrayLike, delta: float, *, failure: float = 1e-6
) -> float:
    """Epsilon is at least this at delta, but for the failure probability.

    The event (side, tail and threshold) is chosen on the first half of the samples and judged on the second, so that
    the search over thresholds needs no correction: ``P <= e^epsilon Q + delta`` must hold for the chosen event.

    Args:
        mechanism: The attacker's score of each run of the mechanism, independent of one another, shape (n,).
        reference: Of each run of the reference, shape (m,).
        delta: At which epsilon is stated.
        failure: Probability that the bound is wrong.

    Returns:
        At least 0.
    """
    samples = [np.asarray(s, dtype=np.float64).ravel() for s in (mechanism, reference)]
    first, second = [s[: len(s) // 2] for s in samples], [s[len(s) // 2 :] for s in samples]
    best, chosen = -math.inf, None
    for swapped in (False, True):
        for sign in (1.0, -1.0):
            p, q = (sign * half for half in (first[::-1] if swapped else first))
            thresholds = np.unique(np.quantile(np.concatenate([p, q]), np.linspace(0, 1, _THRESHOLDS)))
            bounds = _log_ratios(p, q, thresholds, delta, 0.01)
            if bounds.max() > best:
                best, chosen = float(bounds.max()), (swapped, sign, thresholds[bounds.argmax()])
    if chosen is None:
        return 0.0
    swapped, sign, threshold = chosen
    p, q = (sign * half for half in (second[::-1] if swapped else second))
    return max(0.0, float(_log_ratios(p, q, np.array([threshold]), delta, failure / 2, fewest=0)[0]))


def _log_ratios(
    p: Floats, q: Floats, thresholds: Floats, delta: float, failure: float, fewest: int = _FEWEST
) -> Floats:
    """``log((P - delta) / Q)`` of each threshold, at the ends of Clopper-Pearson bounds that make it least."""
    above, under = (len(s) - np.searchsorted(np.sort(s), thresholds) for s in (p, q))
    with np.errstate(invalid="ignore", divide="ignore"):
        low = np.where(above > 0, beta.ppf(failure, above, len(p) - above + 1), 0.0)
        high = np.where(under < len(q), beta.isf(failure, under + 1, len(q) - under), 1.0)
        found = np.log((low - delta) / high)
    return np.asarray(np.where((above >= fewest) & (low > delta), found, -np.inf), dtype=np.float64)


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: ArrayLike, delta: float) -> Floats:
    """How likely so many right guesses are at most, were the process (epsilon, delta)-private.

    Formula: with ``W ~ Binomial(r, e^epsilon / (1 + e^epsilon))``,
    ``P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i`` over i from 1 to m.

    Reference: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run" (NeurIPS 2023), theorem 5.2
    and appendix D.

    Args:
        canaries: m, records that a fair coin of their own put in or left out.
        guesses: r, canaries that the attacker did not abstain from.
        correct: v, right guesses.
        epsilon: Those to judge, shape (k,).
        delta: At which they are stated.

    Returns:
        Shape (k,), at most 1.

    Raises:
        InputError: If ``0 <= v <= r <= m`` does not hold.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise InputError(
            "invalid guesses", expected="0 <= correct <= guesses <= canaries",
            got=f"{correct}, {guesses}, {canaries}",
        )  # fmt: skip
    accuracy = 1 / (1 + np.exp(-np.atleast_1d(np.asarray(epsilon, dtype=np.float64))))
    tail = binom.sf(correct - 1, guesses, accuracy)
    if delta == 0 or correct == 0:
        return np.asarray(np.minimum(1.0, tail), dtype=np.float64)
    steps = np.arange(1, correct + 1)
    below = np.cumsum(binom.pmf(correct - steps[:, None], guesses, accuracy[None]), axis=0)
    slope = (below / steps[:, None]).max(axis=0)
    return np.asarray(np.minimum(1.0, tail + 2 * canaries * delta * slope), dtype=np.float64)


def one_run_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, *, failure: float = 1 - CONFIDENCE
) -> float:
    """Epsilon is at least this at delta, from one run with randomised canaries.

    Epsilons are rejected upwards from 0 on a fixed grid until one is not, so that no search needs a correction: were
    the bound above the true epsilon, the grid's next epsilon above the truth would have been rejected, and privacy at
    the truth is privacy there.

    Args:
        canaries: m.
        guesses: r.
        correct: v.
        delta: At which epsilon is stated.
        failure: Probability that the bound is wrong.

    Returns:
        At least 0, at most 20.

    Raises:
        InputError: If ``0 <= v <= r <= m`` does not hold.

    Example:
        >>> round(one_run_epsilon(100, 100, 100, 0.0), 2)
        3.49
    """
    grid = np.arange(0, _LARGEST + _STEP / 2, _STEP)
    count = 0
    for part in np.array_split(grid, _PARTS):
        rejected = one_run_p_value(canaries, guesses, correct, part, delta) < failure
        count += len(part) if rejected.all() else int(rejected.argmin())
        if not rejected.all():
            break
    return float(grid[count - 1]) if count else 0.0


@dataclass(frozen=True)
class EmpiricalEpsilon:
    """What an attack has proved of epsilon, beside what is certified.

    Args:
        lower: Epsilon is at least this.
        delta: At this delta.
        confidence: With this probability.
        method: How it was bounded, in words.
        certified: What the certificate states at no smaller delta; None where it states nothing.
    """

    lower: float
    delta: float
    confidence: float
    method: str
    certified: float | None = None

    @property
    def contradicts(self) -> bool:
        """Whether the certificate is refuted."""
        return contradicts(self.certified, self.lower)


def contradicts(certified_epsilon: float | None, lower: float) -> bool:
    """Whether a lower bound refutes a certificate; both at one delta.

    Args:
        certified_epsilon: What is claimed; None where nothing is.
        lower: What was proved.

    Returns:
        True if the claim is below what was proved.

    Example:
        >>> contradicts(0.5, 1.2), contradicts(None, 9.0)
        (True, False)
    """
    return certified_epsilon is not None and lower > certified_epsilon
