"""The all-convolutional network of Springenberg, Dosovitskiy, Brox and Riedmiller (ICLR 2015, arXiv 1412.6806)."""

from torch import nn

from expunge.models.networks.layers import (
    SpatialMean,
    activation_layer,
    check_positive,
    convolution,
    image_layer,
)


def all_cnn(
    in_features: int,
    out_features: int,
    *,
    input_shape: list[int],
    width: int = 96,
    norm: str = "group",
    activation: str = "relu",
) -> nn.Module:
    """All-CNN-C: seven 3x3 convolutions, two of them with stride 2 in place of pooling, and two 1x1 convolutions.

    Table 1, model C, of the paper, without its dropout (the objective must be deterministic), without the ReLU on the
    logits, and with padding in every 3x3 convolution, so that 8x8 images pass too.

    Args:
        in_features: Width of a flat row.
        out_features: Number of logits.
        input_shape: [channels, height, width] of an image.
        width: Filters of the first three convolutions; the next five have twice as many.
        norm: group, batch or none (the paper's).
        activation: relu (the paper's), tanh or gelu. ReLU has no Hessian at its kinks.

    Returns:
        A network on flat rows.

    Raises:
        PolicyError: If a hyperparameter is not valid or the shape does not fit the rows.

    Example:
        >>> net = all_cnn(3072, 10, input_shape=[3, 32, 32], norm="none")
        >>> sum(parameter.numel() for parameter in net.parameters())
        1369738
    """
    check_positive(width=width)
    layers = [image_layer(input_shape, in_features)]
    channels = input_shape[0]
    for filters, size, stride in (
        (width, 3, 1),
        (width, 3, 1),
        (width, 3, 2),
        (2 * width, 3, 1),
        (2 * width, 3, 1),
        (2 * width, 3, 2),
        (2 * width, 3, 1),
        (2 * width, 1, 1),
    ):
        layers += [
            *convolution(channels, filters, size, norm=norm, stride=stride),
            activation_layer(activation),
        ]
        channels = filters
    return nn.Sequential(*layers, nn.Conv2d(channels, out_features, 1), SpatialMean())
