"""The Gaussian mechanism, exactly.

Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy" (ICML 2018), Theorem 8: releasing
``w + N(0, sigma^2 I)`` where the two processes' noiseless weights lie within ``l2_sensitivity`` is
(epsilon, delta)-indistinguishable if and, in the worst case, only if

    delta >= Phi(m/2 - epsilon/m) - e^epsilon Phi(-m/2 - epsilon/m),     m = l2_sensitivity / sigma.

``m`` is the Gaussian-DP parameter (Dong, Roth and Su 2022). Every inverse here rounds to the safe side: a stated
epsilon or delta is never below the true one.
"""

import math

from scipy.special import log_ndtr

from expunge.errors import InputError

_BISECTIONS = 200


def _require(condition: bool, name: str, expected: str, got: float) -> None:
    if not condition:
        raise InputError(f"invalid {name}", expected=expected, got=repr(got), remedy="correct the value")


def gaussian_delta(epsilon: float, m: float) -> float:
    """Smallest delta at which the Gaussian mechanism with parameter m is (epsilon, delta)-indistinguishable.

    Formula: ``Phi(m/2 - epsilon/m) - e^epsilon Phi(-m/2 - epsilon/m)`` (Balle and Wang 2018, Theorem 8).

    Args:
        epsilon: At least 0, in nats.
        m: Sensitivity over noise scale, at least 0; 0 means identical distributions.

    Returns:
        A probability in [0, 1].

    Raises:
        InputError: If an argument is negative or not a number.

    Example:
        >>> round(gaussian_delta(1.0, 0.26805), 8)
        1e-05
    """
    _require(epsilon >= 0, "epsilon", "a number >= 0", epsilon)
    _require(m >= 0, "m", "a number >= 0", m)
    if m == 0 or epsilon == math.inf:
        return 0.0
    if m == math.inf:
        return 1.0
    first = float(log_ndtr(m / 2 - epsilon / m))
    second = epsilon + float(log_ndtr(-m / 2 - epsilon / m))
    if second >= first:  # only through rounding: the exact difference is positive
        return 0.0
    return math.exp(first) * -math.expm1(second - first)


def gaussian_epsilon(delta: float, m: float) -> float:
    """Smallest epsilon that the Gaussian mechanism with parameter m grants at delta, rounded up.

    The inverse of :func:`gaussian_delta` in epsilon, by bisection on a bracket grown by doubling.

    Args:
        delta: In (0, 1).
        m: Sensitivity over noise scale, at least 0.

    Returns:
        Epsilon in nats; 0 where ``gaussian_delta(0, m) <= delta``; infinity for infinite m.

    Raises:
        InputError: If delta is outside (0, 1) or m is negative.

    Example:
        >>> round(gaussian_epsilon(1e-5, 0.26805), 4)
        1.0
    """
    _require(0 < delta < 1, "delta", "a number in (0, 1)", delta)
    _require(m >= 0, "m", "a number >= 0", m)
    if m == math.inf:
        return math.inf
    if gaussian_delta(0.0, m) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, m) > delta:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if gaussian_delta(middle, m) > delta:
            low = middle
        else:
            high = middle
    return high


def gaussian_m(epsilon: float, delta: float) -> float:
    """Largest m = sensitivity / sigma that is (epsilon, delta)-indistinguishable, rounded down.

    Args:
        epsilon: At least 0, in nats.
        delta: In (0, 1).

    Returns:
        The Gaussian-DP parameter m > 0; ``sigma = l2_sensitivity / m`` and ``l2_sensitivity = m * sigma``.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> round(gaussian_m(1.0, 1e-5), 5)
        0.26805
    """
    _require(0 <= epsilon < math.inf, "epsilon", "a finite number >= 0", epsilon)
    _require(0 < delta < 1, "delta", "a number in (0, 1)", delta)
    low, high = 0.0, 1.0
    while gaussian_delta(epsilon, high) <= delta:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if gaussian_delta(epsilon, middle) <= delta:
            low = middle
        else:
            high = middle
    return low


def calibrate_sigma(l2_sensitivity: float, epsilon: float, delta: float) -> float:
    """Smallest noise scale that makes a release with this sensitivity (epsilon, delta)-indistinguishable.

    Formula: ``sigma = l2_sensitivity / gaussian_m(epsilon, delta)``.

    Args:
        l2_sensitivity: Bound on the distance of the noiseless weights, at least 0, in weight units.
        epsilon: At least 0, in nats.
        delta: In (0, 1).

    Returns:
        Sigma, per coordinate, in weight units.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> round(calibrate_sigma(40.0, 1.0, 1e-5))
        149
    """
    _require(0 <= l2_sensitivity < math.inf, "l2_sensitivity", "a finite number >= 0", l2_sensitivity)
    m = gaussian_m(epsilon, delta)
    sigma = l2_sensitivity / m
    while sigma > 0 and l2_sensitivity / sigma > m:  # the quotient is what is stated: round to the safe side
        sigma = math.nextafter(sigma, math.inf)
    return sigma


def admitted_sensitivity(sigma: float, epsilon: float, delta: float) -> float:
    """Largest distance of the noiseless weights that this noise hides at (epsilon, delta), rounded down.

    Formula: ``gaussian_m(epsilon, delta) * sigma``, so rounded that the quotient by sigma is not above that m.

    Args:
        sigma: Noise scale, at least 0, in weight units.
        epsilon: At least 0, in nats.
        delta: In (0, 1).

    Returns:
        The l2 sensitivity, in weight units; the inverse of :func:`calibrate_sigma`.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> round(admitted_sensitivity(149.2, 1.0, 1e-5))
        40
    """
    _require(0 <= sigma < math.inf, "sigma", "a finite number >= 0", sigma)
    m = gaussian_m(epsilon, delta)
    sensitivity = m * sigma
    while sensitivity > 0 and sensitivity / sigma > m:
        sensitivity = math.nextafter(sensitivity, 0.0)
    return sensitivity


def classical_sigma(l2_sensitivity: float, epsilon: float, delta: float) -> float | None:
    """The classical noise scale, for comparison only, or None where its theorem does not apply.

    Formula: ``(l2_sensitivity / epsilon) sqrt(2 ln(1.25 / delta))`` (Dwork and Roth 2014, Theorem A.1), valid for
    ``0 < epsilon <= 1``. Above that it is not merely loose: it can understate the noise that is needed.

    Args:
        l2_sensitivity: At least 0, in weight units.
        epsilon: In nats.
        delta: In (0, 1).

    Returns:
        Sigma in weight units, or None ("not applicable") for epsilon outside (0, 1].

    Raises:
        InputError: If delta or the sensitivity is out of range.

    Example:
        >>> classical_sigma(40.0, 8.0, 1e-5) is None
        True
    """
    _require(0 < delta < 1, "delta", "a number in (0, 1)", delta)
    _require(0 <= l2_sensitivity < math.inf, "l2_sensitivity", "a finite number >= 0", l2_sensitivity)
    if not 0 < epsilon <= 1:
        return None
    return l2_sensitivity / epsilon * math.sqrt(2 * math.log(1.25 / delta))
