"""The Jacobian of a network at a fixed point, over all records, as two products.

At a fixed point the activations never change, so they are kept for as many chunks as fit into a memory limit: a
product then costs its own matrix products only. The other chunks are streamed: recomputed at every product. Nothing of
size records x parameters is ever formed. ``J v`` is the transpose of ``r -> J^T r``, which is linear: two reverse modes
keep what one forward mode would compute again.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from expunge.curvature.flat import FlatModule

MEMORY_LIMIT = 2**30  # bytes of kept activations
_CHUNK_BYTES = 2**28  # bytes of activations in a chunk
_MAX_CHUNK = 16384


class _Maps(NamedTuple):
    output: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


class _Part(NamedTuple):
    output: Callable[[], Tensor]
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]
    maps: Callable[[], _Maps]  # all three, for what one evaluation costs


class Jacobian:
    """``J = d f(X; w) / d w`` at ``w = w0``, shape (n, classes, d), never formed.

    Args:
        network: The network f.
        origin: w0, shape (d,).
        features: X, shape (n, ...), of the network's dtype and device.
        chunk: Records at a time; chosen from the network's activations by default.
        memory_limit: Bytes of activations that may be kept; 0 keeps none.
        reverse: Sum the transposed product over the chunks from the last to the first.

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
        reverse: bool = False,
    ) -> None:
        """Keep the activations of as many chunks as fit."""
        self.size = network.size
        self._dtype, self._device = network.dtype, network.device
        each = record_bytes(network, origin, features)
        whole = chunk is None and 2 * each * len(features) <= memory_limit
        self.chunk = max(1, len(features)) if whole else chunk or chunk_size(each)
        self._reverse = reverse
        self._parts: list[_Part] = []
        for features_part in torch.split(features, self.chunk):
            cost = 2 * each * len(features_part)  # for the product, and for the transposed one
            kept = cost <= memory_limit
            memory_limit -= cost if kept else 0
            self._parts.append(_part(network, origin, features_part, kept))

    @cached_property
    def output(self) -> Tensor:
        """``f(X; w0)``, shape (n, classes)."""
        return torch.cat([part.output() for part in self._parts])

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
        """``J^T r``, summed over the chunks in order.

        Args:
            cotangent: r, shape (n, classes).

        Returns:
            Shape (d,).
        """
        total = torch.zeros(self.size, dtype=self._dtype, device=self._device)
        pairs = list(zip(self._parts, torch.split(cotangent, self.chunk), strict=True))
        for part, weight in reversed(pairs) if self._reverse else pairs:
            total = total + part.pull(weight)
        return total

    def through(self, vector: Tensor, weigh: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, Tensor]:
        """``f + J v`` and ``J^T r(f + J v)``, every chunk evaluated once: what is not kept costs less so.

        Args:
            vector: v, shape (d,).
            weigh: r, of the outputs of a chunk and the rows that it is.

        Returns:
            Shape (n, classes), and shape (d,).
        """
        total = torch.zeros(self.size, dtype=self._dtype, device=self._device)
        outputs: list[Tensor] = []
        numbered = list(enumerate(self._parts))
        for number, part in reversed(numbered) if self._reverse else numbered:
            maps = part.maps()
            with torch.no_grad():
                output = maps.output + maps.push(vector)
            outputs.append(output)
            first = number * self.chunk
            total = total + maps.pull(weigh(output, slice(first, first + len(output))))
            del maps  # one chunk's activations at a time
        return torch.cat(outputs[::-1] if self._reverse else outputs), total


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

    def evaluated() -> Tensor:
        with torch.no_grad():
            return call(origin)

    if kept:
        maps = _maps(call, origin)
        return _Part(lambda: maps.output, maps.push, maps.pull, lambda: maps)
    return _Part(
        evaluated,
        lambda v: _maps(call, origin).push(v),
        lambda r: vjp(call, origin)[1](r)[0],
        lambda: _maps(call, origin),
    )


def _maps(call: Callable[[Tensor], Tensor], origin: Tensor) -> _Maps:
    """Value, ``v -> J v`` and ``r -> J^T r``."""
    output, pull = vjp(call, origin)[:2]
    push = vjp(lambda r: pull(r)[0], torch.zeros_like(output))[1]
    return _Maps(output.detach(), lambda v: push(v)[0], lambda r: pull(r)[0])
