"""Thousands of tickets cost as many statements as ten, and each of them finds its rows by an index."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import inspect, text

from benchmarks.tickets import fill, statements
from expunge.append_only import APPEND_ONLY
from expunge.database import Base, Database, open_database
from expunge.tickets.batches import ORDER, BatchStage, BatchStore
from expunge.tickets.deadlines import Deadlines
from expunge.tickets.figures import read_figures
from expunge.tickets.store import TicketStore
from tasks import preview
from tests.tickets.test_store import chain

INDEXES = {
    "ix_tickets_state_due_at",
    "ix_tickets_state_closed_at",
    "ix_tickets_due_at_ticket_id",
    "ix_tickets_batch_id",
    "ix_tickets_pseudonym",
    "ix_batches_stage_created_at",
    "ix_ticket_events_ticket_id",
}


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    with statements() as seen:
        result = call()
    return len(seen), result


def costs(database: Database, tickets: TicketStore, batches: BatchStore, monkeypatch) -> dict[str, int]:
    """Statements of everything that is done with many tickets, all that are due in one batch."""
    looked_for: list[list[str]] = []
    monkeypatch.setattr(
        preview, "find_subjects", lambda _, ids, __: looked_for.append(ids) or dict.fromkeys(ids, 2)
    )
    state = SimpleNamespace(tickets=tickets, workspace=SimpleNamespace(dataset_dir=Path()), placement=None)
    late = datetime.now(UTC) + timedelta(days=40)
    found: dict[str, int] = {}

    def note(name: str, call: Callable[[], Any]) -> Any:
        found[name], result = counted(call)
        return result

    due = [ticket.ticket_id for ticket in note("due_for_batch", tickets.due_for_batch)]
    assert len(note("select", tickets.select)) >= 10 * len(due)
    assert len(note("select due", lambda: tickets.select(due_before=late))) >= len(due)
    assert len(note("alarms", lambda: Deadlines(database).alarms(late))) >= len(due)
    assert note("records_of", lambda: preview.records_of(state, due)) == 2 * len(due)
    assert len(looked_for[0]) == len(due)
    assert note("figures", lambda: read_figures(database)).tickets["verified"] == len(due)
    batch = note("open_batch", lambda: batches.open_batch(due))
    assert set(batch.tickets) == set(due)
    for stage in ORDER[1:-1]:
        note(f"advance to {stage}", lambda stage=stage: batches.advance(batch.batch_id, stage))
        if stage is BatchStage.UNLEARNED:
            note("fail", lambda: batches.fail(batch.batch_id, "a gate said no"))
            assert note("resume", lambda: batches.resume(batch.batch_id)).stage is stage
            assert note("step_back", lambda: batches.step_back(batch.batch_id)).stage == "removed"
            batches.advance(batch.batch_id, stage)
    assert batch.batch_id in [b.batch_id for b in note("unfinished", batches.unfinished)]
    assert len(note("subject_ids", lambda: tickets.subject_ids(batch.batch_id))) == len(due)
    note("close", lambda: batches.close(batch.batch_id))
    closed = [str(stage) for stage in ORDER[3:]]
    retried = ["unlearned", "failed", "unlearned", "removed", "unlearned"]
    assert chain(tickets, due[-1]) == ["received", "verified", "scheduled", "removed", *retried, *closed]
    more = [(f"more-{number}", "gdpr", f"key-{number}") for number in range(len(due))]
    assert len(note("submit_all", lambda: tickets.submit_all(more))) == len(due)
    return found


def test_statements_do_not_grow(
    database: Database, tickets: TicketStore, batches: BatchStore, monkeypatch
) -> None:
    fill(database, 100, 5)
    few = costs(database, tickets, batches, monkeypatch)
    with database.transaction() as session:
        for table in reversed(Base.metadata.sorted_tables):
            if APPEND_ONLY not in table.info:  # which are empty here
                session.execute(table.delete())
    database.dispose()  # PostgreSQL checks foreign keys as planned for few rows for as long as a connection lasts
    fill(database, 10_000, 500)
    assert costs(database, tickets, batches, monkeypatch) == few


def plans(database: Database, call: Callable[[], Any]) -> list[str]:
    """How the database goes about every statement that reads or changes rows by a condition."""
    with statements() as seen:
        call()
    with database.transaction() as session:
        connection = session.connection()
        sqlite = connection.dialect.name == "sqlite"
        return [
            " | ".join(
                str(row[-1])
                for row in connection.exec_driver_sql(
                    f"EXPLAIN {'QUERY PLAN' if sqlite else ''} {statement}",
                    parameters[0] if isinstance(parameters, list) else parameters,
                )
            )
            for statement, parameters in seen
            if "FROM ticket" in statement
            or "FROM batches" in statement
            or statement.startswith("UPDATE tickets")
        ]


def test_every_statement_uses_its_index(
    database: Database, tickets: TicketStore, batches: BatchStore
) -> None:
    fill(database, 10_000, 2_000)  # PostgreSQL reads a few hundred batches whole: they are on ten pages
    now = datetime.now(UTC)
    some = tickets.select()[5_000]
    one = tickets.submit("person-new", idempotency_key="k").ticket.ticket_id
    batch = batches.unfinished()[1].batch_id
    assert batches.get(batch).stage is BatchStage.PLANNED
    page = {"after": (some.due_at, some.ticket_id), "limit": 101}
    calls: list[tuple[Callable[[], Any], str]] = [
        (tickets.due_for_batch, "ix_tickets_state_due_at"),
        (lambda: tickets.select(due_before=now + timedelta(days=2)), "ix_tickets_state_due_at"),
        (lambda: Deadlines(database).alarms(now - timedelta(days=5)), "ix_tickets_state_due_at"),
        (lambda: tickets.select(limit=101), "ix_tickets_due_at_ticket_id"),
        (lambda: tickets.select(**page), "ix_tickets_due_at_ticket_id"),
        (batches.unfinished, "ix_batches_stage_created_at"),
        (lambda: tickets.subject_ids(batch), "ix_tickets_batch_id"),
        (lambda: batches.advance(batch, BatchStage.REMOVED), "ix_tickets_batch_id"),
        (lambda: batches.fail(batch, "a gate said no"), "ix_tickets_batch_id"),
        (lambda: batches.resume(batch), "ix_tickets_batch_id"),
        (lambda: batches.open_batch([one]), "ix_tickets_batch_id"),
        (lambda: tickets.submit("person-newer", idempotency_key="l"), "ix_tickets_pseudonym"),
        (lambda: tickets.history(one), "ix_ticket_events_ticket_id"),
    ]
    for call, index in calls:
        found = plans(database, call)
        assert any(index in plan for plan in found), found
        for plan in found:
            assert not re.search(r"Seq Scan on (tickets|batches|ticket_events)|SCAN \w+($| \|)", plan), plan


def test_an_older_database_gets_its_indexes(url: str) -> None:
    database = open_database(url)
    with database.transaction() as session:
        for index in INDEXES:
            session.execute(text(f"DROP INDEX {index}"))
    database.dispose()
    found = open_database(url)
    with found.transaction() as session:
        every = inspect(session.connection()).get_multi_indexes().values()
        assert {entry["name"] for entries in every for entry in entries} >= INDEXES
    found.dispose()


@pytest.mark.parametrize("size", [1, 7, 60])
def test_pages_hold_every_ticket_once(tickets: TicketStore, size: int) -> None:
    now = datetime.now(UTC)
    moments = [now - timedelta(days=days) for days in (3, 1, 1, 1, 1, 2)]
    there = [
        tickets.submit(f"person-{number}", received_at=moments[number % 6]).ticket.ticket_id
        for number in range(30)
    ]
    ages = [
        0.5,
        1,
        4,
    ] * 3  # of others that are filed meanwhile: their places are before, beside and after the page
    seen: list[tuple[datetime, str]] = []
    while page := tickets.select(after=seen[-1] if seen else None, limit=size):
        assert len(page) <= size
        seen += [(ticket.due_at, ticket.ticket_id) for ticket in page]
        if ages:
            tickets.submit(f"new-{len(ages)}", received_at=now - timedelta(days=ages.pop()))
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert {ticket_id for _, ticket_id in seen} >= set(there)
