"""Predictions of a trained model from its weights."""

import torch
from torch import Tensor
from torch.func import jvp

from expunge.curvature.jacobian import chunk_size, record_bytes
from expunge.models.parts import Source
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build


def predict_logits(
    spec: ModelSpec,
    weights: Tensor,
    origin: Tensor,
    features: Tensor,
    search: Source = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Logits of a linearised or a deep model.

    Formula: ``f(x; w0) + J(x; w0) v`` for a linearised model, ``f(x; w)`` for a deep one.

    Args:
        spec: The model.
        weights: v or w, shape (d,).
        origin: w0, shape (d,).
        features: Encoded records, shape (n, in_features).
        search: Folder of one's own model, or parts saved with a model.
        device: Where to compute.

    Returns:
        Shape (n, classes), on the CPU.
    """
    network = build(spec, search, device)
    weights, origin = weights.to(device, torch.float64), origin.to(device, torch.float64)
    each = record_bytes(network, origin, features[:1].to(device, torch.float64))
    out = []
    with torch.no_grad():
        for part in torch.split(features, chunk_size(each)):
            inputs = part.to(device, torch.float64)
            if spec.linearize:
                moved = jvp(lambda w, x=inputs: network(w, x), (origin,), (weights,))
                out.append((moved[0] + moved[1]).cpu())
            else:
                out.append(network(weights, inputs).cpu())
    return torch.cat(out)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of records whose largest logit is the label's.

    Args:
        logits: Shape (n, classes).
        labels: Shape (n,).

    Returns:
        In [0, 1]; 0 for no records.

    Example:
        >>> accuracy(torch.eye(2), torch.tensor([0, 0]))
        0.5
    """
    return float((logits.argmax(dim=1) == labels).double().mean()) if len(labels) else 0.0
