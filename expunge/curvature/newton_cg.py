"""Truncated Newton for strongly convex objectives: how linearised models are trained and unlearned.

Dembo and Steihaug (1983): conjugate gradients solve each Newton system only as far as the gradient deserves; a
halving line search on the slope makes it global. Where it starts and how fast it goes does not matter to the
certificate: only the gradient norm at the returned point does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from expunge import progress
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import KeptCurvature
from expunge.curvature.solvers import Status, conjugate_gradients

_MAX_STEPS = 100
_HALVINGS = 40
_MARGIN = 100.0  # of a rounding difference that proves nothing


@dataclass(frozen=True)
class ConvexSolution:
    """What the minimisation reached.

    Args:
        solution: v, on the CPU, shape (d,).
        status: "converged" only if the gradient norm is within the tolerance.
        gradient_norm: Of a float64 gradient on the CPU, at exactly this solution.
        rounding: Proved bound on the rounding error of that gradient; where none is proved, its observed difference
            from an evaluation in another order and other chunks, times a margin of 100.
        proved: Which of the two.
        products: Curvature products spent.
    """

    solution: Tensor
    status: Status
    gradient_norm: float
    rounding: float
    proved: bool
    products: int


def minimize(
    objective: LinearizedObjective,
    start: Tensor,
    *,
    tolerance: float,
    max_products: int,
    what: str,
    kept: KeptCurvature | None = None,
    mixed: bool = False,
) -> ConvexSolution:
    """Minimise until the gradient norm is within a tolerance.

    Args:
        objective: Strongly convex, float64, on any device.
        start: Shape (d,).
        tolerance: Gradient norm to reach, above 0.
        max_products: Curvature products to spend at most.
        what: Name of the work in progress reports.
        kept: Kept curvature, to precondition with; changes the way, not what is certified.
        mixed: Whether conjugate gradients run in float32; gradients, the line search and the final check never do.

    Returns:
        The solution; not "converged" where the budget was spent or something was not finite.

    Example:
        >>> # minimize(objective, torch.zeros(objective.size), tolerance=1e-8, max_products=1000, what="training")
    """
    point, products = start.to(dtype=torch.float64, device=objective.network.device, copy=True), 0
    inner = objective.single() if mixed else objective
    precondition = kept.to(inner.network.dtype, inner.network.device).apply if kept else None
    status: Status = "budget spent"
    first_norm, judge = math.nan, _Judge(objective)
    for _ in range(_MAX_STEPS):
        logits, gradient = objective.logits_and_gradient(point)
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            return ConvexSolution(point.cpu(), "not finite", norm, math.inf, False, products)
        first_norm = norm if math.isnan(first_norm) else first_norm
        report = partial(_report, what, norm, first_norm, tolerance)
        report()
        if norm <= tolerance:
            judged = judge.gradient(point)
            if float(judged.norm()) <= tolerance:
                status = "converged"
                break
            if status == "not confirmed":  # twice: they differ by more than rounding at the border
                break
            status, gradient, norm = "not confirmed", judged.to(gradient.device), float(judged.norm())
        if products >= max_products:
            break
        probabilities = torch.softmax(logits, dim=1).to(inner.network.dtype)
        # scaled to norm one, so that float32 resolves gradients of any size
        step = conjugate_gradients(
            _reported(partial(inner.curvature_product, probabilities), report),
            (-gradient / norm).to(inner.network.dtype),
            tolerance=max(min(0.1, math.sqrt(norm)), 0.3 * tolerance / norm),
            max_products=max_products - products + 1,
            preconditioner=precondition,
            measure=False,
        )
        products += step.products
        if step.status not in ("converged", "budget spent"):
            if inner is not objective:  # float32 could not resolve it: float64 decides
                inner = objective
                precondition = kept.to(torch.float64, objective.network.device).apply if kept else None
                continue
            return ConvexSolution(point.cpu(), step.status, norm, math.inf, False, products)
        direction = norm * step.solution.double()
        point = point + _step_length(objective, logits, point, direction) * direction
    return judge.solution(point, status, products)


class _Judge:
    """The gradient that a certificate rests on.

    What noise is added to lies on the CPU, and there the gradient is taken: an auditor can take it again without the
    GPU, its kernels' order of sums, or what its drivers do.
    """

    def __init__(self, objective: LinearizedObjective) -> None:
        self._objective = objective
        self._point: Tensor | None = None

    def gradient(self, point: Tensor) -> Tensor:
        """At a point: with its bound where its rounding is proved."""
        self._objective = self._objective.on_cpu()
        self._point = point
        self._certified = self._objective.certified_gradient(point.cpu())
        self._gradient = (
            self._objective.gradient(point.cpu()) if self._certified is None else self._certified.gradient
        )
        return self._gradient

    def solution(self, point: Tensor, status: Status, products: int) -> ConvexSolution:
        """Judge the point that the solver has reached."""
        final = self._gradient if self._point is point else self.gradient(point)
        norm, point = float(final.norm()), point.cpu()
        if self._certified is not None:
            return ConvexSolution(point, status, norm, self._certified.rounding, True, products)
        other = self._objective.reversed().gradient(point)
        return ConvexSolution(point, status, norm, float((other - final).norm()) * _MARGIN, False, products)


def _step_length(objective: LinearizedObjective, logits: Tensor, point: Tensor, direction: Tensor) -> float:
    """Halve the step until the slope along it has not grown: robust where the value no longer resolves."""
    move = objective.jacobian.product(direction)
    initial = abs(objective.slope(logits, move, point, direction))
    length = 1.0
    for _ in range(_HALVINGS):
        slope = objective.slope(logits + length * move, move, point + length * direction, direction)
        if (
            slope <= 0.9 * initial
        ):  # a negative slope still descends; a small positive one is past the minimum
            return length
        length /= 2
    return length


def _reported(product: Callable[[Tensor], Tensor], report: Callable[[], None]) -> Callable[[Tensor], Tensor]:
    """A product that gives a sign of life each time: on large data a Newton step takes minutes."""

    def reported(vector: Tensor) -> Tensor:
        report()
        return product(vector)

    return reported


def _report(what: str, norm: float, first: float, tolerance: float) -> None:
    span = math.log(max(first, tolerance * 1.001) / tolerance)
    done = span - math.log(max(norm, tolerance) / tolerance)
    progress.report(f"{what}: gradient norm {norm:.1e}", max(0.0, done), span)
