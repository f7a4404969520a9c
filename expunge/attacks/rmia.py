"""Robust membership inference: each record against the population, each relative to reference models."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from expunge.attacks.scores import Floats
from expunge.errors import InputError


def relative_scores(
    target: ArrayLike,
    population: ArrayLike,
    target_references: ArrayLike,
    population_references: ArrayLike,
    *,
    gamma: float = 2.0,
    offline: float | None = None,
) -> Floats:
    """Share of the population that a record beats in a pairwise likelihood ratio.

    Formula: ``LR(x, z) = (p(x | model) / p(x)) / (p(z | model) / p(z))``, score ``P_z[LR(x, z) >= gamma]``, where
    ``p(x)`` is the mean of ``p(x | reference)`` over reference models, half of them trained on x. Offline, where none
    was: ``p(x) = ((1 + a) mean_out + (1 - a)) / 2``.

    Reference: Zarifzadeh, Liu and Shokri, "Low-cost high-power membership inference attacks" (ICML 2024),
    section 3 and Algorithm 1; offline: their appendix B.2.2.

    Args:
        target: Log-confidence of the records in question under the attacked model, shape (m,).
        population: Of records of the population that the attacked model never saw, shape (n,).
        target_references: The records' log-confidence under each reference model, shape (k, m).
        population_references: The population's, shape (k, n).
        gamma: At least 1: how clearly a record must win.
        offline: a in [0, 1], where no reference model was trained on the records; None online.

    Returns:
        In [0, 1], the larger the more like a member, shape (m,).

    Raises:
        InputError: If shapes do not fit or a constant is out of range.
    """
    x, z = np.asarray(target, dtype=np.float64), np.asarray(population, dtype=np.float64)
    in_x, in_z = (np.asarray(r, dtype=np.float64) for r in (target_references, population_references))
    if (
        x.ndim != 1
        or z.ndim != 1
        or not len(z)
        or in_x.ndim != 2
        or len(in_x) < 1
        or in_x.shape[1:] != x.shape
        or in_z.shape != (len(in_x), len(z))
    ):
        raise InputError(
            "scores do not fit",
            expected="(m,), (n,), (k, m), (k, n)",
            got=f"{x.shape}, {z.shape}, {in_x.shape}, {in_z.shape}",
        )
    if gamma < 1 or not (offline is None or 0 <= offline <= 1):
        raise InputError("invalid constants", expected="gamma >= 1, a in [0, 1]", got=f"{gamma:g}, {offline}")
    won = x - _marginal(in_x, offline) - np.log(gamma)
    ordered = np.sort(z - _marginal(in_z, offline))
    return np.asarray(np.searchsorted(ordered, won, side="right") / len(z), dtype=np.float64)


def _marginal(references: Floats, offline: float | None) -> Floats:
    mean = logsumexp(references, axis=0) - np.log(len(references))
    if offline is not None:
        mean = np.log(((1 + offline) * np.exp(mean) + (1 - offline)) / 2)
    return np.asarray(mean, dtype=np.float64)
