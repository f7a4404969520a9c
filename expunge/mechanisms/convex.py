"""Unlearning by re-solving a strongly convex objective from the released weights (class ``convex``).

Training, retraining and unlearning all stop only when the gradient norm on the retain set is at most tau, so both
weights lie within ``(tau + e)/mu`` of the one minimiser and within ``2(tau + e)/mu`` of one another (C1). How fast
or from where the solver got there does not matter.

e bounds the rounding error of the gradient's float64 evaluation. It is proved at every release where the network is
made of linear layers and elementwise activations (:mod:`expunge.curvature.certified_gradient`). Of other networks it is
assumed, and then the class is ``conditional``.
"""

import math

from torch import Tensor

from expunge.curvature.plain_layers import plain_layers
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
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.bounds import convex_error_bound
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise
from expunge.settings import GuaranteeClass

ASSUMED_ROUNDING = (
    "the rounding error of one float64 gradient evaluation of this network is at most rounding_allowance; the release "
    "and its reference are both trained to that; another order of summation is compared, with a margin of 100, and "
    "proves nothing"
)
_WEAKNESS = "rounding of its gradient is proved only for linear layers with tanh, relu or gelu between them"

# Share of a training's time of warm starts from noised weights, without and with kept curvature, as measured in
# docs/results/peers.json. Forecasts, never part of a certificate.
WARM_START_SHARE = 0.75
KEPT_CURVATURE_SHARE = 0.25


def certified_bound(spec: ModelSpec) -> float:
    """C1 for a spec's tolerances.

    Args:
        spec: A linearised model.

    Returns:
        ``2 (tau + e) / mu`` in weight units.
    """
    return convex_error_bound(
        gradient_tolerance=spec.gradient_tolerance,
        rounding_allowance=spec.rounding_allowance,
        strong_convexity=spec.l2,
    )


def _epsilon_of(context: Context) -> float:
    """What a linearised model of this spec would state."""
    release, bound = context.policy.release, certified_bound(context.spec)
    if bound <= context.allowed_error:
        return release.epsilon
    return gaussian_epsilon(release.delta, bound / release.sigma)


def _proved(context: Context) -> bool:
    """Whether rounding of the gradient is proved for such a network."""
    return plain_layers(build(context.spec, context.search)) is not None


class Convex:
    """Warm-started re-solve of a linearised network on the retain set."""

    name = "convex"
    guarantee: GuaranteeClass = "convex"
    reference = (
        "training the same linearised model on the retain set alone to the same gradient tolerance, "
        "then adding the same noise"
    )
    formula = "2 (gradient_tolerance + rounding_allowance) / l2 <= error bound"
    needs = ("a model that is linearised by construction", "curvature kept from the parent's release, if any")
    assumptions = ()

    def assess(self, context: Context) -> Assessment:
        """Judge from tau, e, mu and policy.

        Args:
            context: The request.

        Returns:
            The assessment; refused for models that are not linearised.
        """
        release = context.policy.release
        seconds = context.training_seconds * (
            KEPT_CURVATURE_SHARE if context.spec.kept_rank else WARM_START_SHARE
        )
        if not context.spec.linearize:
            return Assessment(
                self.name,
                self.guarantee,
                math.inf,
                release.delta,
                math.inf,
                seconds,
                refusal="the trained objective is not convex",
                remedy=(
                    "train its linearisation (params.yaml: model.name): it would certify epsilon "
                    f"{_epsilon_of(context):.3g} at delta {release.delta:g}"
                ),
            )
        bound, allowed = certified_bound(context.spec), context.allowed_error
        proved = _proved(context)
        guarantee: GuaranteeClass = self.guarantee if proved else "conditional"
        if bound > allowed:
            return Assessment(
                self.name,
                guarantee,
                _epsilon_of(context),
                release.delta,
                bound,
                seconds,
                refusal=f"error bound {bound:.2g} is above the {allowed:.2g} of policy's release",
                remedy="lower training.gradient_tolerance, or raise training.l2 or release.sigma",
            )
        return Assessment(
            self.name,
            guarantee,
            release.epsilon,
            release.delta,
            self.calibrate(context).error_bound,
            seconds,
            utility=f"that of retraining, under noise of {release.sigma:g} per parameter",
            weakness="" if proved else _WEAKNESS,
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
        """Noise every weight once.

        Args:
            problem: The request.
            unlearned: Re-solved weights.
            calibration: With sigma.
            noise: The stream.

        Returns:
            Shape (d,).
        """
        return add_noise(unlearned.weights, calibration, noise)

    def unlearn(self, problem: Problem) -> Unlearned:
        """Minimise on the retain set from the released weights.

        Args:
            problem: The request.

        Returns:
            Weights within the tolerance, checked in float64 at these very weights.

        Raises:
            NotConvergedError: If the tolerance was not reached.
            CertificateRefusedError: If the model is not linearised, or the request is faulty.
        """
        spec = problem.context.spec
        if not spec.linearize:
            raise CertificateRefusedError(
                "the trained objective is not convex", remedy="train a linearised model"
            )
        check_problem(problem)
        solved = train(
            spec,
            problem.features,
            problem.labels,
            start=problem.start,
            kept=problem.kept,
            search=problem.search,
            device=problem.device,
            what="unlearning (convex)",
        )
        return Unlearned(
            weights=solved.weights,
            origin=solved.origin,
            # the reference may stop anywhere within the tolerance
            error_bound=(solved.gradient_norm + spec.gradient_tolerance + 2 * spec.rounding_allowance)
            / spec.l2,
            binding="theorem",
            constants=(
                Constant(
                    "gradient_tolerance",
                    spec.gradient_tolerance,
                    "policy",
                    "enforced: float64 norm at the release",
                ),
                Constant(
                    "rounding_allowance",
                    spec.rounding_allowance,
                    "policy" if solved.proved else "assumed",
                    "enforced: proved bound on the rounding error of that norm"
                    if solved.proved
                    else "compared with another order of summation, which proves nothing",
                ),
                Constant("l2", spec.l2, "policy", "strong convexity of the objective, by construction"),
            ),
            sealed={
                "gradient_norm": solved.gradient_norm,
                "rounding_bound" if solved.proved else "rounding_check": solved.rounding,
                "products": solved.products,
                "seconds": solved.seconds,
            },
            guarantee=None if solved.proved else "conditional",
            assumptions=() if solved.proved else (ASSUMED_ROUNDING,),
        )
