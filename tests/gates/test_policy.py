"""What policy.yaml may say of attacks."""

import pytest
from pydantic import ValidationError

from expunge.settings import AttacksPolicy


def test_defaults_are_on_and_cheap():
    policy = AttacksPolicy()
    assert policy.population.enabled
    assert policy.served
    assert policy.shadows.count == 0
    assert policy.retained.max_auc is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"false_alarm": 0},
        {"false_alarm": 0.5},
        {"population": {"margin": 0.5}},
        {"population": {"margin": -0.1}},
        {"population": {"max_rows": 5}},
        {"shadows": {"count": 2}},
        {"shadows": {"count": -1}},
        {"shadows": {"count": 16}, "population": {"enabled": False}},
        {"retained": {"max_auc": 0.4}},
        {"difference": {"minimum_people": 0}},
        {"contradiction": {"confidence": 1.0}},
        {"guards": {"max_gradient_factor": 1.0}},
        {"guards": {"max_rows_per_person": 0}},
        {"guards": {"max_cost_ratio": 0}},
        {"unknown": 1},
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValidationError):
        AttacksPolicy.model_validate(wrong)
