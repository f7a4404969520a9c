"""What is at work, near its deadline, or was done: on both databases, and by index."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from expunge.database import Database
from expunge.tickets import activity
from expunge.tickets.activity import count_near_deadline, live_leases, open_batches, read_durations
from expunge.tickets.batches import ORDER, BatchStore
from expunge.tickets.deadlines import Deadlines
from expunge.tickets.store import TicketStore

NOW = datetime.now(UTC)


def close(tickets: TicketStore, batches: BatchStore, people: list[str], age_days: float, **data) -> str:
    """A closed batch of tickets that came so long ago."""
    came = NOW - timedelta(days=age_days)
    ids = [tickets.submit(p, regime="ccpa", received_at=came).ticket.ticket_id for p in people]
    batch_id = batches.open_batch(ids).batch_id
    for stage in ORDER[1:-1]:
        batches.advance(batch_id, stage)
    batches.record(batch_id, **data)
    batches.close(batch_id)
    return batch_id


def test_durations_are_those_of_the_last_closed_ones(tickets, batches, database, monkeypatch):
    assert read_durations(database) == activity.Durations({}, [], [])
    close(tickets, batches, ["a", "b"], 9, seconds={"removal": 1.0, "unlearning": 2.5})
    close(tickets, batches, ["c"], 90, seconds={"removal": 3.0})
    close(tickets, batches, ["d"], 18)  # of an earlier version: it has no times
    tickets.withdraw(tickets.submit("e").ticket.ticket_id, "changed their mind")  # closed_at, but not closed
    tickets.submit("f")
    found = read_durations(database)
    assert found.stages == {"removal": [3.0, 1.0], "unlearning": [2.5]}
    assert [round(share, 2) for share in found.shares] == [0.4, 2.0, 0.2, 0.2]
    assert [round(seconds / 86400) for seconds in found.tickets] == [18, 90, 9, 9]
    monkeypatch.setattr(activity, "LAST_BATCHES", 2)
    monkeypatch.setattr(activity, "LAST_TICKETS", 1)
    assert read_durations(database).stages == {"removal": [3.0]}
    assert len(read_durations(database).tickets) == 1


def test_a_ticket_counts_at_the_highest_level_it_reached(tickets, batches, database):
    for person, left in [("a", 8), ("b", 7), ("c", 3), ("d", 1), ("e", 0), ("f", -4)]:
        tickets.submit(person, regime="ccpa", received_at=NOW - timedelta(days=45 - left))
    held = tickets.submit("g", regime="ccpa", received_at=NOW - timedelta(days=50)).ticket
    tickets.hold(held.ticket_id, "legal claim")
    close(tickets, batches, ["h"], 60)
    assert count_near_deadline(database, NOW) == {"7d": 2, "2d": 1, "overdue": 2}
    levels = [alarm.level for alarm in Deadlines(database).alarms(NOW)]
    assert count_near_deadline(database, NOW) == {
        level: levels.count(level) for level in ("7d", "2d", "overdue")
    }


def test_open_batches_in_the_order_of_work(tickets, batches, database):
    close(tickets, batches, ["a"], 1)
    made = [
        batches.open_batch([tickets.submit(p).ticket.ticket_id for p in people]).batch_id
        for people in (["b", "c"], ["d"])
    ]
    batches.advance(made[0], ORDER[1])
    batches.fail(made[1], "no")
    assert open_batches(database) == [
        activity.OpenBatch(made[0], "removed", 2),
        activity.OpenBatch(made[1], "failed", 1),
    ]


def test_leases_that_live(batches, database):
    batches.acquire_lease("lineage", "host:1", 60)
    batches.acquire_lease("unlearn:b-1", "host:2", -1)
    batches.acquire_lease("another", "host:3", 60)
    held = live_leases(database, ["lineage", "unlearn:b-1"])
    assert set(held) == {"lineage"}
    holder, ends = held["lineage"]
    assert holder == "host:1"
    assert timedelta(0) < ends - datetime.now(UTC) <= timedelta(seconds=60)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "read", [read_durations, count_near_deadline, open_batches, lambda db: live_leases(db, ["lineage"])]
)
def test_an_index_leads_past_what_is_closed(database: Database, read):
    """No query reads a whole table, however many closed tickets and batches it holds."""
    said: list[tuple[str, tuple]] = []
    event.listen(
        database._engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, values, *_: said.append((statement, values)),
    )
    read(database)
    queries = [(statement, values) for statement, values in said if statement.startswith("SELECT")]
    assert queries
    with database._engine.connect() as connection:
        for statement, values in queries:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            steps = [row[3] for row in plan]
            assert not [step for step in steps if step.startswith("SCAN")]
            limited = "LIMIT" in statement  # sorting them all would cost more the more there are
            assert not (limited and any("TEMP B-TREE" in step for step in steps))
        blind = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT reason FROM tickets").all()
        assert blind[0][3].startswith("SCAN")
