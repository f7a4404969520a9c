"""Residual networks of He, Zhang, Ren and Sun (CVPR 2016, arXiv 1512.03385), for small images."""

from torch import Tensor, nn

from expunge.models.networks.layers import (
    SpatialMean,
    activation_layer,
    check_positive,
    convolution,
    image_layer,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: ``a(F(x) + S(x))`` (figure 5, left, of the paper).

    Args:
        channels_in: Channels before.
        channels_out: Channels after.
        stride: Of the first convolution; the shortcut is a 1x1 convolution where the shape changes.
        norm: group, batch or none.
        activation: relu, tanh or gelu.

    Example:
        >>> import torch
        >>> BasicBlock(4, 8, stride=2, norm="group", activation="relu")(torch.ones(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int, norm: str, activation: str
    ) -> None:
        """Make the layers."""
        super().__init__()
        self.residual = nn.Sequential(
            *convolution(channels_in, channels_out, 3, norm=norm, stride=stride),
            activation_layer(activation),
            *convolution(channels_out, channels_out, 3, norm=norm),
        )
        self.shortcut = (
            nn.Sequential(*convolution(channels_in, channels_out, 1, norm=norm, stride=stride))
            if stride > 1 or channels_in != channels_out
            else nn.Identity()
        )
        self.activation = activation_layer(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add residual and shortcut.

        Args:
            inputs: Shape (n, channels_in, height, width).

        Returns:
            Shape (n, channels_out, height / stride, width / stride), rounded up.
        """
        output: Tensor = self.activation(self.residual(inputs) + self.shortcut(inputs))
        return output


def resnet_18(
    in_features: int,
    out_features: int,
    *,
    input_shape: list[int],
    width: int = 64,
    norm: str = "group",
    activation: str = "relu",
) -> nn.Module:
    """ResNet-18 with a stem for small images: a 3x3 convolution of stride 1 and no max-pooling.

    Table 1, 18-layer, of the paper; the stem is the one of its CIFAR-10 networks (section 4.2).

    Args:
        in_features: Width of a flat row.
        out_features: Number of logits.
        input_shape: [channels, height, width] of an image.
        width: Filters of the first stage; each of the three further stages has twice the last one's.
        norm: group, batch (the paper's) or none.
        activation: relu (the paper's), tanh or gelu. ReLU has no Hessian at its kinks.

    Returns:
        A network on flat rows.

    Raises:
        PolicyError: If a hyperparameter is not valid or the shape does not fit the rows.

    Example:
        >>> net = resnet_18(3072, 10, input_shape=[3, 32, 32])
        >>> sum(parameter.numel() for parameter in net.parameters())
        11173962
    """
    check_positive(width=width)
    layers = [
        image_layer(input_shape, in_features),
        *convolution(input_shape[0], width, 3, norm=norm),
        activation_layer(activation),
    ]
    channels = width
    for stage in range(4):
        filters = width * 2**stage
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(channels, filters, stride=stride, norm=norm, activation=activation))
            channels = filters
    return nn.Sequential(*layers, SpatialMean(), nn.Linear(channels, out_features))
