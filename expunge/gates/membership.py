"""Whether forgotten people are told from people whom no model was ever trained on, and how sure that is.

Each row's score becomes its rank among all rows of its class, and a person's the mean of their rows. Where the model
never saw the forgotten people and they are like the others, who is forgotten and who was never trained on is a random
labelling of the same scores; so the Mann-Whitney test (1947) of the two groups raises a false alarm with exactly the
probability that it is asked for, whatever the model, the scores and the number of rows a person has.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, rankdata

_EXACT = 50_000  # pairs of people; beyond it the normal approximation, whose tail is the heavier one


@dataclass(frozen=True)
class Membership:
    """How well an attack tells forgotten people from never-trained ones.

    Args:
        people: Forgotten people with a training row.
        others: People who were never trained on.
        auc: Probability that a forgotten person scores above another, ties half; 0.5 tells nothing.
        p_value: That people who are alike score like this, or more alarmingly; ties count against an alarm.
        smallest: The smallest p-value that so many people can lead to.
        highest: Largest score of a forgotten person, a mean rank in [0, 1]: the worst of them.
    """

    people: int
    others: int
    auc: float
    p_value: float
    smallest: float
    highest: float

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return asdict(self)


def smallest_p_value(people: int, others: int) -> float:
    """The p-value of the most alarming outcome: every forgotten person scores above every other.

    Args:
        people: Forgotten people.
        others: Never-trained people.

    Returns:
        In (0, 1].

    Example:
        >>> smallest_p_value(2, 20)
        0.004329004329004329
    """
    return 1 / comb(people + others, people)


def membership(
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    subjects: Sequence[str],
    forgotten: NDArray[np.bool_],
) -> Membership:
    """Compare forgotten people with never-trained ones by the scores of their rows.

    Formula: ``p = P[U >= u]`` under a random labelling, ``auc = u / (people * others)``.
    Reference: Mann and Whitney 1947; a (epsilon, delta)-certified release raises this alarm at level p with probability
    at most ``e^epsilon p + delta``, by the definition of the certificate.

    Args:
        scores: Of each row, higher for "was trained on"; finite, shape (n,).
        classes: Of each row: rows are ranked within their class, shape (n,).
        subjects: Of each row, n names.
        forgotten: Whether the row is of the forget set; a person is in one group only, shape (n,).

    Returns:
        The outcome.

    Raises:
        ValueError: If either group is empty.
    """
    ranks = np.empty(len(scores))
    for label in np.unique(classes):
        own = classes == label
        ranks[own] = rankdata(scores[own]) / (own.sum() + 1)
    _, person = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    means = np.bincount(person, ranks) / np.bincount(person)
    of_forgotten = np.zeros(len(means), dtype=bool)
    of_forgotten[person[forgotten]] = True
    ours, theirs = means[of_forgotten], means[~of_forgotten]
    if not (len(ours) and len(theirs)):
        raise ValueError("people on both sides are needed")
    auc = float(mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))
    # distinct places, a forgotten person below the others that they tie with
    order = np.lexsort((~of_forgotten, means))
    places = np.empty(len(means))
    places[order] = np.arange(len(means))
    method = "exact" if len(ours) * len(theirs) <= _EXACT else "asymptotic"
    p_value = mannwhitneyu(
        places[of_forgotten], places[~of_forgotten], alternative="greater", method=method
    ).pvalue
    return Membership(
        people=len(ours),
        others=len(theirs),
        auc=auc,
        p_value=float(p_value),
        smallest=smallest_p_value(len(ours), len(theirs)),
        highest=float(ours.max()),
    )


def alarms(found: Membership, *, level: float, margin: float) -> bool:
    """Whether a gate at this level stops the release.

    Args:
        found: The outcome.
        level: Probability of a false alarm that is accepted, in (0, 1).
        margin: How far above 0.5 the AUC has to be for the difference to matter, in [0, 0.5).

    Returns:
        True if people who are alike would hardly score like this, and the difference is large enough to matter.
    """
    return found.p_value <= level and found.auc >= 0.5 + margin
