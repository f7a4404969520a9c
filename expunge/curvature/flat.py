"""A module's trainable parameters as one flat vector."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from expunge.errors import CertificateRefusedError

_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)
_BATCH_LAYERS = nn.modules.batchnorm._BatchNorm


class FlatModule:
    """View of a module as a function of one flat parameter vector.

    The vector concatenates the trainable parameters (those with ``requires_grad``) in ``named_parameters`` order; the
    others stay as they are. Certificates are float64; float32 serves inner iterations and speed.

    Args:
        module: Any module without random layers and, unless statistics are given, without buffers; it is moved and
            cast in place.
        statistics: Values of all the module's buffers, by name, that BatchNorm normalises by instead of by those of a
            batch (see :mod:`expunge.models.buffers`). The outputs are then a function of one record each.
        dtype: float64 or float32.
        device: Where it computes.

    Raises:
        CertificateRefusedError: If the module has buffers and no statistics are given (BatchNorm statistics saw the
            data), statistics other than its buffers, BatchNorm that keeps none (every output would depend on all
            records of its batch), random layers (the objective would not be deterministic) or nothing to train.

    Example:
        >>> FlatModule(nn.Linear(3, 2)).size
        8
    """

    def __init__(
        self,
        module: nn.Module,
        statistics: Mapping[str, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        """Check the module, move it and cast it."""
        _check_buffers(module, statistics)
        _check_deterministic(module)
        self._module = module.to(device=device, dtype=dtype)
        self.dtype, self.device = dtype, torch.device(device)
        self._statistics = {
            name: value.detach().clone().to(device, dtype if value.is_floating_point() else value.dtype)
            for name, value in (statistics or {}).items()
        }
        if statistics is not None:
            self._module.eval()  # BatchNorm reads its buffers instead of the batch, and writes nothing
        self._shapes = {
            name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self.size = sum(self._sizes)
        if self.size == 0:
            raise CertificateRefusedError(
                "the module has nothing to train",
                expected="at least one parameter with requires_grad",
                remedy="return a module with trainable parameters from the factory",
            )

    @property
    def module(self) -> nn.Module:
        """The module, for measuring; it is never called with its own weights."""
        return self._module

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> "FlatModule":
        """The same function in another precision or on another device.

        Args:
            dtype: float64 or float32; as it is by default.
            device: As it is by default.

        Returns:
            A copy; this one stays as it is.

        Example:
            >>> FlatModule(nn.Linear(3, 2)).to(dtype=torch.float32).initial().dtype
            torch.float32
        """
        return FlatModule(
            copy.deepcopy(self._module),
            self._statistics or None,
            dtype=dtype or self.dtype,
            device=device or self.device,
        )

    def initial(self) -> Tensor:
        """The module's own parameters.

        Returns:
            A fresh vector of shape (size,).
        """
        named = dict(self._module.named_parameters())
        return torch.cat([named[name].detach().reshape(-1) for name in self._shapes]).clone()

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Name and shape the slices of a flat vector.

        Args:
            vector: Shape (size,).

        Returns:
            Views of the vector, by parameter name.
        """
        return dict(self._slices(vector))

    def __call__(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Outputs of the module at these parameters.

        Args:
            vector: Parameters, shape (size,).
            inputs: A batch, first dimension records.

        Returns:
            Logits, shape (records, classes).
        """
        output = functional_call(self._module, {**self.unflatten(vector), **self._statistics}, (inputs,))
        assert isinstance(output, Tensor)
        return output

    def _slices(self, vector: Tensor) -> Iterator[tuple[str, Tensor]]:
        # one split, not a slice a parameter: its transpose is one concatenation, not a padded sum for each
        for (name, shape), part in zip(self._shapes.items(), torch.split(vector, self._sizes), strict=True):
            yield name, part.view(shape)


def _check_buffers(module: nn.Module, statistics: Mapping[str, Tensor] | None) -> None:
    buffers = [name for name, _ in module.named_buffers()]
    if statistics is None and buffers:
        raise CertificateRefusedError(
            "the module keeps buffers, which see the data but are not unlearned",
            expected="no buffers",
            got=", ".join(buffers[:4]),
            remedy="use layers without running statistics, such as GroupNorm or LayerNorm",
        )
    if statistics is not None and set(statistics) != set(buffers):
        raise CertificateRefusedError(
            "the statistics are not those of the module",
            expected=", ".join(buffers) or "none",
            got=", ".join(statistics) or "none",
            remedy="recompute them for this very module",
        )
    blind = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, _BATCH_LAYERS) and layer.running_mean is None
    ]
    if blind:
        raise CertificateRefusedError(
            "the module normalises by the other records of a batch",
            expected="outputs that depend on one record each",
            got=", ".join(blind[:4]),
            remedy="use GroupNorm or LayerNorm",
        )


def _check_deterministic(module: nn.Module) -> None:
    random = [name for name, layer in module.named_modules() if isinstance(layer, _RANDOM_LAYERS)]
    if random:
        raise CertificateRefusedError(
            "the module has random layers, so its objective is not deterministic",
            expected="no dropout",
            got=", ".join(random[:4]),
            remedy="remove them; the l2 term regularises",
        )
