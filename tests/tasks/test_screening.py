"""Guards: what they refuse, what they leave alone, and what becomes of the plan."""

from types import SimpleNamespace

import pytest

from expunge.errors import CertificateRefusedError
from expunge.settings import Policy
from tasks import screening
from tasks.screening import _exact_only, require_cost


@pytest.fixture
def told(monkeypatch):
    said = []
    monkeypatch.setattr(screening, "alarm_of_batch", lambda state, batch_id, text: said.append(text))
    return said


def cost(products, *, binding="theorem", trained=100, **guards):
    state = SimpleNamespace(policy=Policy.model_validate({"attacks": {"guards": guards}}))
    batch, context = SimpleNamespace(batch_id="b-1"), SimpleNamespace(training_products=trained)
    sealed = {} if products is None else {"products": products}
    require_cost(state, batch, context, SimpleNamespace(binding=binding, sealed=sealed))


def test_work_far_above_that_of_training_is_refused_with_an_alarm_and_no_figure(told):
    with pytest.raises(CertificateRefusedError) as caught:
        cost(301)
    assert "301" not in str(caught.value)
    assert told == ["guards: cost of unlearning"]


@pytest.mark.parametrize(
    "case",
    [
        {"products": 300},
        {"products": 10**9, "binding": "exact"},
        {"products": None},
        {"products": 10**9, "max_cost_ratio": None},
        {"products": 10**9, "trained": 0},
    ],
)
def test_what_is_left_alone(told, case):
    cost(case.pop("products"), **case)
    assert told == []


def test_only_exact_mechanisms_are_left_where_there_are_any():
    batch = SimpleNamespace(data={"order": ["convex", "retrain"], "refused": ["newton"]})
    assert _exact_only(batch) == {
        "refused": ["convex", "newton"],
        "refusals": [{"mechanism": "convex", "reason": "a guard struck"}],
    }
    assert _exact_only(SimpleNamespace(data={"order": ["convex"]})) == {}
