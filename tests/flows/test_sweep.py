"""The scheduled flows, on a real Prefect server: they finish what is due and notice what does not hold."""

import json

import pytest

from expunge.errors import ExpungeError, VerificationError
from expunge.state import open_state
from flows.erase import erase
from flows.sweep import sweep
from flows.verify import verify


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
