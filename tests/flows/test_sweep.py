"""The scheduled flows, on a real Prefect server: they finish what is due and notice what does not hold."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from expunge.errors import ExpungeError, ServiceUnavailableError, VerificationError
from expunge.state import open_state
from flows.erase import erase
from flows.sweep import sweep
from flows.verify import verify
from tasks.absorption import continue_interrupted
from tasks.adapters.prefect_api import api


def test_a_sweep_closes_what_is_due_and_verification_notices_an_edit(clinic, monkeypatch):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    state = open_state(clinic.root)
    ticket = state.tickets.submit("person-00005-x").ticket
    sweep()
    closed = state.tickets.get(ticket.ticket_id)
    assert closed.state == "closed"
    batches = state.batches.every()
    sweep()  # nothing is due: nothing happens
    assert state.batches.every() == batches
    verify()

    path = state.workspace.evidence_dir / closed.certificate_id / "certificate.json"
    original = path.read_text()
    changed = json.loads(original)
    changed["epsilon"] /= 2
    path.write_text(json.dumps(changed))
    with pytest.raises(VerificationError, match="1 of 1 certificates do not hold"):
        verify()
    path.write_text(original)
    verify()


def test_a_sweep_yields_to_whoever_works_on_the_lineage(clinic, monkeypatch):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    state = open_state(clinic.root)
    ticket = state.tickets.submit("person-00006-x").ticket
    state.batches.acquire_lease(state.lineage, "elsewhere:1", 3600.0, alive=lambda holder: True)
    try:
        with pytest.raises(ExpungeError, match="at work on"):
            sweep()
        with pytest.raises(ExpungeError, match="at work on"):
            erase("b-000000000000")
    finally:
        state.batches.release_lease(state.lineage, "elsewhere:1")
    assert state.tickets.get(ticket.ticket_id).state == "verified"


def test_a_sweep_that_meets_an_outage_asks_for_another_and_so_does_the_next_worker(
    clinic, monkeypatch, prefect_api
):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    pool, flow = f"p{clinic.root.parent.name}", api(prefect_api, "/flows/", {"name": "sweep"})["id"]
    api(prefect_api, "/work_pools/", {"name": pool, "type": "process"})
    body = {"name": "sweep", "flow_id": flow, "work_pool_name": pool}
    deployed = api(prefect_api, "/deployments/", body)["id"]
    asked = {"flow_runs": {"deployment_id": {"any_": [deployed]}}}
    later = {"flow_runs": {**asked["flow_runs"], "expected_start_time": {"after_": in_seconds(100)}}}
    assert not continue_interrupted(prefect_api)  # nothing is left to do

    state = open_state(clinic.root)
    ticket = state.tickets.submit("person-00007-x").ticket
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(ServiceUnavailableError, match="MLflow"):
            sweep()
        assert api(prefect_api, "/flow_runs/count", asked) == 0  # whoever called it knows
        patch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployed)
        with pytest.raises(ServiceUnavailableError, match="MLflow"):
            sweep()
        assert api(prefect_api, "/flow_runs/count", later) == 1
    assert state.tickets.get(ticket.ticket_id).state == "failed"
    assert continue_interrupted(prefect_api)
    assert (api(prefect_api, "/flow_runs/count", asked), api(prefect_api, "/flow_runs/count", later)) == (
        2,
        1,
    )
    sweep()
    assert state.tickets.get(ticket.ticket_id).state == "closed"


def in_seconds(count: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=count)).isoformat()
