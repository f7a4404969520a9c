"""The journal of purges, and what a purge waits for, in both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from expunge.database import vacuum
from expunge.errors import ServiceUnavailableError, TicketError
from expunge.settings import Policy
from expunge.tickets.batches import BatchStage
from expunge.tickets.purge_journal import Item, PurgeJournal
from expunge.tickets.purge_waits import approve, begin_quarantine, reason_to_wait

DATA = Item("data object", "0" * 32, "cache", 10, "old")
WEIGHTS = Item("weights", "version 1", "MLflow", 20, "superseded")
SHARED = Item("shared object", "1" * 32, "remote storage", 30, "needed", kept=True)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def batch(tickets, batches):
    ticket = tickets.submit("person-1", regime="gdpr").ticket
    return batches.open_batch([ticket.ticket_id])


@pytest.fixture
def journal(database):
    return PurgeJournal(database)


def states(journal, batch):
    return [(entry.number, entry.item, entry.state) for entry in journal.entries(batch.batch_id)]


def test_a_plan_is_written_once_and_completed(journal, batch):
    journal.write(batch.batch_id, [DATA, SHARED, WEIGHTS])
    journal.done(batch.batch_id, 1)
    late = replace(DATA, where="remote storage")
    # what is done stays done while the purge goes on, and a size once known is kept
    journal.write(batch.batch_id, [DATA, replace(WEIGHTS, bytes=None), late])
    assert states(journal, batch) == [
        (1, DATA, "done"),
        (2, SHARED, "kept"),
        (3, WEIGHTS, "pending"),
        (4, late, "pending"),
    ]
    assert journal.entries(batch.batch_id)[0].done_at is not None
    assert journal.kept() == [SHARED]


def test_what_came_back_after_all_was_done_is_opened_again(journal, batch):
    journal.write(batch.batch_id, [DATA, WEIGHTS])
    for number in (1, 2):
        journal.done(batch.batch_id, number)
    journal.write(batch.batch_id, [DATA])
    assert [state for *_, state in states(journal, batch)] == ["pending", "done"]


def test_what_somebody_needs_by_now_is_kept(journal, batch):
    journal.write(batch.batch_id, [DATA])
    journal.write(batch.batch_id, [replace(DATA, kept=True)])
    assert [state for *_, state in states(journal, batch)] == ["kept"]
    journal.write(batch.batch_id, [DATA])
    assert [state for *_, state in states(journal, batch)] == ["pending"]


def test_a_registered_batch_waits_for_approval(batches, batch):
    required = Policy.model_validate({"purge": {"approval": "required"}})
    assert reason_to_wait(batch, required, NOW) is None  # its people are removed all the same
    with pytest.raises(TicketError, match="no purge to approve"):
        approve(batches, batch.batch_id)
    for stage in list(BatchStage)[1:6]:
        batch = batches.advance(batch.batch_id, stage)
    assert "purge approve" in reason_to_wait(batch, required, NOW)
    assert "purge approve" in reason_to_wait(batches.fail(batch.batch_id, "no"), required, NOW)
    assert reason_to_wait(batch, Policy(), NOW) is None
    at = approve(batches, batch.batch_id)
    assert approve(batches, batch.batch_id) == at
    assert reason_to_wait(batches.get(batch.batch_id), required, NOW) is None


def test_a_quarantine_ends_at_the_first_deadline_and_stops_weights_alone(database, tickets, batches, batch):
    due = tickets.get(batch.tickets[0]).due_at
    begun = due - timedelta(days=9)
    for stage in list(BatchStage)[1:6]:
        batch = batches.advance(batch.batch_id, stage)
    until = begin_quarantine(batches, database, batch, 90, begun)
    assert until == due
    batch = batches.get(batch.batch_id)
    assert begin_quarantine(batches, database, batch, 1, begun) == due.replace(microsecond=0)
    assert reason_to_wait(batch, Policy(), begun) is None  # the data goes at once
    batch = batches.record(batch.batch_id, only_weights_left=True)
    assert "quarantine" in reason_to_wait(batch, Policy(), begun)
    assert reason_to_wait(batch, Policy(), due) is None


def test_deleted_values_leave_another_programs_file(tmp_path, monkeypatch):
    import sqlite3

    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE t (x TEXT)")
        other.execute("INSERT INTO t VALUES ('person-000003 was here')")
        other.execute("INSERT INTO t VALUES ('stays')")
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM t WHERE x LIKE 'person%'")
    vacuum(path)  # while the other program is connected
    everything = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"person-000003" not in everything
    assert b"stays" in everything
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("expunge.database._WAIT_S", 0)
    with pytest.raises(ServiceUnavailableError, match=r"other\.db"):
        vacuum(path)
    other.close()
