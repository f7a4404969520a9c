"""The journal of purges, and what a purge waits for, in both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from expunge.database import vacuum
from expunge.errors import ServiceUnavailableError, TicketError
from expunge.settings import Policy
from expunge.tickets.batches import BatchStage
from expunge.tickets.purge_journal import FREE_PAGES, Item, PurgeJournal
from expunge.tickets.purge_waits import approve, begin_quarantine, quarantined_until, reason_to_wait

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
    # what is done and not there any more stays done, and a size once known is kept
    journal.write(batch.batch_id, [replace(WEIGHTS, bytes=None), late])
    assert states(journal, batch) == [
        (1, DATA, "done"),
        (2, SHARED, "kept"),
        (3, WEIGHTS, "pending"),
        (4, late, "pending"),
    ]
    assert journal.entries(batch.batch_id)[0].done_at is not None
    assert journal.kept() == [SHARED]


@pytest.mark.parametrize("weights", ["done", "pending"])
def test_what_came_back_is_opened_again(journal, batch, weights):
    journal.write(batch.batch_id, [DATA, WEIGHTS])
    journal.done(batch.batch_id, 1)
    if weights == "done":  # else they are in quarantine
        journal.done(batch.batch_id, 2)
    journal.write(batch.batch_id, [DATA])
    assert [state for *_, state in states(journal, batch)] == ["pending", weights]


def test_free_pages_are_opened_again_only_once_all_is_done(journal, batch):
    pages = Item(FREE_PAGES, "prefect.db", "workspace", None, "linger")
    journal.write(batch.batch_id, [pages, WEIGHTS])
    for number, expected in ((1, "done"), (2, "pending")):
        journal.done(batch.batch_id, number)
        journal.write(batch.batch_id, [pages])
        assert states(journal, batch)[0][-1] == expected


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


def test_a_later_batch_waits_for_the_approval_and_the_quarantine_of_an_earlier_one(
    database, tickets, batches
):
    required = Policy.model_validate({"purge": {"approval": "required"}})
    ids = []
    for version in (3, 2):  # the one that was opened first was overtaken
        ticket = tickets.submit(f"person-{version}", regime="gdpr").ticket
        ids.insert(0, batches.open_batch([ticket.ticket_id]).batch_id)
        for stage in list(BatchStage)[1:6]:
            batches.advance(ids[0], stage, **{"model_version": version} if stage == "registered" else {})
    earlier, later = ids
    approve(batches, later)

    def waits(batch_id):  # as State.waiting asks
        return reason_to_wait(batches.get(batch_id), required, NOW, batches.unfinished())

    assert f"of the earlier batch {earlier}: `expunge purge approve {earlier}`" in waits(later)
    approve(batches, earlier)
    assert waits(later) is None
    assert waits(earlier) is None
    due = min(tickets.get(name).due_at for batch in ids for name in batches.get(batch).tickets)
    begun = due.replace(microsecond=0) - timedelta(days=20)
    first = begin_quarantine(batches, database, batches.get(earlier), 15, begun)
    assert begin_quarantine(batches, database, batches.get(later), 0, begun) == first
    with_none = batches.open_batch([tickets.submit("person-4", regime="gdpr").ticket.ticket_id])
    assert begin_quarantine(batches, database, with_none, 0, begun) == begun
    assert quarantined_until(batches.get(with_none.batch_id)) is None


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
