"""Networks by name, with data-independent initial weights."""

import importlib
import inspect
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from expunge.curvature.flat import FlatModule
from expunge.errors import PolicyError
from expunge.models.networks.all_cnn import all_cnn
from expunge.models.networks.head import frozen_features_head
from expunge.models.networks.mlp import multilayer_perceptron, softmax_regression
from expunge.models.networks.resnet import resnet_18
from expunge.models.networks.vit import vision_transformer
from expunge.models.spec import ModelSpec

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "linearized-mlp": multilayer_perceptron,
    "mlp": multilayer_perceptron,
    "softmax": softmax_regression,
    "head": frozen_features_head,
    "all-cnn": all_cnn,
    "resnet-18": resnet_18,
    "vit": vision_transformer,
}

# Initial weights come from torch's one generator: two threads that build at once would draw from each other's seed.
_GENERATOR = threading.RLock()


def build(spec: ModelSpec, search: Path | None = None, device: torch.device | str = "cpu") -> FlatModule:
    """Build a network with its initial weights, which depend on the seed alone.

    Args:
        spec: The model.
        search: Folder where one's own ``module:factory`` is looked for first (the workspace).
        device: Where it computes; made on the CPU, so that initial weights are the same everywhere.

    Returns:
        The network as a function of flat float64 parameters.

    Raises:
        PolicyError: If the factory cannot be imported or does not accept its arguments.
        CertificateRefusedError: If the network has buffers, or layers that are random or mix the records of a batch.
    """
    return FlatModule(build_module(spec, search), device=device)


def build_module(spec: ModelSpec, search: Path | None = None) -> nn.Module:
    """Build a network with its initial weights and no judgement of its layers.

    Args:
        spec: The model.
        search: Folder where one's own ``module:factory`` is looked for first (the workspace).

    Returns:
        The network.

    Raises:
        PolicyError: If the factory cannot be imported or does not accept its arguments.
    """
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return _own(spec, search) if ":" in spec.name else _from_catalogue(spec)


def _from_catalogue(spec: ModelSpec) -> nn.Module:
    factory = _FACTORIES[spec.name]
    try:
        return factory(spec.in_features, spec.classes, **spec.hyperparameters)
    except TypeError as error:
        accepted = list(inspect.signature(factory).parameters)[2:]  # after the widths, which the data dictate
        raise PolicyError(
            f"invalid model.hyperparameters of {spec.name}",
            expected=", ".join(accepted) or "none",
            got=str(error),
            remedy="correct params.yaml",
        ) from error


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
