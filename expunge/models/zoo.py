"""Networks by name, with data-independent initial weights."""

import importlib
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from expunge.curvature.flat import FlatModule
from expunge.errors import PolicyError
from expunge.models.spec import ModelSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def multilayer_perceptron(
    in_features: int, out_features: int, *, hidden: list[int], activation: str = "tanh"
) -> nn.Module:
    """A fully connected network.

    Args:
        in_features: Width of the input.
        out_features: Number of logits.
        hidden: Widths of the hidden layers.
        activation: tanh, relu or gelu. ReLU has no Hessian at its kinks.

    Returns:
        The network.

    Raises:
        PolicyError: If the activation is unknown or a width is not a positive whole number.

    Example:
        >>> len(multilayer_perceptron(4, 2, hidden=[8]))
        3
    """
    if activation not in _ACTIVATIONS:
        raise PolicyError(
            "unknown activation",
            expected=", ".join(_ACTIVATIONS),
            got=activation,
            remedy="correct params.yaml",
        )
    if not hidden or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise PolicyError(
            "invalid hidden",
            expected="a list of positive whole numbers",
            got=repr(hidden),
            remedy="correct params.yaml",
        )
    layers: list[nn.Module] = []
    for wide, narrow in pairwise([in_features, *hidden]):
        layers += [nn.Linear(wide, narrow), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], out_features))


def build(spec: ModelSpec, search: Path | None = None) -> FlatModule:
    """Build a network with its initial weights, which depend on the seed alone.

    Args:
        spec: The model.
        search: Folder where one's own ``module:factory`` is looked for first (the workspace).

    Returns:
        The network as a function of flat float64 parameters.

    Raises:
        PolicyError: If the factory cannot be imported or does not accept its arguments.
        CertificateRefusedError: If the network has buffers or random layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        if ":" not in spec.name:
            try:
                module = multilayer_perceptron(spec.in_features, spec.classes, **spec.hyperparameters)
            except TypeError as error:
                raise PolicyError(
                    "invalid model.hyperparameters", got=str(error), remedy="correct params.yaml"
                ) from error
        else:
            module = _own(spec, search)
    return FlatModule(module)


def _own(spec: ModelSpec, search: Path | None) -> nn.Module:
    module_name, _, factory_name = spec.name.partition(":")
    if search is not None and str(search) not in sys.path:
        sys.path.insert(0, str(search))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        module = factory(in_features=spec.in_features, out_features=spec.classes, **spec.hyperparameters)
    except (ImportError, AttributeError, TypeError) as error:
        raise PolicyError(
            f"cannot make the model {spec.name}",
            expected="a function factory(in_features, out_features, **hyperparameters) that returns an nn.Module",
            got=f"{type(error).__name__}: {error}",
            remedy="put the module into the workspace folder and correct params.yaml",
        ) from error
    if not isinstance(module, nn.Module):
        raise PolicyError(
            f"{spec.name} returned no nn.Module", got=type(module).__name__, remedy="return the module"
        )
    return module
