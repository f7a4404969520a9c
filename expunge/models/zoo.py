"""Networks by name, with data-independent initial weights."""

import inspect
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from expunge.curvature.flat import FlatModule
from expunge.errors import ExpungeError, PolicyError
from expunge.models.networks.all_cnn import all_cnn
from expunge.models.networks.head import frozen_features_head
from expunge.models.networks.mlp import multilayer_perceptron, softmax_regression
from expunge.models.networks.resnet import resnet_18
from expunge.models.networks.vit import vision_transformer
from expunge.models.own_code import load_factory, loaded_modules, read_sources
from expunge.models.parts import Parts, Source, frozen_of, initial_of, require_registered, restore
from expunge.models.spec import ModelSpec, is_own

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


def build(spec: ModelSpec, search: Source = None, device: torch.device | str = "cpu") -> FlatModule:
    """Build a network with its initial weights, which depend on the seed alone.

    Args:
        spec: The model.
        search: Folder where one's own ``module:factory`` lies (the workspace), or parts saved with a model.
        device: Where it computes; made on the CPU, so that initial weights are the same everywhere.

    Returns:
        The network as a function of flat float64 parameters.

    Raises:
        PolicyError: If the factory cannot be imported, does not accept its arguments, or makes another network than the
            one whose tensors were saved.
        CertificateRefusedError: If the network has buffers, tensors that it does not declare, or layers that are random
            or mix the records of a batch.
    """
    return FlatModule(build_module(spec, search), device=device)


def build_module(spec: ModelSpec, search: Source = None) -> nn.Module:
    """Build a network with its initial weights and no judgement of its layers.

    Args:
        spec: The model.
        search: Folder where one's own ``module:factory`` lies (the workspace), or parts saved with a model.

    Returns:
        The network.

    Raises:
        PolicyError: If the factory cannot be imported or does not accept its arguments.
    """
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = _own(spec, _code(spec, search)) if is_own(spec.name) else _from_catalogue(spec)
    if isinstance(search, Parts):
        restore(module, search)
    return module


def parts_of(spec: ModelSpec, search: Source = None) -> Parts:
    """Everything of a model besides its trained weights, to be saved with it.

    Args:
        spec: The model.
        search: As for :func:`build`; parts that lack nothing are those of the model.

    Returns:
        Its parts: the source of own code, frozen tensors, initial weights.

    Raises:
        PolicyError: As :func:`build_module`.
        CertificateRefusedError: If the network holds tensors that it does not declare.
    """
    if isinstance(search, Parts) and search.whole:
        return search
    parts = _code(spec, search) if is_own(spec.name) else Parts()
    module = build_module(spec, parts)
    frozen = {name: one.detach().clone().contiguous() for name, one in frozen_of(module).items()}
    return Parts(parts.code, frozen, initial_of(module), parts.place)


def _code(spec: ModelSpec, search: Source) -> Parts:
    """Own code alone: what was saved, or what lies in the folder now."""
    if isinstance(search, Parts):
        return search
    name = spec.name.partition(":")[0]
    try:
        code = {} if search is None else read_sources(name, search)
    except SyntaxError as error:
        raise _cannot_make(spec, error) from error
    if not code:
        where = "no folder is given" if search is None else "no such file"
        raise _cannot_make(spec, ImportError(f"{name.replace('.', '/')}.py: {where}"))
    return Parts(code, place=(search or Path()).resolve())


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


def _own(spec: ModelSpec, parts: Parts) -> nn.Module:
    try:
        factory = load_factory(spec.name, parts.code, parts.place)
        module = factory(in_features=spec.in_features, out_features=spec.classes, **spec.hyperparameters)
    except ExpungeError:
        raise
    except Exception as error:  # whatever one's own code makes of its arguments and files
        raise _cannot_make(spec, error) from error
    if not isinstance(module, nn.Module):
        raise PolicyError(
            f"{spec.name} returned no nn.Module", got=type(module).__name__, remedy="return the module"
        )
    require_registered(module, loaded_modules(parts.code, parts.place))
    return module


def _cannot_make(spec: ModelSpec, error: Exception) -> PolicyError:
    return PolicyError(
        f"cannot make the model {spec.name}",
        expected="a function factory(in_features, out_features, **hyperparameters) that returns an nn.Module, and "
        "plain import statements",
        got=f"{type(error).__name__}: {error}",
        remedy="put the module and what it reads into the workspace folder, and correct params.yaml",
    )
