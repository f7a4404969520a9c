"""The gate's false alarms are as rare as stated, whatever the scores; a model that remembers is caught."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from expunge.attacks.empirical_epsilon import contradicts
from expunge.gates import membership as module
from expunge.gates.contradiction import contradiction_p_value, lowest_epsilon
from expunge.gates.influence import gradient_norms, is_outlier
from expunge.gates.membership import alarms, membership, smallest_p_value


def compare(scores, forgotten, classes=None, subjects=None):
    classes = np.zeros(len(scores), dtype=np.int64) if classes is None else np.asarray(classes)
    subjects = [str(n) for n in range(len(scores))] if subjects is None else subjects
    return membership(np.asarray(scores, dtype=np.float64), classes, subjects, np.asarray(forgotten))


def labelled(people, chosen):
    mask = np.zeros(people, dtype=bool)
    mask[list(chosen)] = True
    return mask


@pytest.mark.parametrize("scores", [np.arange(9.0), np.array([0, 0, 0, 1, 1, 2, 2, 2, 9.0]), np.zeros(9)])
def test_the_p_value_is_exact_over_every_labelling(scores):
    """All 84 ways to call three of nine people forgotten are equally likely: p is no smaller than its own frequency."""
    found = np.array([compare(scores, labelled(9, chosen)).p_value for chosen in combinations(range(9), 3)])
    for level in np.unique(found):
        assert (found <= level).mean() <= level * (1 + 1e-9)
    if len(set(scores)) == len(scores):
        assert found.min() == pytest.approx(smallest_p_value(3, 6)) == pytest.approx(2 / 84)


def test_false_alarms_of_people_with_many_rows_are_rare():
    """Rows of a person are alike, people differ, classes are of different difficulty: no more alarms than stated."""
    rng, alarm_count, runs, level = np.random.default_rng(1), 0, 400, 0.05
    for _ in range(runs):
        rows = rng.integers(1, 7, 40)
        person = np.repeat(np.arange(40), rows)
        classes = rng.integers(0, 2, len(person))
        scores = rng.normal(size=40)[person] + 3 * classes + 0.1 * rng.normal(size=len(person))
        found = compare(scores, person < 8, classes, [str(p) for p in person])
        alarm_count += alarms(found, level=level, margin=0.0)
    # a binomial count above this has probability 1e-4
    assert alarm_count <= runs * level + 3.8 * math.sqrt(runs * level * (1 - level))


def test_a_model_that_remembers_is_caught():
    rng = np.random.default_rng(2)
    scores = np.concatenate([rng.normal(3, 1, 20), rng.normal(0, 1, 100)])
    found = compare(scores, np.arange(120) < 20)
    assert alarms(found, level=1e-3, margin=0.1)
    assert found.auc > 0.9
    assert found.p_value < 1e-6


def test_what_is_significant_and_does_not_matter_is_let_pass():
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(0.18, 1, 4000), rng.normal(0, 1, 4000)])
    found = compare(scores, np.arange(8000) < 4000)
    assert found.p_value < 1e-3
    assert not alarms(found, level=1e-3, margin=0.1)


def test_a_class_that_is_easy_is_no_alarm():
    """All who leave are of the class that the model is sure of."""
    rng = np.random.default_rng(4)
    classes = np.concatenate([np.zeros(10), np.arange(100) % 2]).astype(np.int64)
    scores = rng.normal(size=110) + np.where(classes == 0, 20.0, 0.0)
    assert not alarms(compare(scores, np.arange(110) < 10, classes), level=0.05, margin=0.1)


def test_ties_do_not_alarm_and_one_person_cannot():
    assert compare(np.ones(30), np.arange(30) < 10).p_value == pytest.approx(1.0)
    found = compare(np.arange(30.0), np.arange(30) == 29)
    assert found.p_value == pytest.approx(2 / 30) == pytest.approx(found.smallest)
    with pytest.raises(ValueError, match="both sides"):
        compare(np.ones(3), np.ones(3, dtype=bool))


def test_many_people_are_compared_in_no_time_and_not_too_boldly():
    """The normal approximation is used where the exact test is dear: its p-value is the larger one."""
    rng = np.random.default_rng(6)
    for people, others in ((40, 1300), (400, 80), (12, 14_000)):
        wins = int(people * others * rng.uniform(0.85, 0.99))
        assert people * others * min(people, others) > module._EXACT
        near = module._p_value(people, others, wins)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_EXACT", 10**9)
            assert near >= module._p_value(people, others, wins)


@pytest.mark.parametrize(("people", "others"), [(1, 40), (3, 17), (9, 12), (12, 5)])
def test_the_exact_test_is_that_of_scipy(people, others):
    rng = np.random.default_rng(8)
    for _ in range(10):
        scores = rng.permutation(people + others) + 2.0 * (np.arange(people + others) < people)
        scores += rng.uniform(0, 0.1, len(scores))  # no ties
        expected = mannwhitneyu(scores[:people], scores[people:], alternative="two-sided", method="exact")
        found = compare(scores, np.arange(people + others) < people)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.auc == pytest.approx(expected.statistic / (people * others))


def test_people_who_stand_out_low_are_caught_as_well():
    """A release that is unusually unsure of them tells them apart just as well; so it is with ties."""
    rng = np.random.default_rng(9)
    scores = np.round(np.concatenate([rng.normal(3, 1, 20), rng.normal(0, 1, 100)]), 1)
    high, low = (compare(sign * scores, np.arange(120) < 20) for sign in (1, -1))
    assert low.auc == pytest.approx(1 - high.auc)
    assert low.p_value == high.p_value
    assert alarms(low, level=1e-3, margin=0.1)
    assert not alarms(low, level=1e-3, margin=0.49)


def test_three_people_who_are_exposed_are_caught_among_many():
    for people in (3, 11):  # by the exact test, by the normal approximation
        found = compare(np.arange(20_000.0), np.arange(20_000) >= 20_000 - people)
        assert found.p_value == found.smallest < 1e-6
        assert alarms(found, level=5e-4, margin=0.1)


def test_one_person_needs_3999_others():
    assert smallest_p_value(1, 3999) <= 5e-4 < smallest_p_value(1, 3998)
    # the approximation is used where it is too much work, and what it cannot reach is said
    assert smallest_p_value(1, module._EXACT + 1) > 5e-4


def test_a_certified_release_contradicts_no_more_often_than_stated():
    """The worst release that an (epsilon, delta)-certificate allows: each event as likely as it may be."""
    epsilon, delta, confidence = 0.7, 1e-3, 0.95
    # the p-value of such a release: P[p <= x] = e^epsilon x + delta
    bounds = {x: lowest_epsilon(x, delta, confidence) or 0.0 for x in np.linspace(0, 1, 100_001)}
    limit = [x for x, bound in bounds.items() if contradicts(epsilon, bound)]
    assert contradiction_p_value(max(limit), epsilon, delta) <= 1 - confidence + 1e-4
    assert contradiction_p_value(max(limit) + 1e-3, epsilon, delta) > 1 - confidence
    assert contradiction_p_value(0, epsilon, delta) == delta
    assert contradiction_p_value(0.9, 50, delta) == 1.0


def test_the_lower_bound_on_epsilon():
    assert lowest_epsilon(1e-6, 0.0, 0.95) == pytest.approx(math.log(0.05 / 1e-6))
    assert lowest_epsilon(0.5, 0.0, 0.95) == 0.0
    assert lowest_epsilon(1e-9, 0.1, 0.95) is None
    assert not contradicts(0.0, lowest_epsilon(1e-300, 0.1, 0.95) or 0.0)


def test_a_row_that_pulls_is_seen():
    rng = np.random.default_rng(7)
    features, labels = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    likely = rng.dirichlet(np.ones(3), 200)
    norms = gradient_norms(features, labels, likely)
    one = np.append(features[0], 1.0)
    outer = np.outer(likely[0] - np.eye(3)[labels[0]], one)
    assert norms[0] == pytest.approx([np.linalg.norm(outer), np.linalg.norm(one)])
    assert not is_outlier(norms[:20], norms[20:], 20.0)
    assert is_outlier(np.vstack([norms[:20], [1000.0, 900.0]]), norms[20:], 20.0)


def test_a_wrong_label_is_no_outlier_of_a_model_that_is_sure():
    """99 % of rows pull by next to nothing; an honest row with a wrong label does not strike, a crafted one does."""
    rng = np.random.default_rng(10)
    features, labels = rng.normal(size=(300, 5)), rng.integers(0, 3, 300)
    likely = np.full((300, 3), 1e-9)
    likely[np.arange(300), labels] = 1 - 2e-9
    labels[0] = (labels[0] + 1) % 3
    norms = gradient_norms(features, labels, likely)
    assert norms[0, 0] > 1000 * np.quantile(norms[20:, 0], 0.99)
    assert not is_outlier(norms[:20], norms[20:], 20.0)
    features[0] *= 100
    assert is_outlier(gradient_norms(features, labels, likely)[:20], norms[20:], 20.0)
