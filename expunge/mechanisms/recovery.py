"""Training on retained data after the noise: post-processing, shared by the unconditional mechanisms."""

from dataclasses import replace

from torch import Tensor

from expunge.mechanisms.contract import Context, Problem
from expunge.models.training import train

RECOVERY_UTILITY = "that of training from noise (sigma {sigma:.3g} per parameter), as far as recovery goes"


def recover(problem: Problem, noised: Tensor) -> Tensor:
    """Train from noised weights on the retain set, with fresh optimiser state.

    Args:
        problem: The request.
        noised: Shape (d,).

    Returns:
        Shape (d,).

    Raises:
        NotConvergedError: If training does not reach its tolerance or is not finite.
    """
    spec, epochs = problem.context.spec, problem.context.policy.unconditional.recovery_epochs
    trained = train(
        spec if epochs is None else replace(spec, epochs=epochs),
        problem.features,
        problem.labels,
        start=noised,
        search=problem.search,
        device=problem.device,
        what="recovery on the retain set",
    )
    return trained.weights


def recovery_seconds(context: Context) -> float:
    """Forecast of the recovery.

    Args:
        context: The request.

    Returns:
        Seconds: training's share of epochs; a linearised model's re-solve is taken as a training.
    """
    epochs, spec = context.policy.unconditional.recovery_epochs, context.spec
    share = 1.0 if epochs is None or spec.linearize else epochs / spec.epochs
    return context.training_seconds * share
