"""The scheduled flows, on a real Prefect server: they finish what is due and notice what does not hold."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from expunge.errors import LeaseHeldError, ServiceUnavailableError, VerificationError
from expunge.state import open_state
from flows.erase import erase
from flows.sweep import sweep
from flows.verify import verify
from tasks.adapters.prefect_api import api
from tasks.watch import left_to_nobody, look_after


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


def test_a_sweep_yields_to_whoever_works_on_the_lineage_and_asks_for_another(
    clinic, monkeypatch, prefect_api
):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    state = open_state(clinic.root)
    ticket = state.tickets.submit("person-00006-x").ticket
    state.batches.acquire_lease(state.lineage, "elsewhere:1", 3600.0, alive=lambda holder: True)
    later = waiting(prefect_api, monkeypatch)
    try:
        with pytest.raises(LeaseHeldError):
            sweep()
        with pytest.raises(LeaseHeldError):
            erase("b-000000000000")
    finally:
        state.batches.release_lease(state.lineage, "elsewhere:1")
    assert later() == 1  # the ticket is not left to the night
    assert state.tickets.get(ticket.ticket_id).state == "verified"


def test_a_sweep_that_meets_an_outage_asks_for_another(clinic, monkeypatch, prefect_api):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    state = open_state(clinic.root)
    sweep()  # of the test before
    ticket = state.tickets.submit("person-00007-x").ticket
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(ServiceUnavailableError, match="MLflow"):
            sweep()  # whoever called it knows
        later = waiting(prefect_api, patch)
        with pytest.raises(ServiceUnavailableError, match="MLflow"):
            sweep()
        assert later() == 1
    assert state.tickets.get(ticket.ticket_id).state == "failed"
    assert left_to_nobody(state)
    sweep()
    assert state.tickets.get(ticket.ticket_id).state == "closed"
    assert not left_to_nobody(state)


def test_a_worker_asks_for_a_sweep_when_a_batch_is_left_to_nobody(clinic, monkeypatch, prefect_api):
    state = open_state(clinic.root)
    later = waiting(prefect_api, monkeypatch)
    pool = f"p{clinic.root.parent.name}"

    def look(pool=pool):
        look_after(state, prefect_api, pool, "cpu-here", starting=True)
        return later(at=-60)

    assert look() == 0  # nothing is left
    batch = state.batches.open_batch([state.tickets.submit("person-00008-x").ticket.ticket_id])
    monkeypatch.setattr("tasks.watch.SWEEP", "no/such")
    assert look("cpu") == 0  # the flows are not deployed yet: no error
    monkeypatch.undo()
    state.batches.acquire_lease(state.lineage, "elsewhere:1", 3600.0)
    assert look("cpu") == 0  # somebody is at work
    state.batches.release_lease(state.lineage, "elsewhere:1")
    state.batches.fail(batch.batch_id, "a gate said no")
    assert look("cpu") == 0  # a person has to look
    state.batches.fail(batch.batch_id, "MLflow is away", outage=True)
    assert look("gpu") == 0  # one worker asks, not both
    assert look("cpu") == 1
    assert look("cpu") == 1  # it is asked for already


@pytest.mark.parametrize(
    ("error", "outage"), [(RuntimeError("of person-00009-x"), False), (httpx.ConnectError("x"), True)]
)
def test_an_error_that_nobody_foresaw_stops_the_batch_unless_prefect_is_away(
    clinic, monkeypatch, prefect_api, error, outage
):
    """Out of memory on a GPU, say: unasked, it would be tried again every half a minute."""
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    state = open_state(clinic.root)

    def broken(batch_id, mechanism):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("flows.erase.unlearn_somewhere", broken)
        if not state.batches.unfinished():
            state.tickets.submit("person-00009-x")
        with pytest.raises(type(error)):
            sweep()
    (batch,) = state.batches.unfinished()
    assert (batch.stage, batch.data["outage"], left_to_nobody(state)) == ("failed", outage, outage)
    assert "person" not in batch.error
    sweep()
    assert not state.batches.unfinished()


def waiting(url, patch):
    """The sweep's deployment, made if need be, as that of the runs to come; counts its runs that wait."""
    flow = api(url, "/flows/", {"name": "sweep"})["id"]
    deployed = api(url, "/deployments/", {"name": "sweep", "flow_id": flow})["id"]
    patch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", deployed)
    chosen = {"deployment_id": {"any_": [deployed]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    body = {"flow_runs": chosen, "state": {"type": "CANCELLED"}}
    api(url, "/flow_runs/bulk_set_state", body)

    def count(at=100):
        after = {**chosen, "expected_start_time": {"after_": in_seconds(at)}}
        return api(url, "/flow_runs/count", {"flow_runs": after})

    return count


def in_seconds(count: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=count)).isoformat()
