"""Noisy steps on retained data, then recovery (class ``unconditional``).

Koloskova, Allouah, Jha, Guerraoui and Koyejo (ICML 2025, arXiv 2506.06985). Plain mini-batch steps, no momentum and
no adaptive state; two forms:

    gradient clipping   w <- (1 - gamma kappa) w - gamma clip_C1(grad L) + N(0, sigma^2 I)   from ||w|| <= C0
    model clipping      w <- clip_C2(w - gamma grad L) + N(0, sigma^2 I)

Whole vectors are clipped. Training on retained data afterwards, with fresh state, is post-processing.
"""

import math

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn.functional import cross_entropy

from expunge import progress
from expunge.curvature.flat import FlatModule
from expunge.errors import InputError, NotConvergedError
from expunge.mechanisms.contract import (
    Assessment,
    Calibration,
    Constant,
    Context,
    Problem,
    Unlearned,
    add_noise,
)
from expunge.mechanisms.output_perturbation import CLIP_SLACK, finite_start
from expunge.mechanisms.recovery import RECOVERY_UTILITY, recover, recovery_seconds
from expunge.models.training import project
from expunge.models.zoo import build
from expunge.privacy.finetuning import gradient_clipping_sigma, model_clipping_sigma
from expunge.privacy.gaussian import admitted_sensitivity, gaussian_m
from expunge.privacy.noise import FINE_GRID, GRID, GaussianNoise
from expunge.settings import GuaranteeClass, Policy

NO_GAUSSIAN_DP = (
    "sigma's m is the figure of a Gaussian mechanism with the same epsilon and delta; this account is a contraction "
    "and makes no statement at other epsilons"
)


class NoisyFinetune:
    """T noisy steps on the retain set from clipped weights, then noiseless recovery training."""

    name = "noisy-finetune"
    guarantee: GuaranteeClass = "unconditional"
    reference = (
        "any weights whatever, then the same clipped noisy steps and recovery training on the retain set"
    )
    formula = (
        "gradient-clipping: min over T' <= T of (c^T' 2 norm_bound + 2 learning_rate clip sum_j c^j) / "
        "sqrt(sum_j c^2j), c = 1 - learning_rate decay; model-clipping: sigma times the m of a Gaussian mechanism "
        "with the same epsilon and delta"
    )
    needs = ("the parent's released weights",)
    assumptions: tuple[str, ...] = ()

    def assess(self, context: Context) -> Assessment:
        """Judge from the constants of the steps.

        Args:
            context: The request.

        Returns:
            The assessment; refused where the constants are out of range.
        """
        policy = context.policy.unconditional
        seconds = recovery_seconds(context) + _steps_seconds(context)
        try:
            calibration = self.calibrate(context)
        except InputError as error:
            return Assessment(
                self.name,
                self.guarantee,
                math.inf,
                policy.delta,
                math.inf,
                seconds,
                refusal=str(error),
                remedy="correct noisy_finetune in policy.yaml",
            )
        return Assessment(
            self.name,
            self.guarantee,
            policy.epsilon,
            policy.delta,
            calibration.error_bound,
            seconds,
            utility=RECOVERY_UTILITY.format(sigma=_stationary_sigma(context.policy, calibration.sigma)),
        )

    def calibrate(self, context: Context) -> Calibration:
        """Sigma of one step, so that all of them together are (epsilon, delta)-indistinguishable.

        Args:
            context: The request.

        Returns:
            The calibration.
        """
        policy, steps = context.policy.unconditional, context.policy.noisy_finetune
        gaussian = steps.form == "gradient-clipping"
        if gaussian:
            sigma = gradient_clipping_sigma(
                gaussian_m(policy.epsilon, policy.delta),
                size=context.parameters,
                norm_bound=policy.norm_bound,
                clip=steps.clip,
                learning_rate=steps.learning_rate,
                decay=steps.decay,
                steps=steps.steps,
            )
        else:
            sigma = model_clipping_sigma(
                policy.epsilon,
                policy.delta,
                size=context.parameters,
                norm_bound=policy.norm_bound,
                steps=steps.steps,
            )
        return Calibration(
            admitted_sensitivity(sigma, policy.epsilon, policy.delta),
            sigma,
            policy.epsilon,
            policy.delta,
            context.parameters * steps.steps,
            grid=FINE_GRID if gaussian else GRID,
            gaussian=gaussian,
        )

    def unlearn(self, problem: Problem) -> Unlearned:
        """Clip the parent's weights; the steps themselves are noisy and come after.

        Args:
            problem: The request.

        Returns:
            Clipped weights, with the bound that holds for any.

        Raises:
            CertificateRefusedError: If there are no finite weights to start from.
        """
        context = problem.context
        policy, steps = context.policy.unconditional, context.policy.noisy_finetune
        start = finite_start(problem)
        constants = [
            Constant("norm_bound", policy.norm_bound, "policy", "weights are clipped to it"),
            Constant("steps", float(steps.steps), "policy", f"noisy steps, {steps.form}"),
            Constant("learning_rate", steps.learning_rate, "policy", "of the noisy steps"),
        ]
        if steps.form == "gradient-clipping":
            constants += [
                Constant("decay", steps.decay, "policy", "of the noisy steps"),
                Constant("clip", steps.clip, "policy", "every gradient is clipped to it as a whole"),
            ]
        else:
            constants.append(Constant("contraction", 1.0, "policy", NO_GAUSSIAN_DP))
        return Unlearned(
            weights=project(start, policy.norm_bound * CLIP_SLACK),
            origin=build(context.spec, problem.search).initial(),
            error_bound=0.0,  # nothing is realised: the account holds for any start in the ball
            binding="ball",
            constants=tuple(constants),
            sealed={"parent_norm": float(start.norm())},
        )

    def perturb(
        self, problem: Problem, unlearned: Unlearned, calibration: Calibration, noise: GaussianNoise
    ) -> Tensor:
        """Take the noisy steps, then train on the retain set.

        Args:
            problem: The request.
            unlearned: Clipped weights.
            calibration: With sigma of one step.
            noise: The stream; every step draws afresh from it.

        Returns:
            Shape (d,).

        Raises:
            NotConvergedError: If a gradient is not finite, or recovery fails.
        """
        context, policy = problem.context, problem.context.policy
        steps, spec = policy.noisy_finetune, context.spec
        network = build(spec, problem.search, problem.device)
        features, records = problem.features.double(), len(problem.labels)
        # batches are drawn from the retain set alone, by a seed that no record chose
        order = torch.Generator().manual_seed(spec.seed)
        weights = unlearned.weights
        for step in range(steps.steps):
            batch = torch.randint(records, (min(steps.batch_size, records),), generator=order)
            gradient = _gradient(network, spec.linearize, weights, features[batch], problem.labels[batch])
            gradient = gradient.cpu() + spec.l2 * weights  # clipped and noised there
            largest = float(weights.abs().max())
            if not math.isfinite(float(gradient.norm())) or largest > calibration.sigma * 2.0**FINE_GRID:
                raise NotConvergedError(
                    "the noisy steps left the range where their float64 arithmetic is accounted for",
                    remedy="lower noisy_finetune.learning_rate in policy.yaml, or let the batch be retrained",
                )
            if steps.form == "gradient-clipping":
                clipped = project(gradient, steps.clip * CLIP_SLACK)
                weights = (1 - steps.learning_rate * steps.decay) * weights - steps.learning_rate * clipped
            else:
                moved = weights - steps.learning_rate * gradient
                weights = project(moved, policy.unconditional.norm_bound * CLIP_SLACK)
            weights = add_noise(weights, calibration, noise)
            progress.report("unlearning (noisy steps)", step + 1, steps.steps)
        return recover(problem, weights)


def _gradient(
    network: FlatModule, linearize: bool, weights: Tensor, features: Tensor, labels: Tensor
) -> Tensor:
    origin = network.initial()
    weights, features, labels = (given.to(network.device) for given in (weights, features, labels))

    def loss(w: Tensor) -> Tensor:
        if not linearize:
            return cross_entropy(network(w, features), labels)
        linear = jvp(lambda u: network(u, features), (origin,), (w,))
        return cross_entropy(linear[0] + linear[1], labels)

    gradient: Tensor = grad(loss)(weights)
    return gradient


def _steps_seconds(context: Context) -> float:
    """Forecast of the noisy steps: their share of the records that training looks at, noise not counted."""
    steps, spec = context.policy.noisy_finetune, context.spec
    looked_at = max(1, context.records) * spec.epochs
    return context.training_seconds * min(10.0, steps.steps * steps.batch_size / looked_at)


def _stationary_sigma(policy: Policy, sigma: float) -> float:
    """Noise that is left on a weight after all steps, for the words of the plan."""
    steps = policy.noisy_finetune
    if steps.form == "model-clipping":
        return sigma
    keep = 1 - steps.learning_rate * steps.decay
    return sigma * math.sqrt(math.fsum(keep ** (2 * t) for t in range(steps.steps)))
