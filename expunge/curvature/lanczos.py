"""Extreme eigenvalues by Lanczos, bounded on the safe side.

A Ritz value is an upper bound on the smallest and a lower bound on the largest eigenvalue: both unsafe. Kuczynski
and Wozniakowski (1992), Theorem 4.2: from a start uniform on the sphere, after k steps,

    P[ (lambda_max - theta_max) > e (lambda_max - lambda_min) ] <= 1.648 sqrt(d) exp(-sqrt(e) (2k - 1)),

and the mirror image for the smallest. Both together bound the spread by ``(theta_max - theta_min) / (1 - 2e)``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.curvature.solvers import Operator
from expunge.errors import InputError

_BREAKDOWN = 1e-12
_ROUNDING = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class SpectrumBounds:
    """Bounds that hold with probability ``1 - failure_probability``.

    Args:
        lower: At most the smallest eigenvalue.
        upper: At least the largest eigenvalue.
        failure_probability: That one of the two is wrong; add it to delta.
        products: Operator products spent.
    """

    lower: float
    upper: float
    failure_probability: float
    products: int


def spectrum_bounds(
    operator: Operator,
    size: int,
    *,
    steps: int,
    failure_probability: float,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> SpectrumBounds:
    """Bound both ends of a symmetric operator's spectrum.

    Args:
        operator: ``v -> A v`` with A symmetric, float64, shape (d,) to (d,).
        size: d.
        steps: k, Lanczos steps; full re-orthogonalisation.
        failure_probability: 2 eta, in (0, 1).
        generator: Source of the fresh random start, on the CPU.
        device: The operator's.

    Returns:
        The bounds, rounding included. Where the Krylov space is exhausted the Ritz values are exact with probability
        one, but for rounding.

    Raises:
        InputError: If there are too few steps for this probability, it is none, or a product is not finite.

    Example:
        >>> g = torch.Generator().manual_seed(1)
        >>> b = spectrum_bounds(lambda v: 3 * v, 5, steps=30, failure_probability=1e-6, generator=g)
        >>> round(b.lower, 6), round(b.upper, 6)
        (3.0, 3.0)
    """
    if not 0 < failure_probability < 1:
        raise InputError(
            "invalid failure_probability", expected="between 0 and 1", got=repr(failure_probability)
        )
    eta = failure_probability / 2
    relative = (math.log(1.648 * math.sqrt(size) / eta) / (2 * steps - 1)) ** 2
    if relative >= 0.25:
        raise InputError(
            "too few Lanczos steps",
            expected=f"at least {math.ceil((math.log(1.648 * math.sqrt(size) / eta) / 0.5 + 1) / 2)}",
            got=str(steps),
            remedy="raise the number of steps",
        )
    start = torch.randn(size, dtype=torch.float64, generator=generator).to(device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off: list[float] = []
    exhausted = False
    for _ in range(min(steps, size)):
        image = operator(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        image = _orthogonalise(image, basis)
        beta = float(image.norm())
        if not math.isfinite(beta):
            raise InputError("the operator is not finite", expected="finite products", got=repr(beta))
        if beta <= _BREAKDOWN * max(map(abs, diagonal + off)):  # relative: the operator's own scale
            exhausted = True
            break
        off.append(beta)
        basis.append(image / beta)
    couplings = torch.tensor(off[: len(diagonal) - 1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix += torch.diag(couplings, 1) + torch.diag(couplings, -1)
    ritz = torch.linalg.eigvalsh(matrix)
    low, high = float(ritz[0]), float(ritz[-1])
    exhausted = exhausted or len(diagonal) == size
    margin = 0.0 if exhausted else relative * (high - low) / (1 - 2 * relative)
    # products of length d round by at most d u; what was broken off at a breakdown moves no Ritz value by more than it
    margin += (size * _ROUNDING + _BREAKDOWN) * max(abs(low), abs(high))
    return SpectrumBounds(low - margin, high + margin, failure_probability, len(diagonal))


def _orthogonalise(vector: Tensor, basis: list[Tensor]) -> Tensor:
    matrix = torch.stack(basis)
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        vector = vector - matrix.T @ (matrix @ vector)
    return vector
