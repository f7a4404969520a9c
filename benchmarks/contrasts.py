"""What a change of model does to a group of test rows: utility, and contrasts of models with intervals.

Intervals are 95 % by resampling people, all rows of each together, the same people for every model.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata
from torch import Tensor

from benchmarks.common import SEED

METRICS = ("accuracy", "balanced_accuracy", "auc")
CONTRASTS = {
    "forgetting": ("retrained", "before"),
    "mechanism": ("unlearned", "retrained"),
    "both": ("unlearned", "before"),
}
_LEVEL = 0.95
_DIGITS = 5


def utility(
    predicted: NDArray[Any],
    labels: NDArray[Any],
    rank: NDArray[np.int64],
    positive: int,
    weights: NDArray[Any],
) -> dict[str, float | None]:
    """Accuracy, balanced accuracy (mean recall of the classes that occur) and AUC of one class against the others.

    Formula: the AUC is the share of pairs (positive, negative) whose scores are in the right order, ties half
    (Hanley and McNeil 1982).

    Args:
        predicted: Class indices, shape (n,).
        labels: Class indices, shape (n,).
        rank: Of the positive class's probability, from :func:`dense_rank`, shape (n,).
        positive: Its index.
        weights: How often each row counts, shape (n,).

    Returns:
        None for what these rows do not define.
    """
    total = weights.sum()
    if not total:
        return dict.fromkeys(METRICS)
    right = weights * (predicted == labels)
    size = np.bincount(labels, weights)
    hit = np.bincount(labels, right)
    is_positive = labels == positive
    ups, downs = weights * is_positive, weights * ~is_positive
    auc = None
    if ups.sum() and downs.sum():
        # rows of equal score share a rank; below them lie all negatives of smaller ranks
        at = np.bincount(rank, downs)
        below = np.cumsum(at) - at
        auc = float((ups * (below + at / 2)[rank]).sum() / (ups.sum() * downs.sum()))
    return {
        "accuracy": float(right.sum() / total),
        "balanced_accuracy": float((hit[size > 0] / size[size > 0]).mean()),
        "auc": auc,
    }


def dense_rank(score: NDArray[Any]) -> NDArray[np.int64]:
    """Ranks from 0, the same for equal scores: sorted once, not for every resample."""
    return (rankdata(score, method="dense") - 1).astype(np.int64)


def wilson(share: float, count: int, level: float = _LEVEL) -> tuple[float, float]:
    """Interval of a binomial share (Wilson 1927).

    Args:
        share: In [0, 1].
        count: Trials, above 0.
        level: Confidence.
    """
    found = binomtest(round(share * count), count).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def resamples(people: NDArray[Any], count: int) -> Iterator[NDArray[Any]]:
    """How often each row counts when people are drawn with replacement, all rows of each together; a public seed.

    Args:
        people: Whose row each is, shape (n,).
        count: How many draws.
    """
    _, whose = np.unique(people, return_inverse=True)
    size = int(whose.max()) + 1
    generator = np.random.default_rng(SEED)
    for _ in range(count):
        yield np.bincount(generator.integers(size, size=size), minlength=size)[whose].astype(np.float64)


def compare(
    logits: dict[str, Tensor], labels: NDArray[Any], people: NDArray[Any], positive: int, count: int
) -> dict[str, Any]:
    """Utility of every model on one group, and the contrasts with their intervals.

    Args:
        logits: Of every model on the group's rows.
        labels: Class indices.
        people: Whose row each is.
        positive: Index of the class whose AUC is taken.
        count: Resamples.
    """
    if not len(labels):
        return {"rows": 0, "people": 0}
    answers = {
        name: (
            z.argmax(dim=1).numpy(),
            labels,
            dense_rank(torch.softmax(z, dim=1)[:, positive].numpy()),
            positive,
        )
        for name, z in logits.items()
    }
    point = {name: utility(*answer, np.ones(len(labels))) for name, answer in answers.items()}
    draws = [
        {name: utility(*answer, weights) for name, answer in answers.items()}
        for weights in resamples(people, count)
    ]
    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    contrasts: dict[str, Any] = {}
    for contrast, (one, other) in CONTRASTS.items():
        contrasts[contrast] = {}
        for metric in METRICS:
            first, second = point[one][metric], point[other][metric]
            moved = [
                draw[one][metric] - draw[other][metric]  # type: ignore[operator]
                for draw in draws
                if draw[one][metric] is not None and draw[other][metric] is not None
            ]
            contrasts[contrast][metric] = (
                None
                if first is None or second is None or len(moved) < count / 2
                else [round(float(v), _DIGITS) for v in (first - second, *np.quantile(moved, tails))]
            )
    return {
        "rows": len(labels),
        "people": len(np.unique(people)),
        "models": {
            name: {k: None if v is None else round(v, _DIGITS) for k, v in found.items()}
            for name, found in point.items()
        },
        "contrasts": contrasts,
    }


def pooled(found: list[list[float]]) -> tuple[float, float, float]:
    """One contrast over seeds: mean, and an interval that holds the test set's and the seeds' share of chance.

    The same test people serve every seed, so their share is not divided by the number of seeds.

    Args:
        found: ``[difference, low, high]`` of each seed.
    """
    values = np.array(found)
    z = float(norm.ppf((1 + _LEVEL) / 2))
    of_test = ((values[:, 2] - values[:, 1]) / (2 * z)) ** 2
    of_seeds = values[:, 0].var(ddof=1) / len(values) if len(values) > 1 else 0.0
    mean, half = float(values[:, 0].mean()), z * math.sqrt(float(of_test.mean()) + of_seeds)
    return mean, mean - half, mean + half
