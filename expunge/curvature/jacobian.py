"""The Jacobian of a network at a fixed point, over all records, as two products.

At a fixed point the activations never change, so they are kept for as many chunks as fit into a memory limit: a
product then costs its own matrix products only (the traced derivative folds everything else into constants). The
other chunks are streamed: recomputed at every product. Nothing of size records x parameters is ever formed.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functionalize, jvp, vjp
from torch.fx.experimental.const_fold import split_const_subgraphs
from torch.fx.experimental.proxy_tensor import make_fx

from expunge.curvature.flat import FlatModule

MEMORY_LIMIT = 2**30  # bytes of kept activations
_CHUNK_BYTES = 2**28  # bytes of activations in a chunk
_MAX_CHUNK = 16384


class _Part(NamedTuple):
    output: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class Jacobian:
    """``J = d f(X; w) / d w`` at ``w = w0``, shape (n, classes, d), never formed.

    Args:
        network: The network f.
        origin: w0, shape (d,).
        features: X, shape (n, ...), of the network's dtype and device.
        chunk: Records at a time; chosen from the network's activations by default.
        memory_limit: Bytes of activations that may be kept; 0 keeps none.

    Example:
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> Jacobian(net, net.initial(), torch.ones(3, 2, dtype=torch.float64)).product(net.initial()).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        network: FlatModule,
        origin: Tensor,
        features: Tensor,
        *,
        chunk: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> None:
        """Evaluate the network once, keeping what fits."""
        self.size = network.size
        self._dtype, self._device = network.dtype, network.device
        each = record_bytes(network, origin, features)
        # one trace where all fits: tracing costs about as much as some products, whatever the records
        whole = chunk is None and 2 * each * len(features) <= memory_limit
        self.chunk = max(1, len(features)) if whole else chunk or chunk_size(each)
        self._parts: list[_Part] = []
        for features_part in torch.split(features, self.chunk):
            cost = 2 * each * len(features_part)  # for the product, and for the transposed one
            kept = cost <= memory_limit
            memory_limit -= cost if kept else 0
            self._parts.append(_part(network, origin, features_part, kept))
        self.output = torch.cat([part.output for part in self._parts])

    def product(self, vector: Tensor) -> Tensor:
        """``J v`` for every record.

        Args:
            vector: Shape (d,).

        Returns:
            Shape (n, classes).
        """
        with torch.no_grad():
            return torch.cat([part.push(vector) for part in self._parts])

    def transposed(self, cotangent: Tensor) -> Tensor:
        """``J^T r``, summed over the records in order.

        Args:
            cotangent: r, shape (n, classes).

        Returns:
            Shape (d,).
        """
        total = torch.zeros(self.size, dtype=self._dtype, device=self._device)
        for part, weight in zip(self._parts, torch.split(cotangent, self.chunk), strict=True):
            total = total + part.pull(weight)
        return total


def record_bytes(network: FlatModule, weights: Tensor, features: Tensor) -> int:
    """What keeping one record's activations costs, measured on the first record.

    Args:
        network: The network.
        weights: Shape (d,).
        features: Shape (n, ...).

    Returns:
        Bytes: the layers' outputs and derivatives; at least 1.
    """
    counted = 0

    def count(_module: object, _inputs: object, output: object) -> None:
        nonlocal counted
        if isinstance(output, Tensor):
            counted += 2 * output.numel() * output.element_size()

    leaves = [layer for layer in network.module.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in leaves]
    try:
        with torch.no_grad():
            network(weights, features[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, counted)


def chunk_size(each: int) -> int:
    """How many records to look at at a time.

    Args:
        each: Bytes of activations a record.

    Returns:
        At least 1; memory is bounded by it and not by the dataset.

    Example:
        >>> chunk_size(2**20)
        256
    """
    return max(1, min(_MAX_CHUNK, _CHUNK_BYTES // each))


def _part(network: FlatModule, origin: Tensor, features: Tensor, kept: bool) -> _Part:
    def call(weights: Tensor) -> Tensor:
        return network(weights, features)

    if kept:
        output, push = linearized(call, origin)
        pull = vjp(call, origin)[1]
        return _Part(output, push, lambda r: pull(r)[0])
    with torch.no_grad():
        output = call(origin)
    return _Part(
        output,
        lambda v: jvp(call, (origin,), (v,))[1],
        lambda r: vjp(call, origin)[1](r)[0],
    )


def linearized(
    function: Callable[[Tensor], Tensor], point: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A function's value and derivative map at a point, everything but the map itself folded into constants.

    As ``torch.func.linearize``, but functionalised: some derivatives (GroupNorm's second ones) change their operands
    in place, and would change the constants at the first product, making every later one wrong.

    Args:
        function: Of one vector.
        point: Where.

    Returns:
        The value, and ``v -> Df(point) v``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node", UserWarning)
        value = function(point)
        trace = make_fx(functionalize(lambda v: jvp(function, (point,), (v,))[1]))
        product: Callable[[Tensor], Tensor] = split_const_subgraphs(trace(torch.zeros_like(point)))
    return value, product
