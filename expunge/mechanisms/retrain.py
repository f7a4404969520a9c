"""Retraining from scratch on the retain set (class ``exact``): epsilon = 0, delta = 0."""

from torch import Tensor

from expunge.mechanisms.contract import (
    Assessment,
    Calibration,
    Constant,
    Context,
    Problem,
    Unlearned,
    check_problem,
)
from expunge.models.training import train
from expunge.privacy.noise import GaussianNoise
from expunge.settings import GuaranteeClass


class Retrain:
    """The reference itself."""

    name = "retrain"
    guarantee: GuaranteeClass = "exact"
    reference = "training on the retain set alone from data-independent initial weights, as was done here"
    formula = "0: the released weights are the reference's own"
    needs: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    def assess(self, context: Context) -> Assessment:
        """Exact retraining is always admissible in itself.

        Args:
            context: The request.

        Returns:
            The assessment.
        """
        return Assessment(
            self.name,
            self.guarantee,
            0.0,
            0.0,
            0.0,
            context.training_seconds,
            utility="that of a model which never saw the removed records",
        )

    def calibrate(self, context: Context) -> None:
        """Nothing is noised.

        Args:
            context: The request.
        """

    def perturb(
        self, problem: Problem, unlearned: Unlearned, calibration: Calibration, noise: GaussianNoise
    ) -> Tensor:
        """The weights as they are.

        Args:
            problem: The request.
            unlearned: Retrained weights.
            calibration: Unused.
            noise: Unused.

        Returns:
            The weights.
        """
        return unlearned.weights

    def unlearn(self, problem: Problem) -> Unlearned:
        """Train anew; the parent's weights are not looked at.

        Args:
            problem: The request; its start is ignored.

        Returns:
            Weights with a bound of zero.

        Raises:
            NotConvergedError: If training does not reach its tolerance.
            CertificateRefusedError: If the retain set is empty or faulty.
        """
        check_problem(problem, uses_start=False)
        spec = problem.context.spec
        trained = train(
            spec,
            problem.features,
            problem.labels,
            search=problem.search,
            device=problem.device,
            what="retraining",
        )
        return Unlearned(
            weights=trained.weights,
            origin=trained.origin,
            error_bound=0.0,
            binding="exact",
            constants=(
                Constant("seed", float(spec.seed), "policy", "data-independent; same for the reference"),
            ),
            sealed={"products": trained.products, "seconds": trained.seconds},
        )
