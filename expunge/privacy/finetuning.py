"""What T noisy steps on retained data guarantee, for any model and any data (class ``unconditional``).

Koloskova, Allouah, Jha, Guerraoui and Koyejo (ICML 2025, arXiv 2506.06985). Both processes take the same steps on
the retain set and differ in where they start, so only that difference has to be forgotten.
"""

import math

from expunge.errors import InputError
from expunge.privacy.gaussian import gaussian_delta

_BISECTIONS = 100


def _require(condition: bool, name: str, expected: str, got: float) -> None:
    if not condition:
        raise InputError(f"invalid {name}", expected=expected, got=repr(got), remedy="correct policy.yaml")


def gradient_clipping_sensitivity(
    *, norm_bound: float, clip: float, learning_rate: float, decay: float, steps: int
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
        shift = keep * shift + 2 * learning_rate * clip
        variance = keep * keep * variance + 1.0
        best = min(best, (remaining + shift) / math.sqrt(variance))
    return best


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


def model_clipping_sigma(epsilon: float, delta: float, *, norm_bound: float, steps: int) -> float:
    """Least noise at which T clipped steps are (epsilon, delta)-indistinguishable, rounded up.

    Args:
        epsilon: In nats, above 0.
        delta: In (0, 1).
        norm_bound: C2, above 0.
        steps: T, at least 1.

    Returns:
        Sigma of one step, in weight units.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> round(model_clipping_sigma(1.0, 0.50986, norm_bound=1.0, steps=1), 3)
        1.0
    """
    _require(0 < delta < 1, "delta", "a number in (0, 1)", delta)
    _require(norm_bound > 0, "norm_bound", "a number > 0", norm_bound)
    low, high = 0.0, norm_bound
    while model_clipping_delta(epsilon, norm_bound=norm_bound, sigma=high, steps=steps) > delta:
        low, high = high, high * 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if model_clipping_delta(epsilon, norm_bound=norm_bound, sigma=middle, steps=steps) > delta:
            low = middle
        else:
            high = middle
    return high
