"""Negative gradient: the loss on the forget set is made to grow.

"Negative gradient" of Golatkar, Achille and Soatto (CVPR 2020, arXiv 1911.04933), section 6: steps in the
direction that increases the loss of the records to be forgotten.
"""

import torch
from torch import Tensor
from torch.func import grad
from torch.nn.functional import cross_entropy

from benchmarks.baselines import Edited
from expunge.curvature.flat import FlatModule


def negative_gradient(
    network: FlatModule,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> Edited:
    """Plain stochastic gradient ascent on the forget set.

    Formula: ``w <- w + gamma grad L_u(w)`` on mini-batches of the forget set.

    Args:
        network: The network.
        weights: The original's, shape (d,).
        features: The forget set, shape (n, p).
        labels: Shape (n,).
        epochs: Over the forget set; few, for nothing stops the loss from growing.
        learning_rate: gamma.
        batch_size: Records a step.
        seed: Of the batch order.

    Returns:
        The weights that it led to.
    """
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=order), batch_size):
            inputs, targets = features[batch], labels[batch]
            slope = grad(lambda w, x=inputs, y=targets: cross_entropy(network(w, x), y))(weights)
            weights = weights + learning_rate * slope
    return Edited(weights, epochs * len(labels))
