"""What T noisy steps on retained data guarantee, for any model and any data (class ``unconditional``).

Koloskova, Allouah, Jha, Guerraoui and Koyejo (ICML 2025, arXiv 2506.06985). Both processes take the same steps on
the retain set and differ in where they start, so only that difference has to be forgotten.
"""

import math
from collections.abc import Callable

from expunge.errors import InputError
from expunge.privacy.gaussian import gaussian_delta, gaussian_epsilon
from expunge.privacy.noise import FINE_GRID, rounding_m

_BISECTIONS = 100


def _require(condition: bool, name: str, expected: str, got: float) -> None:
    if not condition:
        raise InputError(f"invalid {name}", expected=expected, got=repr(got), remedy="correct policy.yaml")


def gradient_clipping_sensitivity(
    *,
    norm_bound: float,
    clip: float,
    learning_rate: float,
    decay: float,
    steps: int,
    grid_shift: float = 0.0,
) -> float:
    """Equivalent sensitivity of noisy steps with clipped gradients: ``m = sensitivity / sigma`` is the GDP parameter.

    Formula: with ``c = 1 - gamma kappa``, the least over ``T' <= T`` (later steps are post-processing) of
    ``(c^T' 2 C0 + 2 gamma C1 sum_j c^j) / sqrt(sum_j c^2j)``, sums over ``j < T'``, for the iteration
    ``w <- c w - gamma clip_C1(grad) + N(0, sigma^2 I)`` from ``||w|| <= C0``. Privacy amplification by iteration in
    shifted-interpolation form: Bok, Su and Altschuler (2024), Theorem 4.2.

    Args:
        norm_bound: C0, norm of the starting weights at most.
        clip: C1, norm of the whole gradient at most.
        learning_rate: gamma.
        decay: kappa, with ``0 <= gamma kappa < 1``.
        steps: T, at least 1.
        grid_shift: How far rounding may move the difference of two states between steps, in weight units
            (:func:`grid_shift`); 0 for real numbers.

    Returns:
        The sensitivity, in weight units.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> gradient_clipping_sensitivity(norm_bound=1.0, clip=0.0, learning_rate=1.0, decay=0.5, steps=1)
        1.0
    """
    _require(norm_bound >= 0, "norm_bound", "a number >= 0", norm_bound)
    _require(clip >= 0, "clip", "a number >= 0", clip)
    _require(0 < learning_rate < math.inf, "learning_rate", "a number > 0", learning_rate)
    _require(decay >= 0 and learning_rate * decay < 1, "decay", "0 <= learning_rate * decay < 1", decay)
    _require(steps >= 1, "steps", "at least 1", steps)
    keep = 1 - learning_rate * decay
    remaining, shift, variance, best = 2 * norm_bound, 0.0, 0.0, math.inf
    for _ in range(steps):
        # Horner: after one more step every earlier contribution has shrunk by c once more
        remaining *= keep
        shift = keep * (shift + grid_shift) + 2 * learning_rate * clip
        variance = keep * keep * variance + 1.0
        best = min(best, (remaining + shift) / math.sqrt(variance))
    return best


def grid_shift(size: int, sigma: float) -> float:
    """How far rounding to the fine grid may move the difference of two states.

    Rounding is no contraction: each of d coordinates of either state moves by half a step, ``sigma 2^-20`` at most.
    One percent more covers the float64 arithmetic of a step, for weights of at most ``sigma 2^20``.

    Args:
        size: d.
        sigma: Noise of one step.

    Returns:
        ``1.01 sqrt(d) 2^-20 sigma``, in weight units.
    """
    return 1.01 * math.sqrt(size) * 2.0**-FINE_GRID * sigma


def gradient_clipping_m(
    sigma: float,
    *,
    size: int,
    norm_bound: float,
    clip: float,
    learning_rate: float,
    decay: float,
    steps: int,
) -> float:
    """Gaussian-DP parameter of T noisy steps with clipped gradients in float64, rounding included.

    Formula: ``gradient_clipping_sensitivity / sigma + rounding_m(T d)``.

    Args:
        sigma: Noise of one step, above 0.
        size: d, number of parameters.
        norm_bound: C0.
        clip: C1.
        learning_rate: gamma.
        decay: kappa.
        steps: T.

    Returns:
        m.

    Raises:
        InputError: If an argument is out of range.
    """
    _require(0 < sigma < math.inf, "sigma", "a finite number > 0", sigma)
    sensitivity = gradient_clipping_sensitivity(
        norm_bound=norm_bound,
        clip=clip,
        learning_rate=learning_rate,
        decay=decay,
        steps=steps,
        grid_shift=grid_shift(size, sigma),
    )
    return sensitivity / sigma + rounding_m(size * steps, FINE_GRID)


def gradient_clipping_sigma(
    m: float, *, size: int, norm_bound: float, clip: float, learning_rate: float, decay: float, steps: int
) -> float:
    """Least noise at which :func:`gradient_clipping_m` is at most m, rounded up.

    Args:
        m: To be met, above 0.
        size: d, number of parameters.
        norm_bound: C0.
        clip: C1.
        learning_rate: gamma.
        decay: kappa.
        steps: T.

    Returns:
        Sigma of one step, in weight units.

    Raises:
        InputError: If an argument is out of range, or rounding alone takes more than m.
    """

    def met(sigma: float) -> bool:
        return m >= gradient_clipping_m(
            sigma,
            size=size,
            norm_bound=norm_bound,
            clip=clip,
            learning_rate=learning_rate,
            decay=decay,
            steps=steps,
        )

    _require(
        met(1e100), "number of steps", "few enough that rounding of the noise does not take all of m", steps
    )
    return _least(met, norm_bound)


def model_clipping_delta(epsilon: float, *, norm_bound: float, sigma: float, steps: int) -> float:
    """Delta at epsilon of T steps ``w <- clip_C2(w - gamma grad) + N(0, sigma^2 I)``.

    Formula: ``delta_0 = 1``, ``delta_{t+1} = delta_t theta(e_t, 2 C2 / sigma)`` with
    ``e_t = log(1 + (e^epsilon - 1)/delta_t)`` and theta the Gaussian mechanism's delta: contraction of the
    hockey-stick divergence (Balle, Barthe, Gaboardi and Geumlek 2019, Theorem 3).

    Args:
        epsilon: In nats, at least 0.
        norm_bound: C2, radius that weights are clipped to before each noise.
        sigma: Noise of one step.
        steps: T, at least 1.

    Returns:
        Delta, in [0, 1]. It is no Gaussian-DP statement: other epsilons want another evaluation.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> [round(model_clipping_delta(1.0, norm_bound=1.0, sigma=1.0, steps=t), 5) for t in (1, 2, 3)]
        [0.50986, 0.21603, 0.06486]
    """
    _require(epsilon >= 0, "epsilon", "a number >= 0", epsilon)
    _require(norm_bound >= 0, "norm_bound", "a number >= 0", norm_bound)
    _require(0 < sigma < math.inf, "sigma", "a finite number > 0", sigma)
    _require(steps >= 1, "steps", "at least 1", steps)
    m, delta = 2 * norm_bound / sigma, 1.0
    for _ in range(steps):
        if delta == 0.0:
            return 0.0
        # log(1 + (e^eps - 1)/delta), also where e^eps is beyond floating point
        inflated = math.log1p(math.expm1(epsilon) / delta) if epsilon < 700 else epsilon - math.log(delta)
        delta *= gaussian_delta(inflated, m)
    return delta


def model_clipping_total(
    epsilon: float, delta: float, *, size: int, norm_bound: float, sigma: float, steps: int
) -> float:
    """Delta at epsilon of T clipped steps in float64, rounding included.

    Each of the two float64 processes is mu-Gaussian-DP from its ideal one, ``mu = rounding_m(T d) / 2``, hence
    (a, t)-indistinguishable for ``t = gaussian_delta(a, mu)``. Chained with the ideal (epsilon - 2a, delta'):
    ``delta = e^(epsilon - a) t + e^a delta' + t``. a is chosen as the least with ``t <= delta / 1000``.

    Args:
        epsilon: In nats, to be stated.
        delta: To be met; sets a.
        size: d, number of parameters.
        norm_bound: C2.
        sigma: Noise of one step.
        steps: T.

    Returns:
        Delta; 1 where rounding alone takes epsilon.
    """
    mu = rounding_m(size * steps) / 2
    small = delta / 1000
    a = gaussian_epsilon(small, mu)
    if 2 * a >= epsilon:
        return 1.0
    ideal = model_clipping_delta(epsilon - 2 * a, norm_bound=norm_bound, sigma=sigma, steps=steps)
    return min(1.0, math.exp(epsilon - a) * small + math.exp(a) * ideal + small)


def model_clipping_sigma(epsilon: float, delta: float, *, size: int, norm_bound: float, steps: int) -> float:
    """Least noise at which T clipped steps in float64 are (epsilon, delta)-indistinguishable, rounded up.

    Args:
        epsilon: In nats, above 0, small enough that ``e^epsilon`` is far below 1,000.
        delta: In (0, 1).
        size: d, number of parameters.
        norm_bound: C2, above 0.
        steps: T, at least 1.

    Returns:
        Sigma of one step, in weight units.

    Raises:
        InputError: If an argument is out of range, or rounding alone takes epsilon or delta.

    Example:
        >>> 1.0 < model_clipping_sigma(1.0, 0.50986, size=1, norm_bound=1.0, steps=1) < 1.01
        True
    """
    _require(0 < delta < 1, "delta", "a number in (0, 1)", delta)
    _require(norm_bound > 0, "norm_bound", "a number > 0", norm_bound)

    def met(sigma: float) -> bool:
        total = model_clipping_total(
            epsilon, delta, size=size, norm_bound=norm_bound, sigma=sigma, steps=steps
        )
        return total <= delta

    _require(met(norm_bound * 1e12), "epsilon", "more than rounding of the noise takes, and below 6", epsilon)
    return _least(met, norm_bound)


def _least(met: Callable[[float], bool], guess: float) -> float:
    """Least number from which on a monotone condition is met, rounded up."""
    low, high = 0.0, guess
    while not met(high):
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if met(middle) else (middle, high)
    return high
