"""Rows that pull a model harder than rows do: a mark of data that was made to slow unlearning down, or to poison it.

Marchant, Rubinstein and Alfeld (AAAI 2022, arXiv 2109.08266) craft such rows, whose removal costs as much as training.
"""

import numpy as np
from numpy.typing import NDArray


def gradient_norms(
    features: NDArray[np.float64], labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Norm of each row's gradient with respect to a linear layer on the features, and its reach.

    Formula: ``||p - e_y|| r`` with reach ``r = sqrt(||x||^2 + 1)``, exact for softmax regression with a bias, a proxy
    for other models. As ``||p - e_y|| <= sqrt(2)``, a row that is predicted wrong has a norm of about its reach.

    Args:
        features: Shape (n, d).
        labels: Class indices, shape (n,).
        probabilities: Of the model, rows sum to 1, shape (n, k).

    Returns:
        Norm and reach of each row, shape (n, 2).
    """
    residual = probabilities.copy()
    residual[np.arange(len(labels)), labels] -= 1
    reach = np.sqrt((features**2).sum(axis=1) + 1)
    return np.column_stack([np.linalg.norm(residual, axis=1) * reach, reach])


def is_outlier(ours: NDArray[np.float64], theirs: NDArray[np.float64], factor: float) -> bool:
    """Whether some row pulls far harder than rows of other people do, or could.

    Formula: ``max(ours) > factor max(q99(theirs), median reach of theirs)``: a model that is sure of all rows has
    ``q99`` near 0, and a single wrong label, which is honest, would be far above it.

    Args:
        ours: Of :func:`gradient_norms`, rows that are to be forgotten, at least one, shape (n, 2).
        theirs: Of other people's rows, at least one, shape (m, 2).
        factor: How many times what is usual is too much, above 1.

    Returns:
        True if one does.
    """
    usual = max(np.quantile(theirs[:, 0], 0.99), np.median(theirs[:, 1]))
    return bool(ours[:, 0].max() > factor * usual)
