"""Predictions of a trained model from its weights."""

from pathlib import Path

import torch
from torch import Tensor
from torch.func import jvp

from expunge.curvature.jacobian import chunk_size, record_bytes
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build


def predict_logits(
    spec: ModelSpec, weights: Tensor, origin: Tensor, features: Tensor, search: Path | None = None
) -> Tensor:
    """Logits of a linearised or a deep model.

    Formula: ``f(x; w0) + J(x; w0) v`` for a linearised model, ``f(x; w)`` for a deep one.

    Args:
        spec: The model.
        weights: v or w, shape (d,).
        origin: w0, shape (d,).
        features: Encoded records, shape (n, in_features).
        search: Folder of one's own model.

    Returns:
        Shape (n, classes).
    """
    network = build(spec, search)
    weights, origin = weights.double(), origin.double()
    parts = torch.split(features.double(), chunk_size(record_bytes(network, origin, features.double())))
    with torch.no_grad():
        if not spec.linearize:
            return torch.cat([network(weights, part) for part in parts])
        out = []
        for part in parts:
            moved = jvp(lambda w, x=part: network(w, x), (origin,), (weights,))
            out.append(moved[0] + moved[1])
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
