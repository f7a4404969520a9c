"""What the architectures share: checks of hyperparameters, activations, normalisation, images from flat rows."""

import math

from torch import Tensor, nn

from expunge.errors import PolicyError

_REMEDY = "correct model.hyperparameters in params.yaml"
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
_NORMS = ("group", "batch", "none")
_MOST_GROUPS = 32
_FEWEST_CHANNELS = 4


def activation_layer(name: str) -> nn.Module:
    """An activation by name.

    Args:
        name: tanh, relu or gelu. ReLU has no Hessian at its kinks.

    Returns:
        A fresh layer.

    Raises:
        PolicyError: If the name is unknown.

    Example:
        >>> activation_layer("relu")
        ReLU()
    """
    if name not in _ACTIVATIONS:
        raise PolicyError(
            "unknown activation", expected=", ".join(_ACTIVATIONS), got=str(name), remedy=_REMEDY
        )
    return _ACTIVATIONS[name]()


def check_positive(**values: object) -> None:
    """Refuse hyperparameters that are not positive whole numbers.

    Args:
        **values: Hyperparameters by name.

    Raises:
        PolicyError: Naming every one that is not.

    Example:
        >>> check_positive(depth=2, heads=4)
    """
    # type(), not isinstance: True is an int
    wrong = {name: value for name, value in values.items() if type(value) is not int or value < 1}
    if wrong:
        raise PolicyError(
            f"invalid {', '.join(wrong)}",
            expected="a positive whole number",
            got=", ".join(map(repr, wrong.values())),
            remedy=_REMEDY,
        )


def image_layer(input_shape: list[int], in_features: int) -> nn.Module:
    """The layer that makes images of flat rows.

    Args:
        input_shape: [channels, height, width].
        in_features: Width of a row; the product of the shape.

    Returns:
        A layer from shape (n, in_features) to (n, channels, height, width).

    Raises:
        PolicyError: If the shape is no list of three positive whole numbers, or its product is not in_features.

    Example:
        >>> image_layer([1, 2, 3], 6)
        Unflatten(dim=1, unflattened_size=(1, 2, 3))
    """
    if not isinstance(input_shape, list | tuple) or len(input_shape) != 3:
        raise PolicyError(
            "invalid input_shape", expected="[channels, height, width]", got=repr(input_shape), remedy=_REMEDY
        )
    for size in input_shape:
        check_positive(input_shape=size)
    if math.prod(input_shape) != in_features:
        raise PolicyError(
            "input_shape does not fit the data",
            expected=f"a product of {in_features}, the width of an encoded record",
            got=f"{' x '.join(map(str, input_shape))} = {math.prod(input_shape)}",
            remedy=_REMEDY,
        )
    return nn.Unflatten(1, tuple(input_shape))


def norm_layers(norm: str, channels: int) -> list[nn.Module]:
    """Normalisation after a convolution.

    GroupNorm: Wu and He (ECCV 2018, arXiv 1803.08494), 32 groups where channels allow. It sees one record at a time
    and keeps no statistics. BatchNorm: Ioffe and Szegedy (ICML 2015, arXiv 1502.03167); it does both.

    Args:
        norm: group, batch or none.
        channels: Of the convolution.

    Returns:
        One fresh layer, or none.

    Raises:
        PolicyError: If the name is unknown.

    Example:
        >>> norm_layers("group", 64)
        [GroupNorm(16, 64, eps=1e-05, affine=True, bias=True)]
    """
    if norm not in _NORMS:
        raise PolicyError("unknown norm", expected=", ".join(_NORMS), got=repr(norm), remedy=_REMEDY)
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    groups = math.gcd(_MOST_GROUPS, channels)
    # a group of one channel and one pixel would be normalised to zero, whatever the record
    while groups > 1 and channels // groups < _FEWEST_CHANNELS:
        groups //= 2
    return [nn.GroupNorm(groups, channels)]


def convolution(
    channels_in: int, channels_out: int, size: int, *, norm: str, stride: int = 1
) -> list[nn.Module]:
    """A convolution, padded to keep the image's size at stride 1, and its normalisation.

    Args:
        channels_in: Channels before.
        channels_out: Channels after.
        size: Side of the kernel, odd.
        norm: group, batch or none.
        stride: Step in pixels.

    Returns:
        One or two fresh layers. The convolution has a bias only where no normalisation would subtract it again.

    Raises:
        PolicyError: If the norm is unknown.

    Example:
        >>> len(convolution(3, 8, 3, norm="none"))
        1
    """
    layer = nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2, bias=norm == "none")
    return [layer, *norm_layers(norm, channels_out)]


class SpatialMean(nn.Module):
    """Average over the pixels of every channel.

    Example:
        >>> import torch
        >>> SpatialMean()(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Average.

        Args:
            inputs: Shape (n, channels, height, width).

        Returns:
            Shape (n, channels).
        """
        return inputs.mean(dim=(2, 3))


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that starts at zero: trained from there, its penalty is the usual one, on the weights themselves.

    Args:
        in_features: Width of the input.
        out_features: Number of logits.

    Returns:
        The layer.

    Example:
        >>> zero_linear(1, 1).weight.tolist()
        [[0.0]]
    """
    layer = nn.Linear(in_features, out_features)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
