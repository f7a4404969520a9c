"""The objective of a deep network: mean cross entropy plus ``(mu/2)||w||^2``, not convex."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.nn.functional import cross_entropy

from expunge.curvature.flat import FlatModule
from expunge.curvature.jacobian import MEMORY_LIMIT, chunk_size, record_bytes

# A Hessian product keeps values, derivatives and second derivatives: about this many times a forward pass's outputs.
_KEPT_FACTOR = 4
# So many times smaller chunks than a Jacobian's keep the peak near that of a training step, at no cost in time:
# benchmarks/hessian_product.py.
_SMALLER = 4


class NetworkObjective:
    """``L(w) = mean CE(f(x; w), y) + (mu/2)||w||^2`` over a set of records.

    Args:
        network: The network; its dtype and device are the objective's.
        features: Shape (n, ...).
        labels: Class indices, shape (n,).
        l2: mu, at least 0.
        chunk: Records per product, which bounds memory; chosen from the network's activations by default.
        memory_limit: Bytes that :meth:`hessian_at` may keep between products.

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> objective = NetworkObjective(net, torch.ones(3, 2), torch.tensor([0, 1, 0]), 0.1)
        >>> objective.hessian_product(net.initial(), torch.ones(6, dtype=torch.float64)).shape
        torch.Size([6])
    """

    def __init__(
        self,
        network: FlatModule,
        features: Tensor,
        labels: Tensor,
        l2: float,
        chunk: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        """Keep the data."""
        self.network = network
        self._features = features.to(dtype=network.dtype, device=network.device)
        self._labels = labels.to(network.device)
        self._record_bytes = record_bytes(network, network.initial(), self._features)
        self.chunk = chunk or max(1, chunk_size(self._record_bytes) // _SMALLER)
        split = torch.split(self._features, self.chunk), torch.split(self._labels, self.chunk)
        self._parts = list(zip(*split, strict=True))
        self._memory_limit = memory_limit
        self.l2 = l2
        self.size = network.size
        self.records = len(labels)

    def on_cpu(self) -> "NetworkObjective":
        """The same objective on the CPU: the judge of what another device has found.

        Returns:
            This one, if it is there already.
        """
        if self.network.device.type == "cpu":
            return self
        return NetworkObjective(self.network.to(device="cpu"), self._features, self._labels, self.l2)

    def _loss(self, weights: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.network(weights, features), labels, reduction="sum") / self.records

    def _gradient_of(self, features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        return grad(lambda w: self._loss(w, features, labels))

    def gradient(self, weights: Tensor) -> Tensor:
        """Gradient over all records.

        Args:
            weights: Shape (d,).

        Returns:
            Shape (d,).
        """
        total = self.l2 * weights
        for features, labels in self._parts:
            total = total + self._gradient_of(features, labels)(weights)
        return total

    def hessian_product(self, weights: Tensor, vector: Tensor) -> Tensor:
        """``H v`` over all records, reverse over reverse, nothing kept.

        Args:
            weights: Where the Hessian is taken, shape (d,).
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        total = self.l2 * vector
        for part in self._parts:
            total = total + _streamed(self._gradient_of(*part), weights, vector)
        return total

    def hessian_at(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """The map ``v -> H v`` at fixed weights, for many products.

        Everything that does not depend on v is computed once and kept, if that fits the memory limit; else nothing is.

        Args:
            weights: Where the Hessian is taken, shape (d,).

        Returns:
            The map.
        """
        if self._record_bytes * self.records * _KEPT_FACTOR <= self._memory_limit:
            maps = [_kept(self._gradient_of(self._features, self._labels), weights)]
        else:
            maps = [partial(_streamed, self._gradient_of(*part), weights) for part in self._parts]

        def product(vector: Tensor) -> Tensor:
            total = self.l2 * vector
            for part in maps:
                total = total + part(vector)
            return total

        return product

    def batch_hessian_product(self, weights: Tensor, indices: Tensor, vectors: Tensor) -> Tensor:
        """Hessians of several mini-batches, each times a vector of its own: the chains of LiSSA as one batch.

        Args:
            weights: Where the Hessians are taken, shape (d,).
            indices: Records of each mini-batch, shape (chains, batch).
            vectors: Shape (chains, d).

        Returns:
            Shape (chains, d), the l2 term included.
        """

        def one(features: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
            def loss(w: Tensor) -> Tensor:
                return cross_entropy(self.network(w, features), labels)

            return _streamed(grad(loss), weights, vector) + self.l2 * vector

        return vmap(one)(self._features[indices], self._labels[indices], vectors)

    def hessian(self, weights: Tensor) -> Tensor:
        """The dense Hessian, one product a column: for few parameters only.

        Args:
            weights: Shape (d,).

        Returns:
            Symmetric matrix of shape (d, d).
        """
        product = self.hessian_at(weights)
        identity = torch.eye(self.size, dtype=weights.dtype, device=weights.device)
        dense = torch.stack([product(unit) for unit in identity])
        return (dense + dense.T) / 2


def _kept(gradient: Callable[[Tensor], Tensor], weights: Tensor) -> Callable[[Tensor], Tensor]:
    """``v -> H v``: the Hessian is symmetric, so the transposed derivative of the gradient is the derivative."""
    pull = vjp(gradient, weights)[1]
    return lambda vector: pull(vector)[0]


def _streamed(gradient: Callable[[Tensor], Tensor], weights: Tensor, vector: Tensor) -> Tensor:
    return _kept(gradient, weights)(vector)
