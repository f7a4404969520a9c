"""How long a training will take, said before it begins: one pass is timed on a sample of the records."""

import math
import time

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.models.spec import ModelSpec

WORTH_SAYING = 60.0  # seconds
_FIRST = 512  # records; four times as many, until timing them took long enough to be told from overhead
_ENOUGH = 0.2
_CALLS = 3
_CONVEX_PASSES = (
    50,
    300,
)  # 79 on breast-cancer, 153 on MNIST (docs/results.md, section 3); more for a smaller l2


def pass_seconds(spec: ModelSpec, network: FlatModule, features: Tensor, labels: Tensor) -> float:
    """Time one pass over all records: a gradient, as measured on as many of them as it takes.

    Args:
        spec: The model.
        network: Its network, on the device where it will be trained.
        features: Encoded records, shape (n, ...).
        labels: Class indices, shape (n,).

    Returns:
        Seconds, above 0.
    """
    if not spec.linearize:
        size = min(spec.batch_size, len(labels))
        return _timed(spec, network, features[:size], labels[:size]) * math.ceil(len(labels) / size)
    size = min(_FIRST, len(labels))
    while True:
        taken = _timed(spec, network, features[:size], labels[:size])
        if taken >= _ENOUGH or size == len(labels):
            return taken * len(labels) / size
        size = min(4 * size, len(labels))


def _timed(spec: ModelSpec, network: FlatModule, features: Tensor, labels: Tensor) -> float:
    """Seconds of a gradient, the last of three: the first one also prepares what later ones keep."""
    point, taken = network.initial(), 0.0
    objective = (
        LinearizedObjective(network, point, features, labels, spec.l2).single() if spec.linearize else None
    )
    on = features.to(network.device, torch.float64), labels.to(network.device)
    for _ in range(_CALLS):
        began = time.perf_counter()
        if objective is not None:
            gradient = objective.gradient(torch.zeros_like(point, dtype=objective.network.dtype))
        else:
            weights = point.clone().requires_grad_(True)
            gradient = torch.autograd.grad(cross_entropy(network(weights, on[0]), on[1]), weights)[0]
        gradient.norm().item()  # waits for the device
        taken = time.perf_counter() - began
    return taken


def forecast(spec: ModelSpec, records: int, seconds: float) -> str | None:
    """Say what a training will cost, if it is long enough for somebody to plan around it.

    Args:
        spec: The model.
        records: n.
        seconds: Of one pass over them.

    Returns:
        A sentence; None for a training of less than a minute.

    Example:
        >>> forecast(spec, 1500000, 6.0)  # doctest: +SKIP
        'training on 1,500,000 records: 50 passes of about 6 s, so about 5 min'
    """
    few, many = _CONVEX_PASSES if spec.linearize else (spec.epochs, spec.epochs)
    if many * seconds < WORTH_SAYING:
        return None
    pace = f"training on {records:,} records: {{}} passes of about {_span(seconds)}, so {{}}"
    if few == many:
        return pace.format(few, f"about {_span(many * seconds)}")
    return pace.format(
        f"usually {few} to {many}",
        f"{_span(few * seconds)} to {_span(many * seconds)} (longer for a small l2)",
    )


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.1g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
