"""Membership inference as the paper makes it, but scored on records that the attack was not fitted on.

A classifier is to tell the forgotten records from records that were never trained on, by what the model says of them
(Shokri et al. 2017; Zhang et al., ICML 2024, section 6). The published attack is fitted and scored on the same points.
An attack can fail a model; it never proves one.
"""

import math

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

_Z = 1.959963984540054  # of a 95 % interval


def attack(forgotten: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor], seed: int) -> dict[str, float]:
    """Fit on a random half of both, score on the other.

    Args:
        forgotten: Logits, shape (n, classes), and labels of the forget set.
        unseen: Of as many records that were never trained on.
        seed: Of the halves.

    Returns:
        AUC and accuracy, each with its 95 % interval (Hanley and McNeil 1982; Wilson), and the records scored.
    """
    looks = np.vstack([signals(*forgotten), signals(*unseen)])
    member = np.repeat([1, 0], [len(forgotten[1]), len(unseen[1])])
    rng = np.random.default_rng(seed)
    fitted = np.zeros(len(member), dtype=bool)
    for side in (0, 1):
        where = rng.permutation(np.flatnonzero(member == side))
        fitted[where[: len(where) // 2]] = True
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(looks[fitted], member[fitted])
    truth, scores = member[~fitted], model.predict_proba(looks[~fitted])[:, 1]
    area = float(roc_auc_score(truth, scores))
    half = _Z * auc_deviation(area, int(truth.sum()), int((1 - truth).sum()))
    hits = int(((scores > 0.5) == truth).sum())
    between = binomtest(hits, len(truth)).proportion_ci(method="wilson")
    return {
        "auc": area,
        "auc_low": max(0.0, area - half),
        "auc_high": min(1.0, area + half),
        "accuracy": hits / len(truth),
        "accuracy_low": float(between.low),
        "accuracy_high": float(between.high),
        "scored": len(truth),
    }


def signals(logits: Tensor, labels: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """What the attack sees of each record: its loss, the prediction's entropy, and the sorted log-probabilities.

    Args:
        logits: Shape (n, classes).
        labels: Shape (n,).

    Returns:
        Shape (n, 2 + classes), clipped to [-50, 50].
    """
    logs = torch.log_softmax(logits.double(), dim=1)
    loss = -logs[torch.arange(len(labels)), labels]
    entropy = -(logs.exp() * logs).sum(dim=1)
    ordered = logs.sort(dim=1, descending=True).values
    found: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (
        torch.cat([loss[:, None], entropy[:, None], ordered], dim=1).clamp(-50, 50).numpy()
    )
    return found


def auc_deviation(area: float, members: int, others: int) -> float:
    """Standard error of an AUC.

    Formula: ``((A (1 - A) + (m - 1)(Q1 - A^2) + (n - 1)(Q2 - A^2)) / (m n))^(1/2)`` with ``Q1 = A / (2 - A)`` and
    ``Q2 = 2 A^2 / (1 + A)``.

    Reference: Hanley and McNeil, "The meaning and use of the area under a ROC curve" (Radiology 1982), equation 1.

    Args:
        area: A, in [0, 1].
        members: m, above 0.
        others: n, above 0.

    Returns:
        At least 0.

    Example:
        >>> round(auc_deviation(0.5, 100, 100), 4)
        0.0409
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (members - 1) * (first - area**2) + (others - 1) * (second - area**2)
    return math.sqrt(max(0.0, variance) / (members * others))
