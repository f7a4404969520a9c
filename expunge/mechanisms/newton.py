"""The paper's Newton step on a deep network (class ``conditional``), once or several times.

Zhang, Dong, Wang and Li (ICML 2024, arXiv 2408.00920): ``w - (H + lambda I)^-1 g`` on the retain set, projected onto
``||w|| <= C``, bounded by N1 where its constants are assumed and by the ball 2C always (N2). With every trained
network measured so far the ball binds; the certificate says so. Further steps linearise anew, and N1 takes the bound
of the step before as its radius.

Neither bound asks what the parent was trained on: N1 starts anywhere in the ball, and its gradient bound is that of
the retrained model. But nobody has assumed its constants of data that came since: where the dataset is another one
than the parent's, they are not used.
"""

import math
from dataclasses import asdict

from torch import Tensor

from expunge.curvature.network import NetworkObjective
from expunge.errors import CertificateRefusedError
from expunge.mechanisms.contract import (
    Assessment,
    Calibration,
    Constant,
    Context,
    Problem,
    Unlearned,
    add_noise,
    check_problem,
    policy_calibration,
)
from expunge.mechanisms.newton_step import LANCZOS_STEPS, StepReport, newton_step
from expunge.models.training import project
from expunge.models.zoo import build
from expunge.privacy.bounds import iterated_newton_error_bound
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise
from expunge.settings import GuaranteeClass

_SOLVER_PRODUCTS = 20  # with a damping above the norm of the Hessian; forecasts, never part of a certificate
_OTHER_DATA = "the parent was trained on another version of the dataset: M and G were assumed of that one"
_OTHER_DATA_REMEDY = (
    "retrain exactly, or take a mechanism that assumes nothing of the data, once; then assume anew"
)
_PRODUCT_PASSES = 0.1  # of an epoch of training in small batches: a full product is one large one


class Newton:
    """One damped Newton step with a measured residual, projected onto the ball."""

    name = "newton"
    guarantee: GuaranteeClass = "conditional"
    reference = "training on the retain set alone, projected onto the ball, then adding the same noise (no Newton step)"
    formula = (
        "min((M R^2/2 + damping R + G + residual)/(lambda_min + damping), 2 norm_bound) <= error bound, "
        "with R = 2 norm_bound"
    )
    needs = ("the parent's released weights of a deep network",)
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
        seconds = _forecast(context)
        if spec.linearize:
            return Assessment(
                self.name,
                self.guarantee,
                math.inf,
                release.delta,
                math.inf,
                seconds,
                refusal="weights of a linearised model are not projected onto a ball",
                remedy="use the convex mechanism",
            )
        ball = 2 * spec.norm_bound
        assumed = _assumes(context)
        if assumed and not context.same_data:
            return Assessment(
                self.name,
                self.guarantee,
                gaussian_epsilon(release.delta, ball / release.sigma),
                release.delta,
                ball,
                seconds,
                refusal=_OTHER_DATA,
                remedy=_OTHER_DATA_REMEDY,
            )
        if ball <= allowed or assumed:
            return Assessment(
                self.name,
                self.guarantee,
                release.epsilon,
                release.delta,
                self.calibrate(context).error_bound,
                seconds,
                utility=f"under noise of {release.sigma:g} per parameter",
            )
        epsilon = gaussian_epsilon(release.delta, ball / release.sigma)
        return Assessment(
            self.name,
            self.guarantee,
            epsilon,
            release.delta,
            ball,
            seconds,
            refusal=(
                f"vacuous: the ball binds (error bound {ball:g}), so sigma {release.sigma:g} means "
                f"epsilon {epsilon:.2g}"
            ),
            remedy=f"sigma {ball / allowed * release.sigma:.3g} would be needed; retraining is exact",
        )

    def calibrate(self, context: Context) -> Calibration:
        """The Gaussian mechanism at policy's release.

        Args:
            context: The request.

        Returns:
            The calibration.
        """
        return policy_calibration(context)

    def perturb(
        self, problem: Problem, unlearned: Unlearned, calibration: Calibration, noise: GaussianNoise
    ) -> Tensor:
        """Noise every weight once; projecting again is post-processing, so that the next request starts in the ball.

        Args:
            problem: The request.
            unlearned: Projected weights.
            calibration: With sigma.
            noise: The stream.

        Returns:
            Shape (d,).
        """
        return project(add_noise(unlearned.weights, calibration, noise), problem.context.spec.norm_bound)

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
        if _assumes(context) and not context.same_data:
            raise CertificateRefusedError(_OTHER_DATA, remedy=_OTHER_DATA_REMEDY)
        check_problem(problem)
        network = build(spec, problem.search, problem.device)
        objective = NetworkObjective(network, problem.features, problem.labels, spec.l2)
        weights = project(problem.start.double(), spec.norm_bound)
        taken: list[StepReport] = []
        for index in range(policy.steps):
            step, report = newton_step(
                objective,
                weights.to(network.device),
                policy,
                seed=problem.seed + index,
                what=f"unlearning (newton {index + 1})",
            )
            weights = project(weights - step, spec.norm_bound)
            taken.append(report)
        known = _assumes(context)
        error_bound, binding = iterated_newton_error_bound(
            hessian_lipschitz=math.inf if policy.hessian_lipschitz is None else policy.hessian_lipschitz,
            norm_bound=spec.norm_bound,
            damping=policy.damping,
            gradient_bound=math.inf if policy.gradient_bound is None else policy.gradient_bound,
            steps=[(report.residual, report.lambda_min + policy.damping) for report in taken],
        )
        if error_bound > context.allowed_error:
            raise CertificateRefusedError(
                "the Newton step's error bound is above policy's release",
                expected=f"at most {context.allowed_error:.3g}",
                got=f"a bound above it ({binding} binds)",
                remedy="retraining is exact; or raise release.sigma",
            )
        return Unlearned(
            weights=weights,
            origin=network.initial().cpu(),
            error_bound=error_bound,
            binding=binding,
            failure_probability=sum(report.failure_probability for report in taken) if known else 0.0,
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
            sealed={"steps": [asdict(report) for report in taken]},
        )


def _assumes(context: Context) -> bool:
    """Whether policy names the constants of N1."""
    newton = context.policy.newton
    return newton.hessian_lipschitz is not None and newton.gradient_bound is not None


def _forecast(context: Context) -> float:
    """Seconds of the step: a full product costs about four gradient passes over the records, the spectrum included."""
    epochs = max(1, context.spec.epochs)
    products = context.policy.newton.steps * (LANCZOS_STEPS + _SOLVER_PRODUCTS)
    return context.training_seconds / epochs * _PRODUCT_PASSES * products
