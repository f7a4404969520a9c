"""The suppression list, on both databases, across key epochs."""

import pytest
from sqlalchemy import select

from expunge.database import Database
from expunge.errors import TicketError
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.batches import ORDER, BatchStore
from expunge.tickets.requests import RequestStore
from expunge.tickets.store import TicketStore
from expunge.tickets.suppression import SuppressedRow, Suppression, spelled_otherwise

FIRST = Pseudonymiser(b"\x07" * 32, 1)
SECOND = Pseudonymiser(b"\x08" * 32, 2, (FIRST,))
ONLY_SECOND = Pseudonymiser(b"\x08" * 32, 2)


def on_the_list(database: Database) -> set[str]:
    with database.transaction() as session:
        query = select(SuppressedRow.pseudonym).where(SuppressedRow.pseudonym.like("p%"))
        return set(session.scalars(query))


def test_the_removed_are_recognised_and_nobody_else(database: Database) -> None:
    suppressed = Suppression(database, FIRST)
    suppressed.add(["ann", "bob"], "b-1")
    suppressed.add(["bob", "ann", "cid"], "b-2")  # a run that was killed calls again
    assert suppressed.among(["bob", "dan", "cid", "bob"]) == {"bob": FIRST.of("bob"), "cid": FIRST.of("cid")}
    assert on_the_list(database) == {FIRST.of(person) for person in ("ann", "bob", "cid")}


def test_every_living_epoch_recognises_and_no_other(database: Database) -> None:
    Suppression(database, FIRST).add(["ann"], "b-1")
    both = Suppression(database, SECOND)
    both.add(["ann", "bob"], "b-2")
    assert both.among(["ann", "bob"]) == {"ann": FIRST.of("ann"), "bob": SECOND.of("bob")}
    assert on_the_list(database) == {FIRST.of("ann"), SECOND.of("bob")}
    assert Suppression(database, ONLY_SECOND).among(["ann", "bob"]) == {"bob": SECOND.of("bob")}


def test_whoever_was_removed_is_recognised_in_another_spelling(database: Database) -> None:
    Suppression(database, FIRST).add(["Ann", "0082221577", "0042", "bob"], "b-1", others={"42"})
    suppressed = Suppression(database, SECOND)
    suppressed.add(["bob", "BOB"], "b-2")  # a second spelling has no second code
    spellings = [" Ann", "Ann\u00a0", "ANN", "\uff21nn"]
    numbers = ["82221577", "82221577.0", "082221577"]
    found = suppressed.among([*spellings, *numbers, "42", "82221577.5", "Anna", "Bob", "0042"])
    assert found == {
        **dict.fromkeys(spellings, FIRST.of_spelling("ann")),
        **dict.fromkeys(numbers, FIRST.of_spelling("82221577")),
        "Bob": FIRST.of_spelling("bob"),
        "0042": FIRST.of("0042"),  # 42 is another person
    }
    assert spelled_otherwise(found.values()) == 8
    assert suppressed.among(["Ann", "BOB"]) == {"Ann": FIRST.of("Ann"), "BOB": SECOND.of("BOB")}
    assert Suppression(database, ONLY_SECOND).among(spellings) == {}


def test_many_are_looked_up_in_parts(database: Database) -> None:
    suppressed = Suppression(database, SECOND)
    suppressed.add([f"person-{number}" for number in range(0, 12_000, 2)], "b-1")
    found = suppressed.among(f"person-{number}" for number in range(12_000))
    assert set(found) == {f"person-{number}" for number in range(0, 12_000, 2)}


def close(tickets: TicketStore, batches: BatchStore, person: str) -> None:
    ticket = tickets.submit(person).ticket
    batch = batches.open_batch([ticket.ticket_id])
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)
    batches.close(batch.batch_id)


def test_tickets_are_found_under_every_living_epoch(database: Database, batches: BatchStore) -> None:
    before, after = TicketStore(database, FIRST), TicketStore(database, SECOND)
    opened = before.submit("ann", idempotency_key="key-1").ticket
    close(before, batches, "bob")
    assert after.open_for("ann") == opened
    assert after.submit("ann").ticket == opened
    assert after.submit("ann", idempotency_key="key-1").ticket == opened
    with pytest.raises(TicketError, match="belongs to another request"):
        after.submit("dan", idempotency_key="key-1")
    for ask in (after.submit, after.require_not_erased):
        with pytest.raises(TicketError, match="erased already"):
            ask("bob")
    assert after.submit("cid").ticket.pseudonym == SECOND.of("cid")
    forgotten = TicketStore(database, ONLY_SECOND)
    assert forgotten.open_for("ann") is None
    assert forgotten.submit("bob").created  # nobody can tell any more that they are erased


def test_requests_are_found_under_every_living_epoch(database: Database) -> None:
    before, after = RequestStore(database, FIRST), RequestStore(database, SECOND)
    asked = before.request("key-1", "ann", "gdpr")
    before.reserve(asked)
    ticket = TicketStore(database, FIRST).submit("ann").ticket.ticket_id
    before.answer(asked, ticket)
    assert after.ticket_of(after.request("key-1", "ann", "gdpr")) == ticket
    with pytest.raises(TicketError, match="belongs to another request"):
        after.reserve(after.request("key-1", "bob", "gdpr"))
