"""The gradient of a linearised network in float64, with a proved bound on its rounding error.

Of ``g = (1/n) sum_i J_i^T (softmax(z_i) - onehot(y_i)) + mu v`` with ``z_i = f(x_i; w0) + J_i v``, every float64 input
(features, w0, v, mu) is an exact real number. One sweep over chunks of records evaluates g by a forward pass, a tangent
pass and a backward pass, and beside each row a running error bound in the manner of Higham ("Accuracy and Stability of
Numerical Algorithms", 2002, chapters 3 and 20). The derivation stands in docs/adr/0013-proved-rounding.md.

It holds for IEEE arithmetic in double precision, rounded to nearest, fused or not; matrix products that sum the n m p
products in whatever order (no Strassen); exp, tanh and erf within 4 units in the last place; underflow gradual or to
zero.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from expunge.curvature.flat import FlatModule
from expunge.curvature.plain_layers import Activation, Linear

_U = 2.0**-53
_TINY = 1e-140  # covers, a row and operation, whatever underflows: below 1e-154 squares vanish
_LARGEST = 1e70  # of any norm of parameters or row of what enters a layer; above it nothing is claimed
_OUTWARD = (
    1 + 2.0**-20
)  # the bound is a monotone float64 evaluation with far fewer than 2^32 roundings in a chain
_BLOCK = 128  # inner products are summed in blocks of so many terms: a bound six times as sharp at 784
_CHUNK = 2048


@dataclass(frozen=True)
class CertifiedGradient:
    """A gradient and what rounding did to it at most.

    Args:
        gradient: Float64 on the CPU, shape (d,).
        rounding: Proved bound on ``||gradient - exact||_2``; infinite or not a number where nothing is claimed.
    """

    gradient: Tensor
    rounding: float


def certified_gradient(
    network: FlatModule,
    layers: tuple[Linear | Activation, ...],
    origin: Tensor,
    vector: Tensor,
    features: Tensor,
    labels: Tensor,
    l2: float,
) -> CertifiedGradient:
    """Evaluate the gradient, and bound its rounding error.

    Args:
        network: Float64, on the CPU.
        layers: Its layers.
        origin: w0, shape (d,).
        vector: v, shape (d,).
        features: Float64, shape (n, width).
        labels: Class indices, shape (n,).
        l2: mu.

    Returns:
        The gradient with its bound.

    Example:
        >>> from expunge.curvature.plain_layers import plain_layers
        >>> net = FlatModule(torch.nn.Linear(2, 2))
        >>> x, y = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0, 1, 0])
        >>> w = net.initial()
        >>> certified_gradient(net, plain_layers(net), w, w, x, y, 0.1).rounding < 1e-14
        True
    """
    with torch.no_grad():
        sweep = _Sweep(network, layers, origin, vector)
        size = max(_CHUNK, math.isqrt(len(labels)))
        chunks = 0
        for rows, classes in zip(torch.split(features, size), torch.split(labels, size), strict=True):
            sweep.add(rows, classes)
            chunks += 1
        return sweep.finish(vector, l2, len(labels), min(size, len(labels)) + chunks)


def _gamma(roundings: float) -> float:
    return roundings * _U / (1 - roundings * _U)


def _depth(terms: int) -> int:
    """Roundings that a term of a blocked inner product passes at most, its own product included."""
    blocks = -(-terms // _BLOCK)
    return terms if blocks <= 1 else _BLOCK + blocks - 1


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix``, in blocks of the inner dimension, each summed before it is added to the total."""
    total = torch.mm(rows[:, :_BLOCK], matrix[:_BLOCK])
    for first in range(_BLOCK, len(matrix), _BLOCK):
        total += torch.mm(rows[:, first : first + _BLOCK], matrix[first : first + _BLOCK])
    return total


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = vector_norm(rows, dim=1)
    return norms + _TINY


def _norm(values: Tensor | None) -> float:
    return 0.0 if values is None else float(vector_norm(values)) + _TINY


def _spectral(matrix: Tensor | None) -> float:
    """Bound on the spectral norm: Frobenius, or root of the largest column sum times the largest row sum."""
    if matrix is None:
        return 0.0
    magnitude = matrix.abs()
    sums = float(magnitude.sum(0).max()), float(magnitude.sum(1).max())
    return min(_norm(matrix), math.sqrt(sums[0]) * math.sqrt(sums[1]) + _TINY)


@dataclass
class _State:
    """A layer's input for a chunk, and row by row how far it may lie from the exact one.

    Args:
        value: Activations a, shape (m, width).
        error: Bound on ``||a - exact||_2``, shape (m,).
        largest: Bound on the largest error of an element, shape (m,).
        tangent: Derivative of a along v, or None where nothing before is trained.
        tangent_error: Likewise of the tangent.
    """

    value: Tensor
    error: Tensor
    largest: Tensor
    tangent: Tensor | None
    tangent_error: Tensor


class _Parts(NamedTuple):
    """Flat vectors by parameter name: w0, v, and the sum that becomes the gradient."""

    origin: dict[str, Tensor]
    vector: dict[str, Tensor]
    gradient: dict[str, Tensor]


class _LinearStep:
    """A linear layer at w0 with its part of v; what a chunk left is kept until the way back."""

    def __init__(self, layer: Linear, parts: "_Parts", last: bool) -> None:
        names = layer.weight_name or "", layer.bias_name or ""
        weight = parts.origin.get(names[0], layer.weight)
        bias = None if layer.bias is None else parts.origin.get(names[1], layer.bias)
        self.turn, self.shift = (parts.vector.get(name) for name in names)
        self.weight_sum, self.bias_sum = (parts.gradient.get(name) for name in names)
        self.trained = self.weight_sum is not None or self.bias_sum is not None
        self.weight = weight
        self.fixed, self.fixed_bias = weight, bias  # what the value is computed with
        if last:  # the logits are one product: (W + V) a + (b + c) + W da
            self.fixed = weight if self.turn is None else weight + self.turn
            self.fixed_bias = _sum(bias, self.shift)
        both = [self.fixed] if last or self.turn is None else [self.fixed, self.turn]
        self.joined = torch.cat(both).T.contiguous()
        self.outputs = len(weight)
        self.forward_gamma = _gamma(_depth(weight.shape[1]) + 4)  # and bias, tangent, W + V
        self.backward_gamma = _gamma(_depth(self.outputs))
        self.norm, self.spectral = _norm(weight), _spectral(weight)
        self.fixed_norm, self.fixed_spectral = _norm(self.fixed), _spectral(self.fixed)
        self.row_norm = float(vector_norm(self.fixed, dim=1).max()) + _TINY
        self.turn_norm, self.turn_spectral = _norm(self.turn), _spectral(self.turn)
        self.bias_norm, self.shift_norm = _norm(self.fixed_bias), _norm(self.shift)
        norms = self.norm, self.fixed_norm, self.turn_norm, self.bias_norm, self.shift_norm
        self.peak = torch.tensor(norms, dtype=torch.float64).amax()
        self.last = last
        self.data_error = torch.zeros((), dtype=torch.float64)
        self.sum_size = torch.zeros((), dtype=torch.float64)
        self.seen = _State(weight, self.data_error, self.data_error, None, self.data_error)

    def forward(self, state: _State) -> _State:
        """Values and tangents; for the last layer their sum."""
        self.seen, gamma = state, self.forward_gamma
        self.size = self._counted(state.value)
        products = _product(state.value, self.joined)
        value, tangent = products[:, : self.outputs], None
        if self.fixed_bias is not None:
            value = value + self.fixed_bias
        slack = state.error + gamma * self.size
        error = (
            self.fixed_spectral * state.error + gamma * (self.fixed_norm * self.size + self.bias_norm) + _TINY
        )
        largest = self.row_norm * slack + gamma * self.bias_norm + _TINY
        tangent_error = torch.zeros_like(error)
        if not self.last and (self.turn is not None or self.shift is not None):
            tangent = products[:, self.outputs :] if self.turn is not None else torch.zeros_like(value)
            tangent = tangent if self.shift is None else tangent + self.shift
            tangent_error = (
                self.turn_spectral * state.error
                + gamma * (self.turn_norm * self.size + self.shift_norm)
                + _TINY
            )
        if state.tangent is not None:
            carried = _product(state.tangent, self.weight.T)
            size = self._counted(state.tangent)
            carried_error = self.spectral * state.tangent_error + gamma * self.norm * size + _TINY
            if self.last:
                value, error = value + carried, error + carried_error
            else:
                tangent = carried if tangent is None else tangent + carried
                tangent_error = tangent_error + carried_error
        return _State(value, error, largest, tangent, tangent_error)

    def collect(self, residual: Tensor, error: Tensor) -> None:
        """Add a chunk to this layer's part of the gradient, and to its error."""
        state, squares = self.seen, torch.zeros_like(error)
        size = self._counted(residual)
        if self.weight_sum is not None:
            self.weight_sum.add_(torch.mm(residual.T, state.value))
            squares = squares + self.size.square()
            self.data_error += ((size + error) * state.error).sum()
        if self.bias_sum is not None:
            self.bias_sum.add_(residual.sum(0))
            squares = squares + 1
        inputs = squares.sqrt()
        self.data_error += (error * inputs + _TINY).sum()
        self.sum_size += (size * inputs).sum()

    def backward(self, residual: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals for the layer before, with bounds on their errors."""
        size = self._counted(residual)
        moved = self.spectral * error + self.backward_gamma * self.norm * size + _TINY
        return _product(residual, self.weight), moved

    def _counted(self, rows: Tensor) -> Tensor:
        norms = _row_norms(rows)
        self.peak = torch.maximum(self.peak, norms.amax())
        return norms


class _ActivationStep:
    """An activation; what its derivatives need is kept until the way back."""

    def __init__(self, layer: Activation) -> None:
        self.layer = layer
        self.slope: Tensor | None = None

    def forward(self, state: _State) -> _State:
        """Values, and tangents times derivatives."""
        layer = self.layer
        self.seen, self.value, self.slope = state, layer.value(state.value), None
        error = layer.lipschitz * state.error + _TINY
        if layer.value_error:
            error += layer.value_error * _U * (_row_norms(self.value) + _row_norms(state.value))
        tangent, tangent_error = state.tangent, state.tangent_error
        if tangent is not None:
            tangent, tangent_error = self.backward(tangent, tangent_error)
        return _State(self.value, error, error, tangent, tangent_error)

    def backward(self, vectors: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """Rows times the derivatives: the same for tangents and for residuals."""
        if self.slope is None:
            self._differentiate()
        assert self.slope is not None
        # u of a result is u of a row times a derivative, which is at most the constant and its own error
        moved = self.layer.lipschitz * error + self.slack * _row_norms(vectors) + _TINY
        if self.unsure is not None:
            moved += _row_norms(vectors * self.unsure)
        return self.slope * vectors, moved

    def _differentiate(self) -> None:
        layer, state = self.layer, self.seen
        self.slope = layer.slope(state.value, self.value)
        self.unsure: Tensor | None = None
        if layer.bend is None:  # where the sign is not certain the derivative is off by at most 1
            largest = (
                state.largest * _OUTWARD
            )  # a comparison is no part of the chain that is widened at the end
            near = (state.value.abs().amin(1) <= largest) & (largest > 0)
            if bool(near.any()):
                self.unsure = (state.value.abs() <= largest[:, None]) & near[:, None]
            slack = torch.zeros_like(state.error)
        else:
            slack = layer.bend * state.largest + layer.slope_error * _U
        self.slack = slack + _U * (layer.lipschitz + slack)


class _Sweep:
    """The sums of a pass, chunk by chunk."""

    def __init__(
        self, network: FlatModule, layers: tuple[Linear | Activation, ...], origin: Tensor, vector: Tensor
    ) -> None:
        self.gradient = torch.zeros_like(vector)
        parts = _Parts(*(network.unflatten(flat) for flat in (origin, vector, self.gradient)))
        last = len(layers) - 1
        self.steps: list[_LinearStep | _ActivationStep] = [
            _LinearStep(layer, parts, number == last) if isinstance(layer, Linear) else _ActivationStep(layer)
            for number, layer in enumerate(layers)
        ]
        trained = [n for n, step in enumerate(self.steps) if isinstance(step, _LinearStep) and step.trained]
        self.first = min(trained, default=last)

    def _linear(self) -> Iterator[_LinearStep]:
        return (step for step in self.steps if isinstance(step, _LinearStep))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add the part of a chunk of records, not yet divided by n."""
        exact = torch.zeros(len(labels), dtype=torch.float64)
        state = _State(features, exact, exact, None, exact)
        for step in self.steps:
            state = step.forward(state)
        residual, error = _residual(state.value, state.error, labels)
        for number in range(len(self.steps) - 1, self.first - 1, -1):
            step = self.steps[number]
            if isinstance(step, _LinearStep) and step.trained:
                step.collect(residual, error)
            if number > self.first:
                residual, error = step.backward(residual, error)

    def finish(self, vector: Tensor, l2: float, records: int, depth: int) -> CertifiedGradient:
        """Divide, add the l2 term, and put the errors together."""
        mean, decay = self.gradient / records, l2 * vector
        gradient = mean + decay
        errors = [
            (float(step.data_error) + _gamma(depth) * float(step.sum_size)) / records
            for step in self._linear()
        ]
        # hypot: squares of large errors would overflow, and be an exception instead of no claim
        rounding = math.hypot(*errors) + _U * (_norm(mean) + _norm(decay) + _norm(gradient)) + _TINY
        if not all(float(step.peak) <= _LARGEST for step in self._linear()):
            rounding = math.inf
        return CertifiedGradient(gradient, rounding * _OUTWARD)


def _residual(logits: Tensor, error: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``softmax(z) - onehot(y)``: its own error does not grow with the logits' range.

    A probability carries a relative error of ``(R + sum_j p_j R_j + classes + 16) u`` with R the distance of its logit
    from the largest, and ``sum_j p_j R_j <= ln classes``. An error of the logits is passed on times at most
    ``2 max_k p_k (1 - p_k) <= 1/2``, wherever between the computed and the exact ones.
    """
    classes = logits.shape[1]
    own = (2 * math.log(classes) + classes + 25) * _U
    # the last additions of the logits, value and tangent, are counted in their gamma
    powers = torch.exp(logits - logits.amax(1, keepdim=True))
    residual = powers / powers.sum(1, keepdim=True)
    passed = 2 * (residual - residual * residual).amax(1) + error + 3 * own
    residual[torch.arange(len(labels)), labels] -= 1
    return residual, passed.clamp(max=0.5) * error + own + _TINY


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return first if second is None else second
    return first + second
