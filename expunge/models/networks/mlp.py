"""Fully connected networks, and the one without a hidden layer: multinomial logistic regression."""

from itertools import pairwise

from torch import nn

from expunge.errors import PolicyError
from expunge.models.networks.layers import activation_layer, zero_linear


def softmax_regression(in_features: int, out_features: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer with bias.

    Formula: ``f(x) = W x + b``; its cross entropy is convex in (W, b), which start at zero.

    Args:
        in_features: Width of the input.
        out_features: Number of logits.

    Returns:
        The layer.

    Example:
        >>> softmax_regression(4, 2)
        Linear(in_features=4, out_features=2, bias=True)
    """
    return zero_linear(in_features, out_features)


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
    activation_layer(activation)
    if (
        not isinstance(hidden, list | tuple)
        or not hidden
        or not all(type(width) is int and width > 0 for width in hidden)
    ):
        raise PolicyError(
            "invalid hidden",
            expected="a list of positive whole numbers",
            got=repr(hidden),
            remedy="correct params.yaml",
        )
    layers: list[nn.Module] = []
    for wide, narrow in pairwise([in_features, *hidden]):
        layers += [nn.Linear(wide, narrow), activation_layer(activation)]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], out_features))
