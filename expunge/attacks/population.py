"""The cheap attack of every run: are records told from people never seen, by the model's outputs alone?"""

import numpy as np
from numpy.typing import ArrayLike

from expunge.attacks.result import AttackResult, result_of
from expunge.attacks.roc import halves
from expunge.attacks.scores import Floats, logit_confidence
from expunge.errors import InputError

_FEWEST = 20  # records of a class that its mean is taken from; else that of all


def population_attack(
    target_logits: ArrayLike,
    target_labels: ArrayLike,
    population_logits: ArrayLike,
    population_labels: ArrayLike,
    *,
    calibrate_by_class: bool = False,
    seed: int = 0,
) -> AttackResult:
    """One threshold on the model's own confidence: no shadow models, one pass over the records.

    Formula: score ``phi(z) = log(p_y / (1 - p_y))``; with calibration ``(phi(z) - mean_y) / deviation_y``, mean and
    deviation over the population's records of the class in the half that is set aside.

    It is weak (Hayes et al., "Inexact unlearning needs more careful evaluations", 2024): it may fail a model, and its
    silence means little. Candidates who differ from the population as people (rare diagnoses, say) stand out from a
    retrained model too; compare with one before concluding.

    Reference: Yeom et al. (CSF 2018), global threshold; Song and Mittal (USENIX Security 2021), thresholds by class.

    Args:
        target_logits: Of the records in question (the forget set), shape (m, classes).
        target_labels: Shape (m,).
        population_logits: Of people never trained on (test records), shape (n, classes), at least two.
        population_labels: Shape (n,).
        calibrate_by_class: Whether classes are put on one scale first.
        seed: Public, of the population's halves.

    Returns:
        The result; candidates are members in it.

    Raises:
        InputError: If shapes do not fit, a logit is not finite, or there are too few records.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.zeros(200, dtype=int)
        >>> seen, fresh = rng.normal(size=(2, 200, 2)) + np.array([[[3.0, 0]], [[0, 0]]])
        >>> population_attack(seen, labels, fresh, labels).roc.tells_apart
        True
    """
    candidates = logit_confidence(target_logits, target_labels)
    others = logit_confidence(population_logits, population_labels)
    if not len(candidates) or len(others) < 2:
        raise InputError(
            "too few records to attack", expected="a candidate, two of the population",
            got=f"{len(candidates)} and {len(others)}",
        )  # fmt: skip
    aside, judged = halves(len(others), seed)
    labels = np.asarray(population_labels)
    if calibrate_by_class:
        means, deviations = _by_class(others[aside], labels[aside], np.asarray(population_logits).shape[-1])
        target = np.asarray(target_labels)
        candidates = (candidates - means[target]) / deviations[target]
        others = (others - means[labels]) / deviations[labels]
    name = "population, by class" if calibrate_by_class else "population"
    return result_of(name, candidates, others[judged], others[aside])


def _by_class(scores: Floats, labels: Floats, classes: int) -> tuple[Floats, Floats]:
    means, deviations = np.full(classes, scores.mean()), np.full(classes, scores.std() or 1.0)
    for label in range(classes):
        own = scores[labels == label]
        if len(own) >= _FEWEST and own.std() > 0:
            means[label], deviations[label] = own.mean(), own.std()
    return means, deviations
