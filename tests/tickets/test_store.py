"""The contract of the ticket store, on SQLite and on PostgreSQL."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from expunge.database import Database, open_database
from expunge.errors import TicketError
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.batches import ORDER, BatchStage, BatchStore
from expunge.tickets.store import Ticket, TicketStore
from tests.tickets.conftest import PSEUDONYMISER

PERSON = "person-471100815"


def close(tickets: TicketStore, batches: BatchStore, *subjects: str) -> str:
    """Take people through a whole batch."""
    filed = [tickets.submit(subject).ticket.ticket_id for subject in subjects]
    batch = batches.open_batch(filed)
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)
    batches.close(batch.batch_id)
    return batch.batch_id


def chain(store: TicketStore, ticket_id: str) -> list[str]:
    """States that a ticket went through; every step must start where the last one ended."""
    history = store.history(ticket_id)
    assert [event["from"] for event in history] == [None, *(event["to"] for event in history[:-1])]
    return [event["to"] for event in history]


def together(work: list[Callable[[], Any]]) -> list[Any]:
    """Run at the same time; what each returned or raised."""
    barrier, results = threading.Barrier(len(work)), [None] * len(work)

    def one(index: int) -> None:
        barrier.wait()
        try:
            results[index] = work[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_new_ticket(tickets: TicketStore) -> None:
    before = datetime.now(UTC)
    done = tickets.submit(PERSON, regime="ccpa")
    ticket = done.ticket
    assert done.created
    assert (ticket.state, ticket.regime, ticket.batch_id) == ("verified", "ccpa", None)
    assert ticket.pseudonym == PSEUDONYMISER.of(PERSON)
    assert ticket.ticket_id.startswith("t-")
    assert len(ticket.ticket_id) == 14
    assert before <= ticket.received_at <= datetime.now(UTC)
    assert ticket.due_at - ticket.received_at == timedelta(days=45)
    assert tickets.get(ticket.ticket_id) == ticket
    assert chain(tickets, ticket.ticket_id) == ["received", "verified"]


def test_the_subject_is_in_nothing_public(tickets: TicketStore) -> None:
    ticket = tickets.submit(PERSON, idempotency_key=f"request of {PERSON}").ticket
    assert PERSON not in json.dumps([ticket.to_json(), tickets.history(ticket.ticket_id)]) + repr(ticket)
    assert tickets.subjects_of([ticket.ticket_id]) == [PERSON]


def test_times_are_utc_whatever_zone_they_came_in(tickets: TicketStore, url: str) -> None:
    received = datetime(2026, 1, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    ticket = tickets.submit(PERSON, received_at=received).ticket
    assert ticket.received_at.isoformat() == "2026-02-01T04:30:00+00:00"
    assert ticket.due_at.isoformat() == "2026-03-01T04:30:00+00:00"
    received_event, verified_event = tickets.history(ticket.ticket_id)
    assert received_event["at"] == ticket.received_at.isoformat()
    assert verified_event["at"] > "2026-02-02"  # when it was filed
    assert TicketStore(open_database(url), PSEUDONYMISER).get(ticket.ticket_id).to_json() == ticket.to_json()


def test_filing_twice_gives_the_open_ticket(tickets: TicketStore) -> None:
    first = tickets.submit(PERSON)
    again = tickets.submit(PERSON, regime="ccpa", idempotency_key="k")
    assert (again.created, again.ticket) == (False, first.ticket)
    assert len(tickets.select()) == 1


def test_an_idempotency_key(tickets: TicketStore) -> None:
    first = tickets.submit(PERSON, idempotency_key="k" * 5000)
    tickets.withdraw(first.ticket.ticket_id, "changed their mind")
    again = tickets.submit(PERSON, idempotency_key="k" * 5000)
    assert not again.created
    assert (again.ticket.ticket_id, again.ticket.state) == (first.ticket.ticket_id, "withdrawn")
    with pytest.raises(TicketError, match="belongs to another request"):
        tickets.submit("person-2-another", idempotency_key="k" * 5000)
    fresh = tickets.submit(PERSON, idempotency_key="another key")
    assert fresh.created
    assert fresh.ticket.ticket_id != first.ticket.ticket_id


def test_an_erased_person_is_told_apart(tickets: TicketStore, batches: BatchStore) -> None:
    close(tickets, batches, PERSON)
    for ask in (tickets.submit, tickets.require_not_erased):
        with pytest.raises(TicketError, match="erased already") as refusal:
            ask(PERSON)
        assert PERSON not in str(refusal.value)
    tickets.require_not_erased("somebody-else")
    assert tickets.submit("somebody-else").created


def test_another_key_makes_other_pseudonyms(tickets: TicketStore, database: Database) -> None:
    other = TicketStore(database, Pseudonymiser(b"\x08" * 32, 2))
    assert other.submit(PERSON).ticket.pseudonym != tickets.submit(PERSON).ticket.pseudonym


@pytest.mark.parametrize("subject", ["", " \t", "a\x00b", "broken-\udcff"])
def test_what_is_no_subject_id_is_refused(tickets: TicketStore, subject: str) -> None:
    for ask in (tickets.submit, tickets.require_not_erased):
        with pytest.raises(TicketError, match="cannot be a subject id"):
            ask(subject)
    assert tickets.select() == []


def test_other_bad_input_is_refused(tickets: TicketStore) -> None:
    with pytest.raises(TicketError, match="gdpr, ccpa, uk-gdpr, lgpd"):
        tickets.submit(PERSON, regime="hipaa")
    with pytest.raises(TicketError, match="no time zone"):
        tickets.submit(PERSON, received_at=datetime(2026, 1, 1))
    with pytest.raises(TicketError, match="no such ticket"):
        tickets.get("t-000000000000")
    with pytest.raises(TicketError, match="no such ticket"):
        tickets.history("t-000000000000")
    assert tickets.select() == []


def test_several_are_filed_all_or_none(tickets: TicketStore, batches: BatchStore) -> None:
    close(tickets, batches, PERSON)
    with pytest.raises(TicketError, match="erased already"):
        tickets.submit_all([("person-a", "gdpr", None), (PERSON, "gdpr", None)])
    assert [ticket.state for ticket in tickets.select()] == ["closed"]
    done = tickets.submit_all(
        [("person-a", "gdpr", "1"), ("person-b", "ccpa", "2"), ("person-a", "gdpr", None)]
    )
    assert [outcome.created for outcome in done] == [True, True, False]


def test_selecting(tickets: TicketStore) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made: list[Ticket] = [
        tickets.submit(f"person-{days}", received_at=start + timedelta(days=days)).ticket
        for days in (9, 0, 5)
    ]
    late, early, middle = (ticket.ticket_id for ticket in made)
    assert [t.ticket_id for t in tickets.select()] == [early, middle, late]
    tickets.hold(middle, "identity in doubt")
    assert [t.ticket_id for t in tickets.select(states=["on_hold"])] == [middle]
    assert [t.ticket_id for t in tickets.due_for_batch()] == [early, late]
    assert [t.ticket_id for t in tickets.select(due_before=made[2].due_at)] == [early, middle]
    tickets.reject(early, "no right to erasure")
    assert [t.ticket_id for t in tickets.select(due_before=made[2].due_at)] == [middle]


def test_a_hold_and_its_release(tickets: TicketStore) -> None:
    ticket_id = tickets.submit(PERSON).ticket.ticket_id
    assert tickets.hold(ticket_id, "legal claim").reason == "legal claim"
    with pytest.raises(TicketError, match="cannot take this step"):
        tickets.hold(ticket_id, "again")
    assert tickets.release(ticket_id).state == "verified"
    with pytest.raises(TicketError, match="not on hold"):
        tickets.release(ticket_id)
    assert chain(tickets, ticket_id) == ["received", "verified", "on_hold", "verified"]
    assert tickets.history(ticket_id)[2]["reason"] == "legal claim"


@pytest.mark.parametrize("end", ["withdraw", "reject"])
@pytest.mark.parametrize("held", [False, True])
def test_an_early_end_erases_the_subject(tickets: TicketStore, end: str, held: bool) -> None:
    ticket_id = tickets.submit(PERSON).ticket.ticket_id
    if held:
        tickets.hold(ticket_id, "to be looked at")
    ended = getattr(tickets, end)(ticket_id, "said so")
    assert ended.state == {"withdraw": "withdrawn", "reject": "rejected"}[end]
    assert ended.closed_at is not None
    assert tickets.subjects_of([ticket_id]) == []
    for step in (tickets.hold, tickets.withdraw, tickets.reject):
        with pytest.raises(TicketError, match="it is final"):
            step(ticket_id, "too late")
    assert tickets.submit(PERSON).created  # not erased from the data: they may ask again


@pytest.mark.parametrize("step", ["hold", "withdraw", "reject"])
def test_a_reason_is_given_and_names_nobody(tickets: TicketStore, step: str) -> None:
    ticket_id = tickets.submit(PERSON).ticket.ticket_id
    with pytest.raises(TicketError, match="a reason is needed"):
        getattr(tickets, step)(ticket_id, "  ")
    with pytest.raises(TicketError, match="names the person") as refusal:
        getattr(tickets, step)(ticket_id, f"lawyer of {PERSON}, by mail")
    assert PERSON not in str(refusal.value)
    assert tickets.get(ticket_id).state == "verified"
    assert getattr(tickets, step)(ticket_id, f"about {PERSON}9, another one").state != "verified"


def test_what_is_in_a_batch_can_no_longer_be_withdrawn(tickets: TicketStore, batches: BatchStore) -> None:
    ticket_id = tickets.submit(PERSON).ticket.ticket_id
    batch = batches.open_batch([ticket_id])
    for stage in (None, *ORDER[1:-1]):
        if stage is not None:
            batches.advance(batch.batch_id, stage)
        for step in (tickets.withdraw, tickets.reject):
            with pytest.raises(TicketError, match="cannot take this step"):
                step(ticket_id, "too late")
    assert tickets.get(ticket_id).state == BatchStage.PURGED


def test_the_same_request_at_the_same_time_is_filed_once(url: str) -> None:
    stores = [TicketStore(open_database(url), PSEUDONYMISER) for _ in range(6)]
    done = together([lambda s=store: s.submit(PERSON, idempotency_key="k") for store in stores])
    assert sorted(outcome.created for outcome in done) == [False] * 5 + [True]
    assert len({outcome.ticket.ticket_id for outcome in done}) == 1


@pytest.mark.parametrize("step", ["hold", "withdraw"])
def test_one_of_a_step_and_a_batch_comes_first(url: str, step: str) -> None:
    store = TicketStore(open_database(url), PSEUDONYMISER)
    for number in range(5):
        ticket_id = store.submit(f"person-{number}").ticket.ticket_id
        other = BatchStore(open_database(url))
        taken, batch = together(
            [
                lambda t=ticket_id: getattr(store, step)(t, "wait"),
                lambda t=ticket_id, o=other: o.open_batch([t]),
            ]
        )
        refused = isinstance(batch, TicketError)
        if step == "hold":  # a batch of one waits
            assert (taken.state, store.get(ticket_id).state) == ("on_hold", "on_hold")
            assert (store.get(ticket_id).batch_id is None) == refused
        else:
            assert isinstance(taken, TicketError) != refused, (taken, batch)
        assert chain(store, ticket_id)[-1] == store.get(ticket_id).state
