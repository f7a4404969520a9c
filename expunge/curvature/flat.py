"""A module's trainable parameters as one flat vector."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from expunge.errors import CertificateRefusedError

_RANDOM_LAYERS = (nn.modules.dropout._DropoutNd, nn.RReLU)


class FlatModule:
    """View of a module as a function of one flat parameter vector, in float64.

    The vector concatenates the trainable parameters in ``named_parameters`` order.

    Args:
        module: Any module without buffers and without random layers.

    Raises:
        CertificateRefusedError: If the module has buffers (BatchNorm statistics saw the data), random layers (the
            objective would not be deterministic) or nothing to train.

    Example:
        >>> FlatModule(nn.Linear(3, 2)).size
        8
    """

    def __init__(self, module: nn.Module) -> None:
        """Check the module and copy it to float64."""
        _check_deterministic(module)
        self._module = module.double()
        self._shapes = {
            name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        self.size = sum(shape.numel() for shape in self._shapes.values())
        if self.size == 0:
            raise CertificateRefusedError(
                "the module has nothing to train",
                expected="at least one parameter with requires_grad",
                remedy="return a module with trainable parameters from the factory",
            )

    def initial(self) -> Tensor:
        """The module's own parameters.

        Returns:
            A fresh float64 vector of shape (size,).
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
        output = functional_call(self._module, self.unflatten(vector), (inputs,))
        assert isinstance(output, Tensor)
        return output

    def _slices(self, vector: Tensor) -> Iterator[tuple[str, Tensor]]:
        start = 0
        for name, shape in self._shapes.items():
            yield name, vector[start : start + shape.numel()].view(shape)
            start += shape.numel()


def _check_deterministic(module: nn.Module) -> None:
    buffers = [name for name, _ in module.named_buffers()]
    if buffers:
        raise CertificateRefusedError(
            "the module keeps buffers, which see the data but are not unlearned",
            expected="no buffers",
            got=", ".join(buffers[:4]),
            remedy="use layers without running statistics, such as GroupNorm or LayerNorm",
        )
    random = [name for name, layer in module.named_modules() if isinstance(layer, _RANDOM_LAYERS)]
    if random:
        raise CertificateRefusedError(
            "the module has random layers, so its objective is not deterministic",
            expected="no dropout",
            got=", ".join(random[:4]),
            remedy="remove them; the l2 term regularises",
        )
