"""Fine-tuning: training goes on, without the forget set.

"Fine-tune" of Golatkar, Achille and Soatto (CVPR 2020, arXiv 1911.04933), section 6, in the hope that what is not seen
again is forgotten.
"""

from dataclasses import replace

from torch import Tensor

from benchmarks.baselines import Edited
from expunge.models.spec import ModelSpec
from expunge.models.training import train


def fine_tune(
    spec: ModelSpec,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> Edited:
    """Some epochs of projected Adam on the retain set from the original's weights, with fresh optimiser state.

    Args:
        spec: The model.
        weights: The original's, shape (d,).
        features: The retain set, shape (n, p).
        labels: Shape (n,).
        epochs: Over the retain set.
        learning_rate: Of Adam.
        seed: Of the batch order.

    Returns:
        The weights that it led to.
    """
    longer = replace(spec, epochs=epochs, learning_rate=learning_rate, seed=seed)
    trained = train(longer, features, labels, start=weights, what="fine-tuning")
    return Edited(trained.weights, epochs * len(labels))
