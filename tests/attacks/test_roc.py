"""Areas, intervals and thresholds: right where the answer is known, honest where there is nothing to find."""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from expunge.attacks.intervals import clopper_pearson
from expunge.attacks.result import attack_result
from expunge.attacks.roc import auc_interval, halves, measure_roc
from expunge.attacks.scores import log_confidence, logit_confidence, loss
from expunge.errors import InputError


def test_scores_are_those_of_probabilities_and_keep_their_digits_at_the_ends():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = p[np.arange(50), labels]
    np.testing.assert_allclose(loss(logits, labels), -np.log(own), rtol=1e-12)
    np.testing.assert_allclose(
        logit_confidence(logits, labels), np.log(own / (1 - own)), rtol=1e-9, atol=1e-12
    )
    far = np.array([[900.0, 0.0, -5.0]])
    assert logit_confidence(far, [0])[0] == pytest.approx(900 - math.log(1 + math.exp(-5)), abs=1e-9)
    assert logit_confidence(far, [1])[0] == pytest.approx(-900, abs=1e-9)
    stacked = logit_confidence(np.stack([logits, 2 * logits]), labels)
    np.testing.assert_array_equal(stacked[0], logit_confidence(logits, labels))
    np.testing.assert_array_equal(-log_confidence(logits, labels), loss(logits, labels))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[0.0, np.nan]], [0]),
        ([[0.0, 1.0]], [2]),
        ([[0.0, 1.0]], [0, 1]),
        ([[0.0]], [0]),
        ([[0.0, 1.0]], [-1]),
    ],
)
def test_scores_refuse_what_does_not_fit(logits, labels):
    with pytest.raises(InputError, match="do not fit"):
        logit_confidence(logits, labels)


def test_the_area_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(3)
    positive, negative = rng.integers(0, 9, 70).astype(float) + 1, rng.integers(0, 9, 50).astype(float)
    truth = roc_auc_score([1] * 70 + [0] * 50, np.concatenate([positive, negative]))
    found = measure_roc(positive, negative, negative)
    assert found.auc == pytest.approx(truth, rel=1e-12)
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(truth, rel=1e-12)
    assert found.auc_low < truth < found.auc_high


def test_mirrored_scores_mirror_the_interval():
    rng = np.random.default_rng(4)
    positive, negative = rng.normal(1, 1, 40), rng.normal(0, 1, 60)
    auc, low, high = auc_interval(positive, negative)
    np.testing.assert_allclose(auc_interval(-positive, -negative), (1 - auc, 1 - high, 1 - low), atol=1e-9)


def test_complete_separation_is_not_certainty():
    found = [auc_interval(np.arange(size) + 100.0, np.arange(size) * 1.0) for size in (1, 5, 50)]
    assert all((auc, high) == (1.0, 1.0) for auc, _, high in found)
    lows = [low for _, low, _ in found]
    assert lows[0] < 0.5 < lows[1] < lows[2] < 1  # fewer records, less known
    assert auc_interval(np.zeros(1) - 9, np.arange(300.0))[2] > 0.5


@pytest.mark.parametrize(
    ("shift", "deviation", "members", "others"),
    [(0.0, 1.0, 1, 300), (0.0, 1.0, 3, 300), (1.0, 3.0, 30, 300), (2.5, 0.5, 25, 100), (3.0, 1.0, 10, 300)],
)
def test_intervals_of_the_area_cover_at_the_nominal_rate(shift, deviation, members, others):
    """Also for one forgotten record, where members vary more or less than others, and near complete separation."""
    rng = np.random.default_rng(5)
    truth = float(norm.cdf(shift / math.hypot(1, deviation)))
    runs, covered = 500, 0
    for _ in range(runs):
        _, low, high = auc_interval(rng.normal(shift, deviation, members), rng.normal(0, 1, others))
        covered += low <= truth <= high
    assert covered / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_clopper_pearson_covers_and_knows_its_ends():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(7, 7)[1] == 1.0
    rng = np.random.default_rng(6)
    for truth in (0.003, 0.2, 0.9):
        drawn = rng.binomial(200, truth, 800)
        bounds = np.array([clopper_pearson(int(k), 200) for k in drawn])
        assert ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean() > 0.95 - 0.024


def test_thresholds_come_from_elsewhere_so_that_noise_shows_no_advantage():
    """Members and non-members alike: only the best threshold on the scored records looks like an attack."""
    rng = np.random.default_rng(7)
    tpr, fpr, in_sample = [], [], []
    for run in range(150):
        members, others = rng.normal(size=100), rng.normal(size=200)
        point = attack_result("noise", members, others, seed=run).roc.at(0.01)
        tpr.append(point.tpr)
        fpr.append(point.fpr)
        rates = (members > members[:, None]).mean(axis=1) - (others[:100] > members[:, None]).mean(axis=1)
        in_sample.append(rates.max())
    error = np.std(tpr) / math.sqrt(len(tpr))
    assert np.mean(tpr) <= 0.01 + 4 * error
    assert np.mean(fpr) <= 0.01 + 4 * np.std(fpr) / math.sqrt(len(fpr))
    assert np.mean(in_sample) > 0.05  # what choosing in sample would have shown of nothing


def test_low_rates_need_enough_non_members():
    rng = np.random.default_rng(8)
    few = attack_result("few", rng.normal(size=30), rng.normal(size=500)).roc
    assert few.at(0.01).tpr is not None
    assert few.at(0.001).tpr is None
    assert "too few non-members" in few.at(0.001).note
    enough = attack_result("enough", rng.normal(size=30) + 9, rng.normal(size=2000)).roc
    assert enough.at(0.001).tpr == 1.0
    assert enough.at(0.001).tpr_low < 1 == enough.at(0.001).tpr_high
    json.dumps(few.to_json(), allow_nan=False)
    with pytest.raises(InputError, match="not measured"):
        few.at(0.5)


def test_a_separating_attack_reads_as_such_and_names_the_worst_records():
    scores = np.array([0.0, 5.0, 3.0])
    found = attack_result("clear", scores, np.linspace(-1, 1, 400))
    assert found.worst == (1, 2, 0)
    np.testing.assert_allclose(found.percentiles, [0.5, 1, 1], atol=0.05)
    aside, judged = halves(9, 0)
    assert sorted([*aside, *judged]) == list(range(9))
