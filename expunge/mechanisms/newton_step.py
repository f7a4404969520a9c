"""One damped Newton step with its spectrum bounded and its residual measured, by any of the three solvers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge import progress
from expunge.curvature.lanczos import SpectrumBounds, spectrum_bounds
from expunge.curvature.lissa import lissa
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import Operator, Solution, conjugate_gradients, solve_exact
from expunge.errors import CertificateRefusedError, NotConvergedError
from expunge.settings import NewtonPolicy

DENSE_LIMIT = 1200  # parameters up to which the Hessian may be formed and factored
LANCZOS_STEPS = 80
LANCZOS_FAILURE = 1e-9
CG_PRODUCTS = 500
_BATCH_NORM_MARGIN = (
    2.0  # a mini-batch's Hessian may have a larger norm than the whole; watched for divergence
)


@dataclass(frozen=True)
class StepReport:
    """What one step was, all of it for the sealed annex.

    Args:
        gradient_norm: ``||g||``.
        residual: ``||(H + lambda I) x - g||``, measured over the whole retain set.
        products: Spent on the solution.
        lambda_min: Lower bound on the smallest eigenvalue of H.
        lambda_max: Upper bound on the largest in absolute value.
        failure_probability: That one of the two is wrong.
    """

    gradient_norm: float
    residual: float
    products: int
    lambda_min: float
    lambda_max: float
    failure_probability: float


def newton_step(
    objective: NetworkObjective,
    weights: Tensor,
    policy: NewtonPolicy,
    *,
    seed: int,
    what: str,
    lanczos_steps: int = LANCZOS_STEPS,
) -> tuple[Tensor, StepReport]:
    """Solve ``(H + lambda I) x = g`` at some weights.

    Args:
        objective: Over the retain set, on any device.
        weights: On that device, shape (d,).
        policy: Damping, solver, residual.
        seed: Of Lanczos' start and LiSSA's mini-batches.
        what: Name of the work in progress reports.
        lanczos_steps: Products spent on the spectrum's bounds: the fewer, the wider they are.

    Returns:
        x on the CPU, shape (d,), and what it took.

    Raises:
        CertificateRefusedError: If something is not finite, or the damping does not exceed the norm of the Hessian.
        NotConvergedError: If the solver missed its residual or diverged.
    """
    gradient = objective.gradient(weights)
    norm = float(gradient.norm())
    if not math.isfinite(norm):
        raise CertificateRefusedError(
            "the gradient is not finite",
            expected="finite weights and records",
            remedy="check the data and the parent's weights, or let the batch be retrained",
        )
    progress.report(f"{what}: spectrum", 0, 2)
    product, spectrum, dense = _curvature(objective, weights, seed, lanczos_steps)
    largest = max(abs(spectrum.lower), abs(spectrum.upper))
    if not policy.damping > largest:
        raise CertificateRefusedError(
            "the damping does not exceed the norm of the Hessian",
            expected="newton.damping above it, as the theorem demands",  # no figure: it is of the parent's weights
            got=f"{policy.damping:g}",
            remedy="raise newton.damping in policy.yaml, or let the batch be retrained",
        )
    progress.report(f"{what}: {policy.solver}", 1, 2)
    solution = _solve(objective, weights, gradient, policy, seed, product, spectrum, dense)
    step, residual = solution.solution.cpu(), solution.residual
    if weights.device.type != "cpu":  # it enters the bound: no GPU kernel's word is taken for it
        judge, at = objective.on_cpu(), weights.cpu()
        missed = judge.hessian_product(at, step) + policy.damping * step - judge.gradient(at)
        residual = float(missed.norm())
    # LiSSA has no tolerance of its own: its residual is measured and enters the bound
    tolerance = math.inf if policy.solver == "lissa" else 10 * policy.relative_residual * norm + 1e-300
    if solution.status != "converged" or not residual <= tolerance:
        raise NotConvergedError(
            f"the Newton system was not solved ({solution.status})",
            expected=f"relative residual <= {policy.relative_residual:.1e}",
            remedy="raise newton.damping in policy.yaml, take another newton.solver, or let the batch be retrained",
        )
    report = StepReport(
        norm, residual, solution.products, spectrum.lower, largest, spectrum.failure_probability
    )
    return step, report


def _curvature(
    objective: NetworkObjective, weights: Tensor, seed: int, lanczos_steps: int
) -> tuple[Operator, SpectrumBounds, Tensor | None]:
    """``v -> H v``, bounds on its spectrum, and H itself where it is small."""
    if objective.size <= DENSE_LIMIT:
        dense = objective.hessian(weights)
        ends = torch.linalg.eigvalsh(dense.cpu())
        bounds = SpectrumBounds(float(ends[0]), float(ends[-1]), 0.0, objective.size)
        return dense.mv, bounds, dense
    product = objective.hessian_at(weights)
    bounds = spectrum_bounds(
        product,
        objective.size,
        steps=lanczos_steps,
        failure_probability=LANCZOS_FAILURE,
        generator=torch.Generator().manual_seed(seed),
        device=weights.device,
    )
    return product, bounds, None


def _solve(
    objective: NetworkObjective,
    weights: Tensor,
    gradient: Tensor,
    policy: NewtonPolicy,
    seed: int,
    product: Operator,
    spectrum: SpectrumBounds,
    dense: Tensor | None,
) -> Solution:
    damping = policy.damping
    tolerance = policy.relative_residual * max(float(gradient.norm()), 1e-300)
    if policy.solver == "exact":
        if dense is None:
            raise CertificateRefusedError(
                "the model is too large for the exact solver",
                expected=f"at most {DENSE_LIMIT} parameters",
                got=str(objective.size),
                remedy="take newton.solver conjugate-gradients",
            )
        return solve_exact(dense + damping * torch.eye(len(dense)).to(dense), gradient)
    if policy.solver == "conjugate-gradients":
        return conjugate_gradients(
            lambda v: product(v) + damping * v, gradient, tolerance=tolerance, max_products=CG_PRODUCTS
        )
    largest = max(abs(spectrum.lower), abs(spectrum.upper))
    return lissa(
        lambda indices, v: objective.batch_hessian_product(weights, indices, v) + damping * v,
        lambda v: product(v) + damping * v,
        gradient,
        records=objective.records,
        chains=policy.lissa.chains,
        steps=policy.lissa.steps,
        batch=min(policy.lissa.batch, objective.records),
        scale=_BATCH_NORM_MARGIN * (largest + damping),
        min_curvature=spectrum.lower + damping,
        generator=torch.Generator().manual_seed(seed),
    )
