"""Whether forgotten people are told from people whom no model was ever trained on, and how sure that is.

Each row's score becomes its rank among all rows of its class, and a person's the mean of their rows. Where the model
never saw the forgotten people and they are like the others, who is forgotten and who was never trained on is a random
labelling of the same scores; so the two-sided Mann-Whitney test (1947) of the two groups raises a false alarm with no
more than the probability that it is asked for, whatever the model and the scores. People are alike only if nobody has
rows in both splits: those who have would be forgotten people with few rows each, and never among the others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

_EXACT = 2_000_000  # additions of the exact test; beyond it the normal approximation, whose tail is the heavier one


@dataclass(frozen=True)
class Membership:
    """How well an attack tells forgotten people from never-trained ones.

    Args:
        people: Forgotten people with a training row.
        others: People who were never trained on.
        auc: Probability that a forgotten person scores above another, ties half; 0.5 tells nothing, 0 as much as 1.
        p_value: That people who are alike stand out so far or further, on either side; ties count against an alarm.
        smallest: The smallest p-value that so many people can lead to.
        highest: Largest score of a forgotten person, a mean rank in [0, 1].
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
    """The p-value of the most alarming outcome: every forgotten person scores above, or below, every other.

    Args:
        people: Forgotten people.
        others: Never-trained people.

    Returns:
        In [0, 1], by the method that :func:`membership` uses for so many people.

    Example:
        >>> smallest_p_value(2, 20)
        0.008658008658008658
    """
    return _p_value(people, others, people * others)


def membership(
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    subjects: Sequence[str],
    forgotten: NDArray[np.bool_],
) -> Membership:
    """Compare forgotten people with never-trained ones by the scores of their rows.

    Formula: ``p = min(1, 2 P[U >= max(above, below)])`` under a random labelling, with the pairs in which the forgotten
    person scores above and below the other; ``auc = (above + ties / 2) / (people * others)``.
    Reference: Mann and Whitney 1947; what an (epsilon, delta)-certified mechanism draws raises this alarm at level p
    with probability at most ``e^epsilon p + delta``, by the definition of the certificate.

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
    ours, theirs = means[of_forgotten], np.sort(means[~of_forgotten])
    if not (len(ours) and len(theirs)):
        raise ValueError("people on both sides are needed")
    pairs = len(ours) * len(theirs)
    above = int(np.searchsorted(theirs, ours, side="left").sum())
    below = pairs - int(np.searchsorted(theirs, ours, side="right").sum())
    return Membership(
        people=len(ours),
        others=len(theirs),
        auc=(above + (pairs - below)) / (2 * pairs),
        p_value=_p_value(len(ours), len(theirs), max(above, below)),
        smallest=smallest_p_value(len(ours), len(theirs)),
        highest=float(ours.max()),
    )


def alarms(found: Membership, *, level: float, margin: float) -> bool:
    """Whether a gate at this level stops the release.

    Args:
        found: The outcome.
        level: Probability of a false alarm that is accepted, in (0, 1).
        margin: How far from 0.5 the AUC has to be for the difference to matter, in [0, 0.5).

    Returns:
        True if people who are alike would hardly score like this, and the difference is large enough to matter.
    """
    return found.p_value <= level and abs(found.auc - 0.5) >= margin


def _p_value(people: int, others: int, pairs: int) -> float:
    """``min(1, 2 P[U >= pairs])`` of untied scores, where U is the statistic of Mann and Whitney.

    Exact by the number of labellings with each U, the coefficients of the Gaussian binomial
    ``prod_i (1 - q^(others + i)) / (1 - q^i)`` (Andrews 1976, chapter 3), in whole numbers. SciPy's exact test takes
    time quadratic in U: a minute for five people among 20,000, where this takes a fraction of a second.
    """
    few, many, left = min(people, others), max(people, others), people * others - pairs
    if 2 * left >= people * others:
        return 1.0
    if few * few * many > _EXACT:
        deviation = sqrt(people * others * (people + others + 1) / 12)
        return min(1.0, 2 * float(norm.sf((pairs - 0.5 - people * others / 2) / deviation)))
    ways = np.zeros(left + 1, dtype=object)
    ways[0] = 1
    for i in range(1, few + 1):
        if many + i <= left:
            ways[many + i :] = ways[many + i :] - ways[: left + 1 - many - i]
        for start in range(min(i, left + 1)):
            ways[start::i] = np.cumsum(ways[start::i])
    return min(1.0, 2 * int(ways.sum()) / comb(few + many, few))
