"""A trainable linear head on frozen features that no record has shaped."""

from torch import nn

from expunge.models.networks.layers import check_positive, zero_linear


def frozen_features_head(in_features: int, out_features: int, *, width: int = 256) -> nn.Module:
    """Softmax regression on random ReLU features.

    Formula: ``f(x) = W relu(A x + c) + b`` with A ~ N(0, 2/in_features) and c drawn once from the model's seed and
    never trained; the cross entropy is convex in (W, b), which
    start at zero. Random features: Rahimi and Recht, "Random features for
    large-scale kernel machines" (NeurIPS 2007).

    The frozen layer is public: it depends on the seed alone, so nothing in it has to be unlearned.

    Args:
        in_features: Width of the input.
        out_features: Number of logits.
        width: Number of random features.

    Returns:
        A sequence that ends in the only trainable layer.

    Raises:
        PolicyError: If the width is not a positive whole number.

    Example:
        >>> [parameter.requires_grad for parameter in frozen_features_head(4, 2, width=3).parameters()]
        [False, False, True, True]
    """
    check_positive(width=width)
    features = nn.Linear(in_features, width)
    nn.init.kaiming_normal_(features.weight, nonlinearity="relu")
    for parameter in features.parameters():
        parameter.requires_grad_(False)
    return nn.Sequential(features, nn.ReLU(), zero_linear(width, out_features))
