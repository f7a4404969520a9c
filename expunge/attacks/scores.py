"""Statistics of one record under one model; the larger, the more the record looks like one that was trained on."""

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from expunge.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def log_confidence(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Log-probability of the true class.

    Formula: ``log p_y = z_y - logsumexp(z)``.

    Args:
        logits: Shape (..., n, classes), as a NumPy array or a tensor without gradient on the CPU.
        labels: Class indices, shape (n,).

    Returns:
        Shape (..., n), at most 0.

    Raises:
        InputError: If shapes do not fit or a logit is not finite.

    Example:
        >>> float(log_confidence([[0.0, 0.0]], [1]).round(3)[0])
        -0.693
    """
    z, y = _checked(logits, labels)
    true = np.take_along_axis(z, y, axis=-1)[..., 0]
    return np.asarray(true - logsumexp(z, axis=-1), dtype=np.float64)


def loss(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Cross entropy of each record; as a statistic of membership it is taken with the opposite sign.

    Formula: ``-log p_y``.

    Args:
        logits: Shape (..., n, classes).
        labels: Class indices, shape (n,).

    Returns:
        Shape (..., n), at least 0.

    Raises:
        InputError: If shapes do not fit or a logit is not finite.
    """
    return -log_confidence(logits, labels)


def logit_confidence(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Logit-scaled confidence: nearly normal over models, unlike confidence and loss.

    Formula: ``log(p_y / (1 - p_y)) = z_y - logsumexp(z over the other classes)``, which loses no digits where p_y is
    nearly 0 or 1.

    Reference: Carlini et al., "Membership inference attacks from first principles" (S&P 2022), equation 6.

    Args:
        logits: Shape (..., n, classes), at least two classes.
        labels: Class indices, shape (n,).

    Returns:
        Shape (..., n).

    Raises:
        InputError: If shapes do not fit or a logit is not finite.

    Example:
        >>> logit_confidence([[800.0, 0.0]], [0])
        array([800.])
    """
    z, y = _checked(logits, labels)
    true = np.take_along_axis(z, y, axis=-1)[..., 0]
    others = z.copy()
    np.put_along_axis(others, y, -np.inf, axis=-1)
    return np.asarray(true - logsumexp(others, axis=-1), dtype=np.float64)


def vector(values: ArrayLike, name: str) -> Floats:
    """Scores as one float64 vector, checked.

    Args:
        values: Shape (n,).
        name: Of them, for the message.

    Returns:
        Shape (n,).

    Raises:
        InputError: If they are no vector, or one is not a number.
    """
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1 or np.isnan(checked).any():
        raise InputError(
            f"invalid {name}", expected="one number a record", got=f"shape {checked.shape} or NaN"
        )
    return checked


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if (
        z.ndim < 2
        or z.shape[-1] < 2
        or y.shape != z.shape[-2:-1]
        or not np.isfinite(z).all()
        or (len(y) and not (y.min() >= 0 and y.max() < z.shape[-1]))
    ):
        raise InputError(
            "logits and labels do not fit",
            expected="finite logits (..., n, classes) of two classes or more, and n class indices",
            got=f"logits {z.shape}, labels {y.shape}",
        )
    return z, np.broadcast_to(y.astype(np.int64), z.shape[:-1])[..., None]
