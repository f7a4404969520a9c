"""The objective of a linearised network: strongly convex by construction.

``f(x; v) = f(x; w0) + J(x; w0) v`` with data-independent ``w0`` (Golatkar et al. 2021; Achille et al. 2021), cross
entropy, and ``(mu/2)||v||^2``. Products with J and its transpose come from automatic differentiation, a chunk of
records at a time: nothing of size records x parameters is formed.
"""

import torch
from torch import Tensor
from torch.func import jvp, vjp

from expunge.curvature.flat import FlatModule

CHUNK = 8192


class LinearizedObjective:
    """``L(v) = mean CE(f(x; w0) + J v, y) + (mu/2)||v||^2`` over a set of records, in float64.

    Args:
        network: The network whose linearisation is trained.
        origin: w0, shape (d,).
        features: Shape (n, ...).
        labels: Class indices, shape (n,).
        l2: mu, above 0.
        chunk: Records per product: bounds memory.

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> objective = LinearizedObjective(net, net.initial(), torch.ones(3, 2), torch.tensor([0, 1, 0]), 0.1)
        >>> objective.gradient(torch.zeros(6, dtype=torch.float64)).shape
        torch.Size([6])
    """

    def __init__(
        self,
        network: FlatModule,
        origin: Tensor,
        features: Tensor,
        labels: Tensor,
        l2: float,
        chunk: int = CHUNK,
    ) -> None:
        """Keep the data and evaluate the network once at the origin."""
        self._network = network
        self._origin = origin.double()
        self._features = features.double()
        self._labels = labels
        self._chunk = chunk
        self.l2 = l2
        self.size = network.size
        self.records = len(labels)
        with torch.no_grad():
            self._offset = torch.cat([network(self._origin, part) for part in self._parts()])

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.split(self._features, self._chunk)

    def jacobian_product(self, vector: Tensor) -> Tensor:
        """``J v`` for every record.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (n, classes).
        """
        out = [
            jvp(lambda w, x=part: self._network(w, x), (self._origin,), (vector,))[1]
            for part in self._parts()
        ]
        return torch.cat(out)

    def transposed_product(self, cotangent: Tensor) -> Tensor:
        """``J^T r`` summed over the records.

        Args:
            cotangent: Shape (n, classes).

        Returns:
            Shape (d,).
        """
        total = torch.zeros_like(self._origin)
        for part, weight in zip(self._parts(), torch.split(cotangent, self._chunk), strict=True):
            pullback = vjp(lambda w, x=part: self._network(w, x), self._origin)[1]
            total += pullback(weight)[0]
        return total

    def logits(self, vector: Tensor) -> Tensor:
        """``f(x; w0) + J v`` for every record.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (n, classes).
        """
        return self._offset + self.jacobian_product(vector)

    def gradient_at(self, vector: Tensor, logits: Tensor) -> Tensor:
        """Gradient at a point whose logits are known: ``J^T (softmax(f) - onehot(y)) / n + mu v``.

        Args:
            vector: Shape (d,).
            logits: ``logits(vector)``.

        Returns:
            Shape (d,).
        """
        error = torch.softmax(logits, dim=1)
        error[torch.arange(self.records), self._labels] -= 1
        return self.transposed_product(error / self.records) + self.l2 * vector

    def gradient(self, vector: Tensor) -> Tensor:
        """Gradient, everything evaluated afresh in float64.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        return self.gradient_at(vector, self.logits(vector))

    def curvature_product(self, logits: Tensor, vector: Tensor) -> Tensor:
        """Hessian product: ``J^T (diag(p) - p p^T) J v / n + mu v``; exact, as f is affine in its parameters.

        Args:
            logits: Logits at the point where the Hessian is taken.
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        probabilities = torch.softmax(logits, dim=1)
        moved = self.jacobian_product(vector)
        weighted = probabilities * moved
        weighted -= probabilities * weighted.sum(dim=1, keepdim=True)
        return self.transposed_product(weighted / self.records) + self.l2 * vector

    def slope(self, logits: Tensor, move: Tensor, point: Tensor, direction: Tensor) -> float:
        """Derivative of the objective along a direction, from logits alone.

        Args:
            logits: Logits at the point.
            move: ``J direction``.
            point: Shape (d,).
            direction: Shape (d,).

        Returns:
            ``<grad L(point), direction>``.
        """
        error = torch.softmax(logits, dim=1)
        error[torch.arange(self.records), self._labels] -= 1
        return float((error * move).sum() / self.records + self.l2 * torch.dot(point, direction))

    def reversed(self) -> "LinearizedObjective":
        """The same objective with records in reverse order and other chunks: rounds differently.

        Returns:
            An objective whose gradient differs by rounding alone.
        """
        return LinearizedObjective(
            self._network,
            self._origin,
            self._features.flip(0),
            self._labels.flip(0),
            self.l2,
            chunk=max(1, self._chunk * 3 // 7),
        )
