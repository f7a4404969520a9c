"""A suspect mechanism: in the ledger, out of every plan, and cleared by nobody without a reason."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from expunge.database import open_database
from expunge.errors import CertificateRefusedError, InputError
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import check_ledger, suspects_of
from expunge.evidence.store import LedgerStore
from expunge.mechanisms.contract import Context
from expunge.mechanisms.planner import make_plan
from expunge.models.spec import ModelSpec
from expunge.settings import Params, Policy
from expunge.tickets.batches import BatchStore
from tasks import incidents, leases
from tasks.incidents import clear, suspect

PERSON = "person-00042-x"


@pytest.fixture
def state(tmp_path, monkeypatch):
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime.now(UTC))
    told = []
    monkeypatch.setattr(leases, "require_place", lambda state: None)  # no folder, hence no place
    monkeypatch.setattr(incidents, "alarm_of_batch", lambda state, batch_id, said: told.append(said))
    database = open_database(f"sqlite:///{tmp_path}/ledger.db")
    made = SimpleNamespace(
        lineage="expunge-test",
        batches=BatchStore(database),
        policy=Policy(),
        ledger=LedgerStore(database, keys),
        tickets=SimpleNamespace(
            select=lambda states: [SimpleNamespace(ticket_id="t-1")], subjects_of=lambda ids: [PERSON]
        ),
        told=told,
    )
    made.ledger.append(
        made.lineage, kind="opening", issued_at=datetime.now(UTC).isoformat(), details={"model_version": 1}
    )
    return made


def batch(draws=1):
    return SimpleNamespace(batch_id="b-1", draws=draws, data={"release": {"mechanism": "convex"}})


def order(state):
    params = Params.model_validate({"model": {"name": "softmax", "hyperparameters": {}}})
    spec = ModelSpec.from_params(params, in_features=4, classes=2)
    suspects = suspects_of(state.ledger.entries(state.lineage))
    made = make_plan(Context(spec, state.policy, 40, 60.0, 300, suspects=suspects))
    (convex,) = [a for a in made.assessments if a.mechanism == "convex"]
    return made.order, convex


def test_a_suspect_mechanism_is_in_no_plan_until_it_is_cleared(state):
    assert "convex" in order(state)[0]
    entry = suspect(state, batch())
    assert suspect(state, batch()) == entry  # a step that is repeated
    assert len(state.told) == 2
    planned, convex = order(state)
    assert "convex" not in planned
    assert "retrain" in planned
    assert f"entry {entry.sequence}" in convex.refusal
    assert "expunge mechanism clear convex" in convex.remedy
    cleared = clear(state, "convex", "weights were swapped by hand")
    assert cleared.details["clears"] == entry.sequence
    assert "convex" in order(state)[0]
    suspect(state, batch(draws=2))
    assert "convex" not in order(state)[0]
    assert check_ledger(state.ledger.entries(state.lineage)) == []


def test_nobody_clears_without_a_reason_or_by_naming_a_person(state):
    with pytest.raises(InputError, match="not suspect"):
        clear(state, "convex", "none")
    suspect(state, batch())
    with pytest.raises(InputError):
        clear(state, "convex", "")
    with pytest.raises(InputError):
        clear(state, "convex", f"{PERSON} asked")
    with pytest.raises(CertificateRefusedError, match="unknown"):
        clear(state, "no-such", "why")
    assert "convex" not in order(state)[0]
