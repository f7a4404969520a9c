"""Training: the process that unlearning is compared with, so it is deterministic and stops where it promises."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from expunge import progress
from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.newton_cg import ConvexSolution, minimize
from expunge.curvature.preconditioner import KeptCurvature
from expunge.errors import ExpungeError, NotConvergedError, PolicyError
from expunge.models.forecast import forecast, pass_seconds
from expunge.models.parts import Source
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build

_PATIENCE = 1.0  # seconds between two signs of life


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Args:
        weights: Trainable parameters, float64, shape (d,): of the linearisation, or of the network itself.
        origin: Initial weights w0, shape (d,).
        gradient_norm: At the weights, over the training records, float64.
        rounding: Of that gradient, as :class:`~expunge.curvature.newton_cg.ConvexSolution` says; 0 for deep models.
        proved: Whether that is a proved bound.
        products: Curvature products (linearised) or optimiser steps (deep) spent.
        seconds: Wall time.
    """

    weights: Tensor
    origin: Tensor
    gradient_norm: float
    rounding: float
    proved: bool
    products: int
    seconds: float


def project(weights: Tensor, norm_bound: float) -> Tensor:
    """Project onto the ball ``||w||_2 <= C``.

    Args:
        weights: Shape (d,).
        norm_bound: C.

    Returns:
        The nearest point of the ball.

    Example:
        >>> float(project(torch.tensor([3.0, 4.0]), 1.0).norm())
        1.0
    """
    norm = float(weights.norm())
    return weights if norm <= norm_bound else weights * (norm_bound / norm)


def train(
    spec: ModelSpec,
    features: Tensor,
    labels: Tensor,
    *,
    start: Tensor | None = None,
    kept: KeptCurvature | None = None,
    search: Source = None,
    device: torch.device | str = "cpu",
    what: str = "training",
) -> Trained:
    """Train from the spec's own initial weights, or from others.

    Args:
        spec: Model and procedure.
        features: Encoded records, shape (n, in_features).
        labels: Class indices, shape (n,).
        start: Where to start instead. For a linearised model it does not change what is certified.
        kept: Kept curvature, to precondition the solver of a linearised model with.
        search: Folder of one's own model, or parts saved with a model.
        device: Where to compute; what comes back lies on the CPU.
        what: Name of the work in progress reports.

    Returns:
        The trained model; linearised ones within their gradient tolerance.

    Raises:
        NotConvergedError: If the tolerance was not reached, rounding is above its allowance, or a loss is not finite.
    """
    began = time.perf_counter()
    network = build(spec, search, device)
    _require_computes(spec, network, features)
    if progress.is_heard() and (
        said := forecast(spec, len(labels), pass_seconds(spec, network, features, labels))
    ):
        progress.tell(said)
    if spec.linearize:
        objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
        solution = minimize(
            objective,
            torch.zeros(network.size, dtype=torch.float64) if start is None else start,
            tolerance=spec.gradient_tolerance,
            max_products=spec.max_products,
            what=what,
            kept=kept,
            mixed=True,
        )
        check_converged(spec, solution, features)
        return Trained(
            solution.solution,
            network.initial().cpu(),
            solution.gradient_norm,
            solution.rounding,
            solution.proved,
            solution.products,
            time.perf_counter() - began,
        )
    initial = network.initial() if start is None else start.to(device, torch.float64)
    weights, steps = _projected_adam(
        spec, network, initial, features.to(device, torch.float64), labels.to(device), what
    )
    seconds = time.perf_counter() - began
    return Trained(weights.cpu(), network.initial().cpu(), math.nan, 0.0, False, steps, seconds)


def _require_computes(spec: ModelSpec, network: FlatModule, features: Tensor) -> None:
    """Call the network once, on zeros: no message shows a person's features."""
    rows = torch.zeros((2, *features.shape[1:]), dtype=torch.float64, device=network.device)
    try:
        with torch.no_grad():
            shape = tuple(network(network.initial(), rows).shape)
    except ExpungeError:
        raise
    except Exception as error:  # whatever one's own code makes of its input
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        if shape == (2, spec.classes):
            return
        got = f"outputs of shape {shape} for 2 records of {spec.classes} classes"
    raise PolicyError(
        f"the model {spec.name} does not compute on the data",
        expected="a network whose forward takes one tensor (records, features) and returns logits (records, classes)",
        got=got,
        remedy="let forward take all features as one tensor and part them inside",
    )


def check_converged(spec: ModelSpec, solution: ConvexSolution, features: Tensor) -> None:
    """Refuse a point that may not be certified.

    Args:
        spec: Model with its tolerances.
        solution: What was reached.
        features: Encoded records, shape (n, ...): the remedy names a column of them.

    Raises:
        NotConvergedError: If the point is outside the tolerance or the rounding outside its allowance.
    """
    if solution.status != "converged" or not solution.gradient_norm <= spec.gradient_tolerance:
        raise NotConvergedError(
            f"the solver stopped short ({solution.status})",
            expected=f"gradient norm <= {spec.gradient_tolerance:.1e}",
            got="a norm above it",
            remedy="raise training.max_products or training.l2 in params.yaml, and train anew",
        )
    if not solution.rounding <= spec.rounding_allowance:
        width = features.shape[1]
        largest = int(features.abs().reshape(len(features), width, -1).amax((0, 2)).argmax())
        raise NotConvergedError(
            "rounding of the gradient is above its allowance",
            expected=f"at most {spec.rounding_allowance:.1e}",
            got="a bound above it",  # the figure depends on every record
            remedy=f"scale the features (of the {width} encoded columns number {largest + 1} is the largest in "
            "magnitude), or raise training.rounding_allowance or training.l2 in params.yaml, and train anew",
        )


def _projected_adam(
    spec: ModelSpec, network: FlatModule, initial: Tensor, features: Tensor, labels: Tensor, what: str
) -> tuple[Tensor, int]:
    """Adam on mini-batches in a seeded order, projected onto the ball after every step (Zhang et al., section 3)."""
    weights = project(initial, spec.norm_bound).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weights], lr=spec.learning_rate)
    order = torch.Generator().manual_seed(spec.seed)
    steps, heard = 0, time.monotonic()
    epoch_steps = math.ceil(len(labels) / spec.batch_size)
    for epoch in range(spec.epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=order), spec.batch_size):
            optimizer.zero_grad()
            loss = cross_entropy(network(weights, features[batch]), labels[batch])
            loss = loss + spec.l2 / 2 * weights.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
            with torch.no_grad():
                weights.copy_(project(weights, spec.norm_bound))
            if time.monotonic() - heard > _PATIENCE:  # an epoch of a large dataset takes minutes
                heard = time.monotonic()
                progress.report(f"{what}: epoch {epoch + 1}", steps, spec.epochs * epoch_steps)
        if not math.isfinite(loss.item()):
            raise NotConvergedError(
                "the training loss is not finite", remedy="lower training.learning_rate in params.yaml"
            )
        progress.report(f"{what}: epoch {epoch + 1}", steps, spec.epochs * epoch_steps)
    return weights.detach(), steps
