"""LiSSA: the paper's stochastic recursion for ``(H + lambda I)^-1 g``, with its chains run as one batch.

Agarwal, Bullins and Hazan (2017), as Zhang et al. (ICML 2024) use it: ``x_0 = g``,

    x_t = g + (I - (H_t + lambda I) / h) x_{t-1},       x = mean over chains of x_s / h,

with H_t the Hessian of a fresh mini-batch and ``h >= ||H_t + lambda I||`` for *every* mini-batch. It contracts by
``1 - b/h`` a step, so it needs about ``(h/b) ln`` steps where conjugate gradients need the square root of that. It
is kept for the paper's sake; whatever it returns, the residual is measured over all records and enters the bound.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from expunge import progress
from expunge.curvature.solvers import Operator, Solution, Status
from expunge.errors import InputError

BatchOperator = Callable[[Tensor, Tensor], Tensor]
_GROWTH = 1e3  # norm over that of h g / b at which a chain is given up as diverging
_CHECK_EVERY = 20


def lissa(
    batch_operator: BatchOperator,
    operator: Operator,
    right: Tensor,
    *,
    records: int,
    chains: int,
    steps: int,
    batch: int,
    scale: float,
    min_curvature: float,
    generator: torch.Generator,
) -> Solution:
    """Solve ``A x = g`` by independent chains of the recursion above.

    Args:
        batch_operator: ``(indices, V) -> A_t V``: for each chain u, the damped Hessian of the mini-batch
            ``indices[u]`` times ``V[u]``; shapes (chains, batch), (chains, d) to (chains, d).
        operator: ``v -> A v`` over all records, for the final residual.
        right: g, shape (d,).
        records: Number of records that mini-batches are drawn from, with replacement between steps.
        chains: u, independent repetitions that are averaged.
        steps: s, depth of the recursion.
        batch: Records a mini-batch.
        scale: h, at least the norm of every mini-batch's damped Hessian.
        min_curvature: b, a lower bound on the smallest eigenvalue of A, above 0: how far a chain may grow.
        generator: Of the mini-batches.

    Returns:
        The mean of the chains; "diverged" as soon as a chain leaves what a contraction allows. LiSSA has no
        tolerance: "converged" means that all steps were taken, and the residual says how far that got.

    Raises:
        InputError: If a number is out of range.

    Example:
        >>> two = lambda i, v: 2 * v
        >>> g = torch.Generator().manual_seed(0)
        >>> lissa(two, lambda v: 2 * v, torch.ones(2), records=9, chains=2, steps=50, batch=3, scale=4.0,
        ...       min_curvature=2.0, generator=g).solution
        tensor([0.5000, 0.5000])
    """
    positive = {
        "chains": chains,
        "steps": steps,
        "batch": batch,
        "scale": scale,
        "min_curvature": min_curvature,
    }
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"invalid {name}", expected="a number > 0", got=repr(value))
    if batch > records:
        raise InputError("invalid batch", expected=f"at most {records}", got=str(batch))
    state = right.expand(chains, -1).clone()
    # a contraction keeps ||x_t|| <= (h / b) ||g||; a chain far beyond that has no contraction
    ceiling = _GROWTH * (scale / min_curvature) * max(float(right.norm()), 1e-300)
    status: Status = "converged"
    taken = 0
    for step in range(steps):
        indices = torch.randint(records, (chains, batch), generator=generator)
        state = right + state - batch_operator(indices, state) / scale
        taken = step + 1
        if taken % _CHECK_EVERY == 0 or taken == steps:
            largest = float(state.norm(dim=1).max())
            if not math.isfinite(largest):
                status = "not finite"
                break
            if largest > ceiling:
                status = "diverged"
                break
            progress.report("unlearning: LiSSA", taken, steps)
    x = state.mean(dim=0) / scale
    residual = float((operator(x) - right).norm())
    if status == "converged" and not math.isfinite(residual):
        status = "not finite"
    return Solution(x, status, residual, taken)
