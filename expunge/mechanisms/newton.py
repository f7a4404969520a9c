"""The paper's single Newton step on a deep network (class ``conditional``).

Zhang, Dong, Wang and Li (ICML 2024, arXiv 2408.00920): ``w - (H + lambda I)^-1 g`` on the retain set, projected onto
``||w|| <= C``, bounded by N1 where its constants are assumed and by the ball 2C always (N2). With every trained
network measured so far the ball binds; the certificate says so.
"""

import math

import torch
from torch import Tensor

from expunge import progress
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import Solution, conjugate_gradients, solve_exact
from expunge.errors import CertificateRefusedError, NotConvergedError
from expunge.mechanisms.contract import Assessment, Constant, Context, Problem, Unlearned
from expunge.models.training import project
from expunge.models.zoo import build
from expunge.privacy.bounds import newton_error_bound, projected_error_bound
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.settings import GuaranteeClass

DENSE_LIMIT = 1200  # parameters up to which the Hessian is formed and factored
LANCZOS_STEPS = 80
LANCZOS_FAILURE = 1e-9
CG_PRODUCTS = 500
_PREDICTED_SHARE = 0.5  # of a training; a forecast, never part of a certificate


class Newton:
    """One damped Newton step with a measured residual, projected onto the ball."""

    name = "newton"
    guarantee: GuaranteeClass = "conditional"
    reference = "training on the retain set alone, projected onto the ball, then adding the same noise (no Newton step)"
    formula = (
        "min((M R^2/2 + damping R + G + residual)/(lambda_min + damping), 2 norm_bound) <= error bound, "
        "with R = 2 norm_bound"
    )
    noised = True
    assumptions = (
        "the assumed constants hold: Lipschitz constant M of the Hessian and gradient bound G of the retrained model; "
        "where none is assumed, only the ball is used",
    )

    def assess(self, context: Context) -> Assessment:
        """Judge from the ball, or from the assumed constants where policy names them.

        Args:
            context: The request.

        Returns:
            The assessment, with the honest epsilon of the ball where refused.
        """
        policy, spec = context.policy, context.spec
        release, allowed = policy.release, context.allowed_error
        seconds = context.training_seconds * _PREDICTED_SHARE
        if spec.linearize:
            return Assessment(
                self.name,
                self.guarantee,
                math.inf,
                release.delta,
                math.inf,
                seconds,
                "weights of a linearised model are not projected onto a ball",
                "use the convex mechanism",
            )
        ball = 2 * spec.norm_bound
        assumed = policy.newton.hessian_lipschitz is not None and policy.newton.gradient_bound is not None
        if ball <= allowed or assumed:
            return Assessment(self.name, self.guarantee, release.epsilon, release.delta, allowed, seconds)
        epsilon = gaussian_epsilon(release.delta, ball / release.sigma)
        return Assessment(
            self.name,
            self.guarantee,
            epsilon,
            release.delta,
            ball,
            seconds,
            f"vacuous: the ball binds (error bound {ball:g}), so sigma {release.sigma:g} means epsilon {epsilon:.2g}",
            f"sigma {ball / allowed * release.sigma:.3g} would be needed; retraining is exact",
        )

    def unlearn(self, problem: Problem) -> Unlearned:
        """Take the step and bound it.

        Args:
            problem: The request.

        Returns:
            Projected weights with min(N1, 2C).

        Raises:
            CertificateRefusedError: If the damped Hessian is not safely positive definite, or the start is missing.
            NotConvergedError: If the solver missed its residual.
        """
        context, spec, policy = problem.context, problem.context.spec, problem.context.policy.newton
        if spec.linearize or problem.start is None:
            raise CertificateRefusedError(
                "the Newton step needs the parent's weights of a deep network",
                remedy="use the convex mechanism or retraining",
            )
        network = build(spec, problem.search)
        objective = NetworkObjective(network, problem.features, problem.labels, spec.l2)
        weights = problem.start.double()
        gradient = objective.gradient(weights)
        solution, lowest = _solve(
            objective, weights, gradient, policy.damping, policy.relative_residual, problem.seed
        )
        known = policy.hessian_lipschitz is not None and policy.gradient_bound is not None
        bound = math.inf
        if known:
            bound = newton_error_bound(
                hessian_lipschitz=policy.hessian_lipschitz or 0.0,
                radius=2 * spec.norm_bound,
                damping=policy.damping,
                gradient_bound=policy.gradient_bound or 0.0,
                residual=solution.residual,
                min_curvature=lowest + policy.damping,
            )
        error_bound, binding = projected_error_bound(bound, spec.norm_bound)
        if error_bound > context.allowed_error:
            raise CertificateRefusedError(
                "the Newton step's error bound is above policy's release",
                expected=f"at most {context.allowed_error:.3g}",
                got=f"a bound above it ({binding} binds)",
                remedy="retraining is exact; or raise release.sigma",
            )
        return Unlearned(
            weights=project(weights - solution.solution, spec.norm_bound),
            origin=network.initial(),
            error_bound=error_bound,
            binding=binding,
            failure_probability=LANCZOS_FAILURE if known and network.size > DENSE_LIMIT else 0.0,
            constants=(
                Constant(
                    "norm_bound", spec.norm_bound, "policy", "projection after every training step and here"
                ),
                Constant("damping", policy.damping, "policy", "local convex approximation coefficient"),
                Constant(
                    "hessian_lipschitz",
                    policy.hessian_lipschitz,
                    "assumed",
                    "named in policy.yaml; not proved",
                ),
                Constant(
                    "gradient_bound", policy.gradient_bound, "assumed", "named in policy.yaml; not proved"
                ),
                Constant("l2", spec.l2, "policy", "part of the objective"),
            ),
            sealed={
                "gradient_norm": float(gradient.norm()),
                "residual": solution.residual,
                "products": solution.products,
                "lambda_min_lower_bound": lowest,
                "newton_bound": None if math.isinf(bound) else bound,
            },
        )


def _solve(
    objective: NetworkObjective, weights: Tensor, gradient: Tensor, damping: float, relative: float, seed: int
) -> tuple[Solution, float]:
    """Solve ``(H + damping I) x = g`` and bound the smallest eigenvalue of H from below."""
    tolerance = relative * max(float(gradient.norm()), 1e-300)
    if objective.size <= DENSE_LIMIT:
        progress.report("unlearning (newton): dense Hessian", 0, 1)
        dense = objective.hessian(weights)
        lowest = float(torch.linalg.eigvalsh(dense)[0])
        damped = dense + damping * torch.eye(objective.size, dtype=dense.dtype)
        solution = solve_exact(damped, gradient)
    else:
        spectrum = spectrum_bounds(
            lambda v: objective.hessian_product(weights, v),
            objective.size,
            steps=LANCZOS_STEPS,
            failure_probability=LANCZOS_FAILURE,
            generator=torch.Generator().manual_seed(seed),
        )
        lowest = spectrum.lower
        progress.report("unlearning (newton): conjugate gradients", 0, 1)
        solution = conjugate_gradients(
            lambda v: objective.hessian_product(weights, v) + damping * v,
            gradient,
            tolerance=tolerance,
            max_products=CG_PRODUCTS,
        )
    if not lowest + damping > 0 or solution.status == "negative curvature":
        raise CertificateRefusedError(
            "the damped Hessian is not safely positive definite",
            expected=f"damping above {-lowest:.3g}",
            got=f"{damping:g}",
            remedy="raise newton.damping in policy.yaml",
        )
    if solution.status != "converged" or solution.residual > 10 * tolerance:
        raise NotConvergedError(
            f"the Newton system was not solved ({solution.status})",
            expected=f"relative residual <= {relative:.1e}",
            remedy="raise newton.damping in policy.yaml, or let the batch be retrained",
        )
    return solution, lowest
