"""Rows that pull a model harder than rows do: a mark of data that was made to slow unlearning down, or to poison it.

Marchant, Rubinstein and Alfeld (AAAI 2022, arXiv 2109.08266) craft such rows, whose removal costs as much as training.
"""

import numpy as np
from numpy.typing import NDArray


def gradient_norms(
    features: NDArray[np.float64], labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Norm of each row's gradient with respect to a linear layer on the features.

    Formula: ``||p - e_y|| sqrt(||x||^2 + 1)``, exact for softmax regression with a bias, a proxy for other models.

    Args:
        features: Shape (n, d).
        labels: Class indices, shape (n,).
        probabilities: Of the model, rows sum to 1, shape (n, k).

    Returns:
        Shape (n,).
    """
    residual = probabilities.copy()
    residual[np.arange(len(labels)), labels] -= 1
    norms: NDArray[np.float64] = np.linalg.norm(residual, axis=1) * np.sqrt((features**2).sum(axis=1) + 1)
    return norms


def is_outlier(ours: NDArray[np.float64], theirs: NDArray[np.float64], factor: float) -> bool:
    """Whether some row pulls far harder than rows of other people.

    Args:
        ours: Norms of rows that are to be forgotten, at least one.
        theirs: Norms of other people's rows, at least one.
        factor: How many times their 99th percentile is too much, above 1.

    Returns:
        True if one does.
    """
    return bool(ours.max() > factor * np.quantile(theirs, 0.99))
