"""Clip, noise, recover: unlearning that assumes nothing (class ``unconditional``).

Both processes clip their weights to ``||w|| <= C0``, so they are at most ``2 C0`` apart whatever the model, the data
and the training were; noise is calibrated to exactly that, always. What follows is training on retained data alone,
from the noised weights: post-processing, which costs nothing.
"""

from torch import Tensor

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
)
from expunge.mechanisms.recovery import RECOVERY_UTILITY, recover, recovery_seconds
from expunge.models.training import project
from expunge.models.zoo import build
from expunge.privacy.gaussian import admitted_sensitivity, gaussian_m
from expunge.privacy.noise import GaussianNoise, rounding_m
from expunge.settings import GuaranteeClass

CLIP_SLACK = 1 - 1e-9  # so that rounding of the norm never lets a clipped vector out of its ball


class OutputPerturbation:
    """Noise on clipped weights, then noiseless recovery training on the retain set."""

    name = "output-perturbation"
    guarantee: GuaranteeClass = "unconditional"
    reference = (
        "any weights whatever, clipped to the same ball, then the same noise and the same recovery training on the "
        "retain set"
    )
    formula = "2 norm_bound, for any two weights in the ball"
    needs = ("the parent's released weights",)
    assumptions: tuple[str, ...] = ()

    def assess(self, context: Context) -> Assessment:
        """Judge from the ball alone.

        Args:
            context: The request.

        Returns:
            The assessment.
        """
        policy, calibration = context.policy.unconditional, self.calibrate(context)
        return Assessment(
            self.name,
            self.guarantee,
            policy.epsilon,
            policy.delta,
            calibration.error_bound,
            recovery_seconds(context),
            utility=RECOVERY_UTILITY.format(sigma=calibration.sigma),
        )

    def calibrate(self, context: Context) -> Calibration:
        """Sigma for a sensitivity of ``2 C0``.

        Args:
            context: The request.

        Returns:
            The calibration.
        """
        policy = context.policy.unconditional
        m = gaussian_m(policy.epsilon, policy.delta)
        # rounded up so that the ball fits into what is left of m after rounding's share
        sigma = 2 * policy.norm_bound / (m - rounding_m(context.parameters)) * (1 + 1e-12)
        bound = admitted_sensitivity(sigma, policy.epsilon, policy.delta)
        return Calibration(bound, sigma, policy.epsilon, policy.delta, context.parameters)

    def unlearn(self, problem: Problem) -> Unlearned:
        """Clip the parent's weights.

        Args:
            problem: The request.

        Returns:
            Clipped weights, with the bound that holds for any.

        Raises:
            CertificateRefusedError: If there are no finite weights to start from.
        """
        policy, spec = problem.context.policy.unconditional, problem.context.spec
        start = finite_start(problem)
        return Unlearned(
            weights=project(start, policy.norm_bound * CLIP_SLACK),
            origin=build(spec, problem.search).initial(),
            error_bound=2 * policy.norm_bound,
            binding="ball",
            constants=(
                Constant(
                    "norm_bound", policy.norm_bound, "policy", "weights are clipped to it before the noise"
                ),
            ),
            sealed={"parent_norm": float(start.norm())},
        )

    def perturb(
        self, problem: Problem, unlearned: Unlearned, calibration: Calibration, noise: GaussianNoise
    ) -> Tensor:
        """Noise once, then train on the retain set.

        Args:
            problem: The request.
            unlearned: Clipped weights.
            calibration: With sigma.
            noise: The stream.

        Returns:
            Shape (d,).
        """
        return recover(problem, add_noise(unlearned.weights, calibration, noise))


def finite_start(problem: Problem) -> Tensor:
    """The parent's weights, with the request checked.

    Args:
        problem: The request.

    Returns:
        Shape (d,), float64.

    Raises:
        CertificateRefusedError: If there are none, or the request is faulty.
    """
    check_problem(problem)
    if problem.start is None:
        raise CertificateRefusedError(
            "the parent's weights do not fit the retain set's features (a category vanished)",
            remedy="let the batch be retrained",
        )
    return problem.start.double()
