"""Solvers of ``A x = b`` that return what they reached, so that nothing unconverged is ever certified."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
Status = Literal["converged", "budget spent", "negative curvature", "not finite"]


@dataclass(frozen=True)
class Solution:
    """What a solver reached.

    Args:
        solution: x, shape (d,).
        status: "converged", or why it stopped.
        residual: ``||A x - b||`` measured afresh at the returned x.
        products: Products with A that were spent.
    """

    solution: Tensor
    status: Status
    residual: float
    products: int


def solve_exact(matrix: Tensor, right: Tensor) -> Solution:
    """Solve a symmetric positive definite system by Cholesky factorisation.

    Args:
        matrix: Shape (d, d), symmetric.
        right: Shape (d,).

    Returns:
        The solution; status "negative curvature" and x = 0 where the matrix is not positive definite.

    Example:
        >>> solve_exact(2 * torch.eye(2), torch.ones(2)).solution
        tensor([0.5000, 0.5000])
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        return Solution(torch.zeros_like(right), "negative curvature", float(right.norm()), 0)
    x = torch.cholesky_solve(right[:, None], factor)[:, 0]
    residual = float((matrix @ x - right).norm())
    return Solution(x, "converged" if torch.isfinite(x).all() else "not finite", residual, 1)


def conjugate_gradients(
    operator: Operator, right: Tensor, *, tolerance: float, max_products: int
) -> Solution:
    """Solve a symmetric positive definite system by conjugate gradients (Hestenes and Stiefel 1952).

    Stops where the direction has no positive curvature: then A is not positive definite and the answer is none.

    Args:
        operator: ``v -> A v``, shape (d,) to (d,).
        right: b, shape (d,).
        tolerance: Absolute residual norm to reach, above 0.
        max_products: Products to spend at most, the last one measuring the residual.

    Returns:
        The solution with a freshly measured residual.

    Example:
        >>> conjugate_gradients(lambda v: 2 * v, torch.ones(2), tolerance=1e-6, max_products=5).status
        'converged'
    """
    x = torch.zeros_like(right)
    residual = right.clone()
    direction = residual.clone()
    squared = float(residual @ residual)
    products = 0
    status: Status = "converged"
    while squared**0.5 > tolerance:
        if products >= max_products - 1:
            status = "budget spent"
            break
        curved = operator(direction)
        products += 1
        curvature = float(direction @ curved)
        if not torch.isfinite(curved).all():
            status = "not finite"
            break
        if curvature <= 0:
            status = "negative curvature"
            break
        step = squared / curvature
        x = x + step * direction
        residual = residual - step * curved
        previous, squared = squared, float(residual @ residual)
        direction = residual + (squared / previous) * direction
    measured = float((operator(x) - right).norm())
    return Solution(x, status, measured, products + 1)
