"""The report: two halves that never mix, limits judged by intervals, nothing that JSON cannot say."""

import json

import numpy as np
import pytest

from expunge.attacks.difference import rank_forgotten
from expunge.attacks.empirical_epsilon import EmpiricalEpsilon
from expunge.attacks.exposure import exposure_change
from expunge.attacks.report import AttackReport, Limits
from expunge.attacks.result import attack_result

RNG = np.random.default_rng(0)
OTHERS = RNG.normal(size=4000)


def found(shift, count=300):
    return attack_result("population", RNG.normal(shift, 1, count), OTHERS)


def test_limits_are_judged_by_what_is_shown():
    silent = AttackReport(forgotten=(found(0.0),)).passes(Limits())
    assert (silent.passed, silent.conclusive, silent.findings) == (True, True, ())
    loud = AttackReport(forgotten=(found(2.0),)).passes(Limits())
    assert not loud.passed
    assert any("AUC" in line for line in loud.findings)
    assert any("TPR" in line for line in loud.findings)
    over = AttackReport(forgotten=(found(-2.0),)).passes(Limits())
    assert not over.passed  # forgotten beyond what retraining forgets


def test_one_forgotten_record_is_seldom_conclusive():
    verdict = AttackReport(forgotten=(found(0.0, 1),)).passes(Limits())
    assert verdict.passed
    assert not verdict.conclusive
    assert not AttackReport(forgotten=()).passes(Limits()).conclusive


@pytest.mark.parametrize(("certified", "passed"), [(1.0, False), (3.0, True), (None, True)])
def test_a_refuted_certificate_does_not_pass(certified, passed):
    epsilon = EmpiricalEpsilon(2.0, 1e-5, 0.95, "one run", certified)
    report = AttackReport(forgotten=(found(0.0),), epsilon=(epsilon,))
    assert report.passes(Limits()).passed is passed
    assert report.sealed()["epsilon"][0]["contradicts"] is not passed


def test_what_depends_on_the_forget_set_is_sealed():
    report = AttackReport(
        forgotten=(found(1.0),),
        retained=(found(1.0, 500),),
        exposure=exposure_change(np.zeros(50), RNG.normal(size=50)),
        epsilon=(EmpiricalEpsilon(0.0, 1e-5, 0.95, "one run"),),
        difference=(rank_forgotten([0.3, 0.1, 0.2], [0]),),
        shadow_models=16,
        shadow_seconds=30.0,
    )
    other = AttackReport(
        forgotten=(found(-1.0, 20),),
        retained=(found(0.0, 400),),
        exposure=exposure_change(np.zeros(70), RNG.normal(size=70)),
        difference=(rank_forgotten([0.3, 0.1, 0.2], [1]),),
        shadow_models=16,
        shadow_seconds=30.0,
    )
    assert report.public() == other.public()
    text = json.dumps(report.to_json(), allow_nan=False)
    assert set(json.loads(text)) == {"public", "sealed"}
    assert json.loads(text)["sealed"]["forgotten"][0]["roc"]["auc"] == report.forgotten[0].roc.auc
