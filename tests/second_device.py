"""A second device without a GPU: tensors that claim to lie on it, are computed on the CPU, and may not be mixed.

PyTorch lets the device type ``lazy`` through to Python where a build has no back-end for it. What a GPU would refuse is
refused: an operation on tensors of both devices, and reading memory from outside. What a GPU allows is allowed:
indices that lie on the CPU, scalars, and copies.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

SECOND = torch.device("lazy", 0)
_MIXES = ("aten.index.", "aten.index_put", "aten.copy_.", "aten._to_copy.")


class _Far(Tensor):
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Far":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            dtype=held.dtype,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            device=SECOND,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it is entered, ``SECOND`` exists.

    Args:
        fault: Relative error of every matrix product there, as of a GPU that computes in TF32.
    """

    def __init__(self, fault: float = 0.0) -> None:
        super().__init__()
        self.operations, self._fault = 0, fault

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _run(func, args, kwargs or {})
        if any(isinstance(given, _Far) for given in tree_flatten((args, kwargs))[0]):
            self.operations += 1
            if self._fault and str(func).startswith(("aten.mm.", "aten.mv.", "aten.addmm.", "aten.bmm.")):
                out.held.mul_(1 + self._fault)
        return out


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, target = tree_flatten((args, kwargs))[0], kwargs.get("device")
    far = [given for given in flat if isinstance(given, _Far)]
    near = [
        given for given in flat if isinstance(given, Tensor) and not isinstance(given, _Far) and given.dim()
    ]
    if far and near and not str(func).startswith(_MIXES):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is torch.ops.aten._efficientzerotensor.default:  # memory that is not there: forward mode's zeros
        func = torch.ops.aten.zeros.default
    held = tree_map(lambda given: given.held if isinstance(given, _Far) else given, (args, kwargs))
    out = func(*held[0], **held[1])
    if torch.device(target or (SECOND if far else "cpu")) != SECOND:
        return out
    return tree_map(lambda made: _wrapped(made, far), out)


def _wrapped(made: Any, given: list[_Far]) -> Any:
    if not isinstance(made, Tensor):
        return made
    for one in given:  # an operation in place returns what it was given
        if one.held is made:
            return one
    return _Far(made)
