"""Solvers of ``A x = b`` that return what they reached, so that nothing unconverged is ever certified."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
Status = Literal["converged", "budget spent", "negative curvature", "not finite", "diverged", "not confirmed"]


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
    """Solve a symmetric positive definite system by Cholesky factorisation (dense; for few parameters).

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
    operator: Operator,
    right: Tensor,
    *,
    tolerance: float,
    max_products: int,
    preconditioner: Operator | None = None,
    measure: bool = True,
) -> Solution:
    """Solve a symmetric positive definite system by preconditioned conjugate gradients (Hestenes and Stiefel 1952).

    Stops where the direction has no positive curvature: then A is not positive definite and the answer is none.

    Args:
        operator: ``v -> A v``, shape (d,) to (d,).
        right: b, shape (d,).
        tolerance: Absolute residual norm to reach, above 0.
        max_products: Products to spend at most, the last one measuring the residual.
        preconditioner: ``v -> P^-1 v`` with P symmetric positive definite and close to A; none by default.
        measure: Whether to spend one product on measuring the residual; else the recursion's own is returned.

    Returns:
        The solution; its residual is measured afresh unless ``measure`` is off.

    Example:
        >>> conjugate_gradients(lambda v: 2 * v, torch.ones(2), tolerance=1e-6, max_products=5).status
        'converged'
    """
    x = torch.zeros_like(right)
    residual = right.clone()
    scaled = preconditioner(residual) if preconditioner else residual
    direction = scaled.clone()
    inner = float(residual @ scaled)
    norm = float(residual.norm())
    products = 0
    status: Status = "converged" if math.isfinite(norm) else "not finite"
    while norm > tolerance:
        if products >= max_products - 1:
            status = "budget spent"
            break
        curved = operator(direction)
        products += 1
        curvature = float(direction @ curved)
        if not math.isfinite(curvature) or not math.isfinite(inner):
            status = "not finite"
            break
        if curvature <= 0 or inner <= 0:
            status = "negative curvature"
            break
        step = inner / curvature
        x = x + step * direction
        residual = residual - step * curved
        norm = float(residual.norm())
        scaled = preconditioner(residual) if preconditioner else residual
        previous, inner = inner, float(residual @ scaled)
        direction = scaled + (inner / previous) * direction
    if not math.isfinite(norm):  # the loop ends on a NaN too
        status = "not finite"
    if not measure:
        return Solution(x, status, norm, products)
    measured = float((operator(x) - right).norm())
    if status == "converged" and not math.isfinite(measured):
        status = "not finite"
    return Solution(x, status, measured, products + 1)
