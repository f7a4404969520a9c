"""The objective of a deep network: mean cross entropy plus ``(mu/2)||w||^2``, not convex."""

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn.functional import cross_entropy

from expunge.curvature.flat import FlatModule

CHUNK = 4096


class NetworkObjective:
    """``L(w) = mean CE(f(x; w), y) + (mu/2)||w||^2`` over a set of records, in float64.

    Args:
        network: The network.
        features: Shape (n, ...).
        labels: Class indices, shape (n,).
        l2: mu, at least 0.
        chunk: Records per product: bounds memory.

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> objective = NetworkObjective(net, torch.ones(3, 2), torch.tensor([0, 1, 0]), 0.1)
        >>> objective.hessian_product(net.initial(), torch.ones(6, dtype=torch.float64)).shape
        torch.Size([6])
    """

    def __init__(
        self, network: FlatModule, features: Tensor, labels: Tensor, l2: float, chunk: int = CHUNK
    ) -> None:
        """Keep the data."""
        self._network = network
        self._parts = list(
            zip(torch.split(features.double(), chunk), torch.split(labels, chunk), strict=True)
        )
        self.l2 = l2
        self.size = network.size
        self.records = len(labels)

    def _loss(self, weights: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self._network(weights, features), labels, reduction="sum") / self.records

    def gradient(self, weights: Tensor) -> Tensor:
        """Gradient over all records.

        Args:
            weights: Shape (d,).

        Returns:
            Shape (d,).
        """
        total = self.l2 * weights
        for features, labels in self._parts:
            total = total + grad(lambda w, x=features, y=labels: self._loss(w, x, y))(weights)
        return total

    def hessian_product(self, weights: Tensor, vector: Tensor) -> Tensor:
        """``H v`` over all records, forward over reverse.

        Args:
            weights: Where the Hessian is taken, shape (d,).
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        total = self.l2 * vector
        for features, labels in self._parts:
            gradient = grad(lambda w, x=features, y=labels: self._loss(w, x, y))
            total = total + jvp(gradient, (weights,), (vector,))[1]
        return total

    def hessian(self, weights: Tensor) -> Tensor:
        """The dense Hessian, one product a column: for few parameters only.

        Args:
            weights: Shape (d,).

        Returns:
            Symmetric matrix of shape (d, d).
        """
        columns = [self.hessian_product(weights, unit) for unit in torch.eye(self.size, dtype=weights.dtype)]
        dense = torch.stack(columns)
        return (dense + dense.T) / 2
