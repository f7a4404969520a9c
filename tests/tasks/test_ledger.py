"""The ledger of a workspace: its witness elsewhere, and moves of the alias."""

import json
import logging
from pathlib import Path

import pytest

from expunge.errors import InputError, RefusedError, VerificationError
from expunge.evidence.ledger_file import read_head
from expunge.evidence.witness import read_witness
from expunge.state import State, open_state
from expunge.tickets.batches import ORDER, BatchStage
from tasks.ledger import alias_fault, append, record_move, require_recorded
from tasks.verification import check_ledger, verify_own_ledger
from tests import workspaces


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspaces.make(tmp_path_factory.mktemp("ledger"))


def witnessed(root: Path, path: Path) -> State:
    (root / "policy.yaml").write_text(f"evidence: {{witness: {path}}}\n")
    return open_state(root)


def test_each_entry_renews_the_witness_and_none_is_lost_for_it(tmp_path, monkeypatch, caplog):
    root, place = workspaces.make(tmp_path), tmp_path / "elsewhere"
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    state = witnessed(root, place / "w.json")
    with caplog.at_level(logging.WARNING):
        append(state, kind="opening")
    assert "the witness of the ledger was not written" in caplog.text
    assert len(state.ledger.entries(state.lineage)) == 1
    place.mkdir()
    record_move(state, None, 1)
    assert read_head(read_witness(place / "w.json")).entries == 2
    append(state, kind="purge", batch="b-1")
    assert read_head(read_witness(place / "w.json")).entries == 3
    assert check_ledger.fn() == 3

    other = witnessed(workspaces.make(tmp_path / "other"), place / "x.json")
    append(other, kind="opening")
    foreign = (place / "x.json").read_text()
    (place / "w.json").write_text(foreign)  # the ledger was replaced by another, or the witness was
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        append(state, kind="purge", batch="b-2")
    assert "no signature by a trusted key" in caplog.text
    assert (place / "w.json").read_text() == foreign
    assert len(state.ledger.entries(state.lineage)) == 4
    with pytest.raises(VerificationError, match="witness 1"):
        check_ledger.fn()
    assert not verify_own_ledger(state, state.ledger.read(state.lineage)).consistent
    (place / "w.json").write_text(json.dumps(None))
    with pytest.raises(InputError, match="witness cannot be read"):
        check_ledger.fn()


def test_the_alias_is_where_the_ledger_says_or_on_its_way(made):
    state = open_state(made)
    append(state, kind="opening")

    def fault(version: int | None) -> str | None:
        return alias_fault(state, state.ledger.read(state.lineage), version)

    assert fault(7) is None  # of a release that recorded no moves
    record_move(state, None, 1)
    assert (fault(1), fault(None)) == (None, None)  # made, or interrupted
    told = "alias champion is at version 7, and the ledger's entry 1 moved it to 1"
    assert fault(7) == told
    require_recorded(state, 1)
    with pytest.raises(RefusedError, match=told):
        require_recorded(state, 7)

    tickets = [state.tickets.submit(person).ticket.ticket_id for person in (workspaces.ANN, workspaces.BOB)]
    batch = state.batches.open_batch(tickets)
    for stage in ORDER[1 : ORDER.index(BatchStage.REGISTERED)]:
        state.batches.advance(batch.batch_id, stage)
    state.batches.record(batch.batch_id, certificate_id="c-1")
    about = {"batch": batch.batch_id, "certificate_id": "c-1"}
    for _ in range(2):  # again, after a crash
        record_move(state, 1, 2, **about)
    assert len(state.ledger.entries(state.lineage)) == 3
    assert (fault(2), fault(1)) == (None, None)
    assert fault(3)
    state.batches.advance(batch.batch_id, BatchStage.REGISTERED, model_version=2)
    assert fault(2) is None
    assert fault(1)  # nobody is on the way any more
    with pytest.raises(VerificationError, match="another version serves"):
        record_move(state, 1, 3, batch="b-9")
    assert len(state.ledger.entries(state.lineage)) == 3
