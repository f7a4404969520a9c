"""The objective of a linearised network: strongly convex by construction.

``f(x; v) = f(x; w0) + J(x; w0) v`` with data-independent ``w0`` (Golatkar et al. 2021; Achille et al. 2021), cross
entropy, and ``(mu/2)||v||^2``. A softmax regression is its own linearisation, a head on a frozen backbone too.
Curvature is the structured product: Jacobian, small output Hessian, transposed Jacobian.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import vmap

from expunge.curvature.certified_gradient import CertifiedGradient, certified_gradient
from expunge.curvature.flat import FlatModule
from expunge.curvature.jacobian import MEMORY_LIMIT, Jacobian
from expunge.curvature.plain_layers import plain_layers

_OTHER_CHUNKS = 7  # into how many the rounding check breaks up each chunk


class LinearizedObjective:
    """``L(v) = mean CE(f(x; w0) + J v, y) + (mu/2)||v||^2`` over a set of records.

    Args:
        network: The network whose linearisation is trained; its dtype and device are the objective's.
        origin: w0, shape (d,).
        features: Shape (n, ...).
        labels: Class indices, shape (n,).
        l2: mu, above 0.
        chunk: Records per product, which bounds memory; chosen from the network's activations by default.
        memory_limit: Bytes of activations that may be kept between products.
        reverse: Sum over the chunks from the last to the first.

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
        chunk: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        reverse: bool = False,
    ) -> None:
        """Keep the data, and what the network says at the origin as far as that fits."""
        self.network = network
        self._origin = origin.to(dtype=network.dtype, device=network.device)
        self._features = features.to(dtype=network.dtype, device=network.device)
        self._labels = labels.to(network.device)
        self._memory_limit = memory_limit
        self.l2 = l2
        self.size = network.size
        self.records = len(labels)
        self._index = torch.arange(self.records, device=network.device)
        self.jacobian = Jacobian(
            network, self._origin, self._features, chunk=chunk, memory_limit=memory_limit, reverse=reverse
        )
        self._chunk = self.jacobian.chunk

    def logits(self, vector: Tensor) -> Tensor:
        """``f(x; w0) + J v`` for every record.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (n, classes).
        """
        return self.jacobian.output + self.jacobian.product(vector)

    def _error(self, logits: Tensor, rows: slice = slice(None)) -> Tensor:
        error = torch.softmax(logits, dim=1)
        error[self._index[: len(logits)], self._labels[rows]] -= 1
        return error

    def logits_and_gradient(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What the model says at a point, and the gradient there: ``J^T (softmax(f) - onehot(y)) / n + mu v``.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (n, classes), and shape (d,).
        """
        logits, pulled = self.jacobian.through(
            vector, lambda output, rows: self._error(output, rows) / self.records
        )
        return logits, pulled + self.l2 * vector

    def gradient(self, vector: Tensor) -> Tensor:
        """Gradient at a point.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        return self.logits_and_gradient(vector)[1]

    def certified_gradient(self, vector: Tensor) -> CertifiedGradient | None:
        """Gradient at a point with a proved bound on its rounding error; made on the CPU, in float64.

        Args:
            vector: On the CPU, shape (d,).

        Returns:
            The gradient; None where the network's arithmetic is not known operation by operation.
        """
        layers = plain_layers(self.network)
        if layers is None or self._features.dim() != 2:
            return None
        return certified_gradient(
            self.network, layers, self._origin, vector, self._features, self._labels, self.l2
        )

    def curvature_product(self, probabilities: Tensor, vector: Tensor) -> Tensor:
        """Hessian product: ``J^T (diag(p) - p p^T) J v / n + mu v``; exact, as f is affine in its parameters.

        Args:
            probabilities: Softmax of the logits at the point where the Hessian is taken, shape (n, classes).
            vector: Shape (d,).

        Returns:
            Shape (d,).
        """
        weighted = probabilities * self.jacobian.product(vector)
        weighted = weighted - probabilities * weighted.sum(dim=1, keepdim=True)
        return self.jacobian.transposed(weighted / self.records) + self.l2 * vector

    def curvature_block(self, probabilities: Tensor, vectors: Tensor) -> Tensor:
        """Hessian products with several vectors at once.

        Args:
            probabilities: As for :meth:`curvature_product`.
            vectors: Shape (k, d).

        Returns:
            Shape (k, d).
        """
        return vmap(partial(self.curvature_product, probabilities))(vectors)

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
        error = self._error(logits)
        return float((error * move).sum() / self.records + self.l2 * torch.dot(point, direction))

    def head_inputs(self) -> Tensor | None:
        """What the last layer sees, where it alone is trained.

        Returns:
            Shape (n, width), or None where more is trained than one linear layer with bias, or the layer sees more
            than one row a record.
        """
        last = [layer for layer in self.network.module.modules() if isinstance(layer, nn.Linear)][-1:]
        trained = [p for p in self.network.module.parameters() if p.requires_grad]
        if (
            not last
            or last[0].bias is None
            or [id(p) for p in trained] != [id(p) for p in last[0].parameters()]
        ):
            return None
        seen: list[Tensor] = []
        hook = last[0].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
        try:
            with torch.no_grad():
                for features in torch.split(self._features, self._chunk):
                    self.network(self._origin, features)
        finally:
            hook.remove()
        inputs = torch.cat(seen)
        return inputs if inputs.dim() == 2 and len(inputs) == self.records else None

    def reversed(self) -> "LinearizedObjective":
        """The same objective summed in other chunks of records, the last one first: rounds differently.

        Returns:
            An objective whose gradient differs by rounding alone.
        """
        return self._over(
            self.network, slice(None), reverse=True, chunk=max(1, self._chunk // _OTHER_CHUNKS), limit=0
        )

    def on_cpu(self) -> "LinearizedObjective":
        """The same objective on the CPU, nothing kept: the judge of what another device has found.

        Returns:
            This one, if it is there already.
        """
        if self.network.device.type == "cpu":
            return self
        return self._over(self.network.to(device="cpu"), slice(None), chunk=None, limit=0)

    def single(self) -> "LinearizedObjective":
        """The same objective in float32, for inner iterations.

        Returns:
            A new objective.
        """
        network = self.network.to(dtype=torch.float32)
        return self._over(network, slice(None), chunk=None, limit=self._memory_limit)

    def sample(self, records: int, seed: int) -> "LinearizedObjective":
        """The objective over a random part of the records, in float32: for preconditioners.

        Args:
            records: How many at most.
            seed: Of the choice; data-independent.

        Returns:
            A new objective.
        """
        chosen = torch.randperm(self.records, generator=torch.Generator().manual_seed(seed))[:records]
        network = self.network.to(dtype=torch.float32)
        return self._over(network, chosen.sort().values, chunk=None, limit=self._memory_limit)

    def _over(
        self,
        network: FlatModule,
        chosen: Tensor | slice,
        *,
        chunk: int | None,
        limit: int,
        reverse: bool = False,
    ) -> "LinearizedObjective":
        features, labels = self._features[chosen], self._labels[chosen]
        return LinearizedObjective(
            network,
            self._origin,
            features,
            labels,
            self.l2,
            chunk=chunk,
            memory_limit=limit,
            reverse=reverse,
        )
