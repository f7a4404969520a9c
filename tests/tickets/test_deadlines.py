"""Deadlines on SQLite and on PostgreSQL: one extension, a clock that stands still on hold, alarms told once."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from cli.stack import _queue
from expunge.errors import TicketError
from expunge.settings import BatchPolicy
from expunge.tickets.deadlines import Deadlines, alarm_level
from expunge.tickets.figures import read_figures
from expunge.tickets.lifecycle import due_at
from tasks.intake import waiting_for

PERSON = "person-471100815"


@pytest.fixture
def deadlines(database):
    return Deadlines(database)


def filed(tickets, days_ago=0.0, subject=PERSON, regime="gdpr"):
    received = datetime.now(UTC) - timedelta(days=days_ago)
    return tickets.submit(subject, regime=regime, received_at=received).ticket


@pytest.mark.parametrize(
    ("received", "regime", "due"),
    [
        ((2026, 1, 31), "gdpr", (2026, 4, 30)),
        ((2026, 11, 15), "gdpr", (2027, 2, 15)),
        ((2027, 11, 30), "gdpr", (2028, 2, 29)),
        ((2026, 1, 1), "ccpa", (2026, 4, 1)),
    ],
)
def test_the_extended_period(received, regime, due):
    assert due_at(datetime(*received, tzinfo=UTC), regime, extended=True) == datetime(*due, tzinfo=UTC)


@pytest.mark.parametrize("regime", ["gdpr", "ccpa"])
def test_a_deadline_is_extended_once(tickets, deadlines, regime):
    ticket = filed(tickets, regime=regime)
    new = deadlines.extend(ticket.ticket_id, "many requests at once")
    assert new == due_at(ticket.received_at, regime, extended=True)
    assert tickets.get(ticket.ticket_id).due_at == new
    last = tickets.history(ticket.ticket_id)[-1]
    assert last["reason"] == "extended: many requests at once"
    assert last["from"] == last["to"] == "verified"
    with pytest.raises(TicketError, match="extended already"):
        deadlines.extend(ticket.ticket_id, "again")
    assert tickets.get(ticket.ticket_id).due_at == new


def test_what_cannot_be_extended(tickets, deadlines):
    late = filed(tickets, days_ago=40)
    with pytest.raises(TicketError, match="overdue"):
        deadlines.extend(late.ticket_id, "too late")
    gone = filed(tickets, subject="another")
    tickets.withdraw(gone.ticket_id, "no longer wanted")
    with pytest.raises(TicketError, match="withdrawn"):
        deadlines.extend(gone.ticket_id, "why not")
    with pytest.raises(TicketError, match="no such ticket"):
        deadlines.extend("t-000000000000", "nobody")
    open_one = filed(tickets, subject="a third")
    with pytest.raises(TicketError, match="reason"):
        deadlines.extend(open_one.ticket_id, " ")


def hold_since(database, tickets, ticket, days):
    """Put it on hold, and make believe that this was some days ago."""
    tickets.hold(ticket.ticket_id, "a legal claim")
    with database.transaction() as session:
        session.execute(
            text("UPDATE ticket_events SET at = :at WHERE target = 'on_hold' AND ticket_id = :id"),
            {
                "at": datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days),
                "id": ticket.ticket_id,
            },
        )


def test_the_clock_stands_still_on_hold(tickets, deadlines, database):
    ticket = filed(tickets)
    hold_since(database, tickets, ticket, 10)
    assert tickets.get(ticket.ticket_id).due_at == ticket.due_at
    moved = tickets.release(ticket.ticket_id).due_at - ticket.due_at
    assert timedelta(days=10) <= moved < timedelta(days=10, minutes=5)
    extended = deadlines.extend(ticket.ticket_id, "complex") - due_at(
        ticket.received_at, "gdpr", extended=True
    )
    assert extended == moved  # neither is lost by the other


def test_what_was_in_time_when_it_was_held_may_be_extended(tickets, deadlines, database):
    in_time, late = (filed(tickets, days_ago=40, subject=name) for name in ("in time", "late"))
    hold_since(database, tickets, in_time, 20)
    hold_since(database, tickets, late, 1)
    new = deadlines.extend(in_time.ticket_id, "complex")
    assert new == due_at(in_time.received_at, "gdpr", extended=True)
    with pytest.raises(TicketError, match="overdue"):
        deadlines.extend(late.ticket_id, "complex")


def test_figures_count_running_clocks_only(tickets, database):
    late = [filed(tickets, days_ago=40 + n, subject=f"late {n}") for n in range(3)]
    tickets.hold(late[2].ticket_id, "a legal claim")
    gone = filed(tickets, days_ago=90, subject="gone")
    tickets.withdraw(gone.ticket_id, "no longer wanted")
    figures = read_figures(database)
    assert (figures.overdue, figures.next_due) == (2, late[1].due_at)
    assert timedelta(seconds=figures.oldest_open_s) > timedelta(days=42) - timedelta(seconds=1)
    assert _queue(SimpleNamespace(database=database)) == {
        "open_tickets": {"on_hold": 1, "verified": 2},
        "overdue": 2,
        "next_due": late[1].due_at.isoformat(),
    }
    for ticket in late:
        tickets.reject(ticket.ticket_id, "no right to erasure")
    assert _queue(SimpleNamespace(database=database)) == {
        "open_tickets": {}, "overdue": 0, "next_due": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("left", "level"),
    [(8.0, None), (7.0, "7d"), (2.1, "7d"), (2.0, "2d"), (0.1, "2d"), (0.0, "overdue"), (-3.0, "overdue")],
)
def test_levels(left, level):
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert alarm_level(now + timedelta(days=left), now) == level


def test_every_level_is_told_once(tickets, deadlines):
    ticket = filed(tickets)

    def raised(days_left):
        found = deadlines.alarms(ticket.due_at - timedelta(days=days_left))
        for alarm in found:
            deadlines.told(alarm)
        return [alarm.level for alarm in found]

    assert [raised(days) for days in (9, 6, 5, 1.5, 1, -1, -2)] == [
        [], ["7d"], [], ["2d"], [], ["overdue"], [],
    ]  # fmt: skip
    # untold, it comes again; a level that was skipped does not
    other = filed(tickets, subject="another")
    late = other.due_at + timedelta(days=1)
    mine = [[a.level for a in deadlines.alarms(late) if a.ticket_id == other.ticket_id] for _ in range(2)]
    assert mine == [["overdue"], ["overdue"]]
    assert PERSON not in str([a.to_json() for a in deadlines.alarms(late)])


def test_an_extension_silences_and_arms_again(tickets, deadlines):
    ticket = filed(tickets)
    (alarm,) = deadlines.alarms(ticket.due_at - timedelta(days=1))
    deadlines.told(alarm)
    new = deadlines.extend(ticket.ticket_id, "complex")
    assert deadlines.alarms(ticket.due_at) == []
    assert [a.level for a in deadlines.alarms(new - timedelta(days=1))] == ["2d"]
    deadlines.told(deadlines.alarms(new - timedelta(days=1))[0])
    with pytest.raises(TicketError, match="extended already"):  # an alarm does not forget the extension
        deadlines.extend(ticket.ticket_id, "again")


def test_held_and_closed_tickets_are_silent(tickets, deadlines):
    held, gone = filed(tickets), filed(tickets, subject="another")
    tickets.hold(held.ticket_id, "a legal claim")
    tickets.withdraw(gone.ticket_id, "no longer wanted")
    assert deadlines.alarms(held.due_at + timedelta(days=1)) == []


def test_when_a_batch_starts(tickets):
    policy = BatchPolicy(minimum_size=3, maximum_wait_days=5, deadline_margin_days=7)
    assert waiting_for([], policy, datetime.now(UTC)) == "nothing is due"
    two = [filed(tickets), filed(tickets, subject="another")]
    now = datetime.now(UTC)
    assert "2 of at least 3" in waiting_for(two, policy, now)
    assert waiting_for([*two, filed(tickets, subject="a third")], policy, now) is None
    assert waiting_for(two, policy, now + timedelta(days=5)) is None
    patient = policy.model_copy(update={"maximum_wait_days": 90})
    assert waiting_for(two, patient, two[0].due_at - timedelta(days=8)) is not None
    assert waiting_for(two, patient, two[0].due_at - timedelta(days=7)) is None
    assert "2 of at least 3 people" in waiting_for(two, patient, two[0].due_at, fewest=3)
    assert waiting_for(two, patient, two[0].due_at, fewest=2) is None
