"""Likelihood-ratio attack: what shadow models say of each record when it was in, and when it was out.

With scores of shadow models *after* unlearning it is U-LiRA: "in" are the shadows that had the record and unlearned
it, "out" those that never had it. The strongest attack of the family, and the dearest.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from expunge.attacks.scores import Floats
from expunge.errors import InputError

_FLOOR = 1e-6  # of a deviation: shadows that agree in every digit say nothing of what a new model would do


def likelihood_ratios(
    target: ArrayLike,
    shadows: ArrayLike,
    members: ArrayLike,
    *,
    variance: Literal["record", "global"] = "record",
    online: bool = True,
) -> Floats:
    """Per-record likelihood ratio of two normal distributions.

    Formula: ``log N(phi; mu_in, s_in^2) - log N(phi; mu_out, s_out^2)``; offline
    ``-log P[N(mu_out, s_out^2) >= phi]``. Global variance: one ``s_in`` and one ``s_out`` pooled over all records, for
    few shadows (fewer than 64, say).

    Reference: Carlini et al. (S&P 2022), Algorithm 1; U-LiRA: Hayes et al., "Inexact unlearning needs more careful
    evaluations to avoid a false sense of privacy" (2024).

    Args:
        target: Statistic of every record under the attacked model (:func:`logit_confidence`), shape (n,).
        shadows: The same under each shadow model, shape (k, n).
        members: Whether the shadow was trained on the record, shape (k, n).
        variance: Of each record, or one for all.
        online: Whether shadows that had the record are used; offline ones need not exist for it.

    Returns:
        Scores, the larger the more like a member, shape (n,).

    Raises:
        InputError: If shapes do not fit, or a record has too few shadows on a side: 1, or 2 for its own variance.
    """
    phi, table = np.asarray(target, dtype=np.float64), np.asarray(shadows, dtype=np.float64)
    inside = np.asarray(members, dtype=bool)
    fewest = 2 if variance == "record" else 1
    if table.shape != inside.shape or table.shape[1:] != phi.shape or phi.ndim != 1:
        raise InputError(
            "scores do not fit",
            expected="(n,), (k, n), (k, n)",
            got=f"{phi.shape}, {table.shape}, {inside.shape}",
        )
    counts = np.minimum(inside.sum(axis=0), (~inside).sum(axis=0)) if online else (~inside).sum(axis=0)
    if len(phi) and counts.min() < fewest:
        raise InputError(
            "too few shadow models", expected=f"{fewest} on each side of every record", got=str(counts.min()),
            remedy="plan more, an even number, so that every record is in half of them",
        )  # fmt: skip
    mean_out, deviation_out = _moments(table, ~inside, variance)
    if not online:
        return np.asarray(-norm.logsf(phi, mean_out, deviation_out), dtype=np.float64)
    mean_in, deviation_in = _moments(table, inside, variance)
    ratio = norm.logpdf(phi, mean_in, deviation_in) - norm.logpdf(phi, mean_out, deviation_out)
    return np.asarray(ratio, dtype=np.float64)


def _moments(table: Floats, chosen: NDArray[np.bool_], variance: str) -> tuple[Floats, Floats]:
    count = chosen.sum(axis=0)
    mean = np.where(chosen, table, 0.0).sum(axis=0) / count
    squares = np.where(chosen, (table - mean) ** 2, 0.0).sum(axis=0)
    if variance == "global":
        degrees = max(1, int((count - 1).sum()))
        return mean, np.full_like(mean, max(_FLOOR, float(np.sqrt(squares.sum() / degrees))))
    return mean, np.maximum(_FLOOR, np.sqrt(squares / (count - 1)))
