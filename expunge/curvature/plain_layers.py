"""Networks whose arithmetic is known operation by operation: linear layers and elementwise activations in a row.

Of them, and of no others, the rounding error of a gradient is proved (:mod:`expunge.curvature.certified_gradient`).
They are recognised by their structure, whoever wrote them; anything that might compute something else is not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.curvature.flat import FlatModule

_SQRT_HALF = math.sqrt(0.5)
_DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Activation:
    """An elementwise function with constants that hold for every real argument.

    Its float64 evaluation is within ``value_error u (|value| + |argument|)`` of the exact function of the same
    argument, its derivative's within ``slope_error u``, where exp, tanh and erf are within 4 ulp.

    Args:
        value: Of an argument.
        slope: The derivative, of an argument and its value.
        lipschitz: Bound on the absolute derivative.
        bend: Bound on the absolute second derivative; None where the derivative jumps at 0, from 0 to 1.
        value_error: In units of u.
        slope_error: In units of u.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    lipschitz: float
    bend: float | None
    value_error: float
    slope_error: float


def _tanh_slope(_argument: Tensor, value: Tensor) -> Tensor:
    return 1 - value * value


def _relu_slope(argument: Tensor, _value: Tensor) -> Tensor:
    return (argument > 0).to(argument.dtype)


def _distribution(argument: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(argument * _SQRT_HALF))


def _gelu(argument: Tensor) -> Tensor:
    return argument * _distribution(argument)


def _gelu_slope(argument: Tensor, _value: Tensor) -> Tensor:
    density = torch.exp(argument * argument * -0.5) * _DENSITY_AT_ZERO
    return _distribution(argument) + argument * density


# tanh: |tanh''| = 2 t (1 - t^2) <= 4 / (3 sqrt 3); 4 ulp are 8 u, hence 8 u |t| and 16 u t^2 + 2 u.
# GELU, x Phi(x): |Phi + x phi| <= 1.129, |(2 - x^2) phi| <= 2 phi(0) < 0.798; Phi within 6 u, x phi within 4 u.
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(torch.tanh, _tanh_slope, lipschitz=1.0, bend=0.77, value_error=9.0, slope_error=24.0),
    nn.ReLU: Activation(torch.relu, _relu_slope, lipschitz=1.0, bend=None, value_error=0.0, slope_error=0.0),
    nn.GELU: Activation(_gelu, _gelu_slope, lipschitz=1.13, bend=0.8, value_error=9.0, slope_error=16.0),
}


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    Args:
        weight: As stored, shape (out, in).
        bias: As stored, shape (out,), or None.
        weight_name: In the flat parameters; None where it is frozen or there is none.
        bias_name: Likewise.
    """

    weight: Tensor
    bias: Tensor | None
    weight_name: str | None
    bias_name: str | None


def plain_layers(network: FlatModule) -> tuple[Linear | Activation, ...] | None:
    """A network's layers in order, if they are all known and the last is linear.

    Args:
        network: Any.

    Returns:
        The layers; None where something else, or something hooked, shared or patched, takes part.

    Example:
        >>> len(plain_layers(FlatModule(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)))) or ())
        3
        >>> plain_layers(FlatModule(nn.Sequential(nn.Linear(2, 3), nn.Softplus(), nn.Linear(3, 2)))) is None
        True
    """
    leaves = _leaves(network.module)
    if leaves is None:
        return None
    named = {id(parameter): name for name, parameter in network.module.named_parameters()}
    layers: list[Linear | Activation] = []
    used: list[int] = []
    for leaf in leaves:
        if isinstance(leaf, nn.Linear):
            parts = [leaf.weight] if leaf.bias is None else [leaf.weight, leaf.bias]
            used += [id(part) for part in parts]
            names = [named.get(id(part)) if part.requires_grad else None for part in parts]
            bias = None if leaf.bias is None else leaf.bias.detach()
            layers.append(Linear(leaf.weight.detach(), bias, names[0], names[1] if len(names) > 1 else None))
        else:
            layers.append(_ACTIVATIONS[type(leaf)])
    # a weight that serves twice would add up; one that serves nowhere is trained by the l2 term alone, which is fine
    shared = len(set(used)) < len(used)
    return None if shared or not layers or not isinstance(layers[-1], Linear) else tuple(layers)


def _leaves(module: nn.Module) -> list[nn.Module] | None:
    # exact types: a subclass may compute anything, and so may a hook or a method set on the object
    if (
        "forward" in vars(module)
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return None
    if type(module) is nn.Sequential:
        inside = [_leaves(child) for child in module]
        return (
            None if any(part is None for part in inside) else [leaf for part in inside for leaf in part or []]
        )
    if type(module) is nn.Identity:
        return []
    if type(module) is nn.GELU and module.approximate != "none":
        return None
    return [module] if type(module) is nn.Linear or type(module) in _ACTIVATIONS else None
