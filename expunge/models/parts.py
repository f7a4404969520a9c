"""What a model is besides its trained weights: own code, frozen tensors, initial weights."""

import functools
import types
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from expunge.errors import CertificateRefusedError, PolicyError
from expunge.models.own_code import PREFIX

_A_ROW = 4  # numbers; fewer tell nobody's row


@dataclass(frozen=True)
class Parts:
    """Parts of a model that no batch changes.

    Args:
        code: Source of one's own code by path, such as ``my_model.py``; empty for a network of the catalogue.
        frozen: Tensors of the network that are not trained, by name; None: as the factory makes them.
        origin: Initial weights, shape (d,); None: as the factory makes them.
        place: Folder that own code is told it lies in.
    """

    code: Mapping[str, bytes] = field(default_factory=dict)
    frozen: Mapping[str, Tensor] | None = None
    origin: Tensor | None = None
    place: Path = Path()

    @property
    def whole(self) -> bool:
        """Whether nothing is left to the factory."""
        return self.frozen is not None and self.origin is not None

    def to_plain(self) -> dict[str, Any]:
        """Texts and tensors.

        Returns:
            A dict, the inverse of :meth:`from_plain`.
        """
        code = {name: source.decode("latin-1") for name, source in self.code.items()}
        frozen = None if self.frozen is None else dict(self.frozen)
        return {"code": code, "frozen": frozen, "origin": self.origin, "place": str(self.place)}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Parts":
        """Read what :meth:`to_plain` wrote.

        Args:
            content: The dict.

        Returns:
            The parts.
        """
        code = {name: text.encode("latin-1") for name, text in content["code"].items()}
        return cls(code, content["frozen"], content["origin"], Path(content["place"]))

    def made_anew(self) -> "Parts":
        """The same code, for other widths.

        Returns:
            Parts without tensors.
        """
        return Parts(code=self.code, place=self.place)


# Where a network comes from: the folder of one's own code, or the parts that were saved with a model.
Source: TypeAlias = Path | Parts | None


def frozen_of(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a network that is not trained.

    Args:
        module: The network.

    Returns:
        Frozen parameters and buffers, by name.
    """
    parameters = {name: one for name, one in module.named_parameters() if not one.requires_grad}
    return {**parameters, **dict(module.named_buffers())}


def initial_of(module: nn.Module) -> Tensor:
    """The trainable parameters as they are.

    Args:
        module: The network.

    Returns:
        float64, shape (d,).
    """
    trained = [one.detach().reshape(-1).double() for one in module.parameters() if one.requires_grad]
    return torch.cat(trained) if trained else torch.zeros(0, dtype=torch.float64)


def restore(module: nn.Module, parts: Parts) -> None:
    """Put saved tensors in the place of those that the factory made.

    Args:
        module: The network, changed in place.
        parts: What was saved.

    Raises:
        PolicyError: If the network is another than the one whose tensors were saved.
    """
    with torch.no_grad():
        if parts.frozen is not None:
            made = frozen_of(module)
            _require_same("frozen.safetensors", _shapes(parts.frozen), _shapes(made))
            for name, tensor in parts.frozen.items():
                made[name].copy_(tensor)
        if parts.origin is not None:
            trained = [one for one in module.parameters() if one.requires_grad]
            sizes = [one.numel() for one in trained]
            _require_same("weights.safetensors", f"{len(parts.origin)} weights", f"{sum(sizes)} weights")
            for one, values in zip(trained, torch.split(parts.origin, sizes), strict=True):
                one.copy_(values.view(one.shape))


def _shapes(tensors: Mapping[str, Tensor]) -> str:
    told = [f"{name} {str(one.dtype)[6:]} {tuple(one.shape)}" for name, one in sorted(tensors.items())]
    return ", ".join(told) or "no frozen tensor"


def _require_same(file: str, saved: str, made: str) -> None:
    if saved != made:
        raise PolicyError(
            f"the factory makes another network than the one in {file}",
            expected=saved[:300],
            got=made[:300],
            remedy="restore what the factory reads, or train anew in another workspace",
        )


def require_registered(module: nn.Module, modules: list[types.ModuleType]) -> None:
    """Refuse tensors that the network uses and does not declare: they would be neither saved nor digested.

    Looked through are attributes, containers, closures, defaults and bound arguments, and the variables of the code's
    own modules. A file that is read while the network computes is not seen.

    Args:
        module: The network.
        modules: Of its code.

    Raises:
        CertificateRefusedError: If there is such a tensor or array.
    """
    declared = {id(one) for one in [*module.parameters(), *module.buffers()]}
    seen: dict[int, Any] = {}  # alive, so that no number is given twice
    found = [f"{type(module).__name__}{path}" for path in _hidden(module, "", declared, seen)]
    for one in modules:
        variables = {name: value for name, value in vars(one).items() if not name.startswith("__")}
        found += [
            f"{one.__name__.partition('.')[2]}{path}" for path in _hidden(variables, "", declared, seen)
        ]
    if found:
        raise CertificateRefusedError(
            "the network holds numbers that it does not declare, so that no file and no digest would have them",
            expected="tensors as nn.Parameter(tensor, requires_grad=False), or made inside the factory",
            got=", ".join(found[:4]),
            remedy="register them in the module, and keep none in a variable of the code",
        )


def _hidden(value: Any, path: str, declared: set[int], seen: dict[int, Any]) -> Iterator[str]:
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, Tensor | np.ndarray | pd.DataFrame | pd.Series):
        if id(value) not in declared:
            yield path
        return
    if _is_row_of_numbers(value):
        yield path
        return
    for name, part in _inside(value):
        yield from _hidden(part, f"{path}.{name}", declared, seen)


def _is_row_of_numbers(value: Any) -> bool:
    """Whether plain numbers lie there that are as many as a row may have: those of a record look like that."""
    if isinstance(value, array | bytes | bytearray):
        return len(value) >= _A_ROW
    if not isinstance(value, list | tuple | set | frozenset | deque) or len(value) < _A_ROW:
        return False
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in value) and any(
        isinstance(one, float) for one in value
    )


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value refers to, as far as numbers may hide there."""
    if isinstance(value, nn.Module):
        yield from vars(value).items()
    elif isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in list(value.items()))
    elif isinstance(value, types.SimpleNamespace):
        yield from vars(value).items()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((str(index), part) for index, part in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("args", value.args), ("keywords", value.keywords), ("func", value.func))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif isinstance(value, types.FunctionType):
        cells = [cell for cell in value.__closure__ or () if _filled(cell)]
        yield from ((f"closure.{index}", cell.cell_contents) for index, cell in enumerate(cells))
        yield from (("defaults", value.__defaults__), ("keywords", value.__kwdefaults__))
    elif isinstance(value, type):
        if value.__module__.startswith(PREFIX):
            yield from vars(value).items()
    elif type(value).__module__.startswith(PREFIX):
        yield from getattr(value, "__dict__", {}).items()


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
