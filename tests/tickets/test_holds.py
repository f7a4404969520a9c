"""Legal holds, on SQLite and on PostgreSQL: what they stop, what goes on, and that they come first or too late."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from expunge.database import Database, open_database
from expunge.errors import BatchWaitsError, TicketError
from expunge.tickets.batches import ORDER, Batch, BatchStage, BatchStore
from expunge.tickets.holds import PURGE, REMOVAL, Holds
from expunge.tickets.store import TicketStore
from tests.tickets.conftest import PSEUDONYMISER
from tests.tickets.test_store import chain, together

STOPPABLE = ORDER[: ORDER.index(BatchStage.PURGED)]  # planned to registered


@pytest.fixture
def holds(database: Database) -> Holds:
    return Holds(database)


def opened(tickets: TicketStore, batches: BatchStore, *people: str) -> Batch:
    return batches.open_batch([tickets.submit(name).ticket.ticket_id for name in people])


def reach(batches: BatchStore, holds: Holds, batch: Batch, stage: BatchStage) -> None:
    """As the flow does: removal begins before it is done."""
    for each in ORDER[1 : ORDER.index(stage) + 1]:
        if each in (BatchStage.REMOVED, BatchStage.PURGED):
            holds.begin(batch.batch_id, REMOVAL if each is BatchStage.REMOVED else PURGE)
        if not batches.get(batch.batch_id).done(each):
            batches.advance(batch.batch_id, each)


def test_before_removal_a_held_ticket_leaves_its_batch(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    batch = opened(tickets, batches, "person-1", "person-2")
    held, other = batch.tickets
    assert (tickets.hold(held, "a claim").state, tickets.get(held).batch_id) == ("on_hold", None)
    assert holds.waiting() == {}
    reach(batches, holds, batch, BatchStage.PURGED)
    assert batches.get(batch.batch_id).tickets == (other,)
    assert batches.close(batch.batch_id).stage is BatchStage.CLOSED
    assert tickets.release(held).state == "verified"
    assert [t.ticket_id for t in tickets.due_for_batch()] == [held]
    assert chain(tickets, held) == ["received", "verified", "scheduled", "on_hold", "verified"]


def test_a_batch_of_one_held_ticket_waits_before_removal(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    batch = opened(tickets, batches, "person-1")
    (held,) = batch.tickets
    tickets.hold(held, "a claim")
    assert list(holds.waiting()) == [batch.batch_id]
    with pytest.raises(BatchWaitsError, match=f"removal does not begin while ticket {held} is on hold"):
        holds.begin(batch.batch_id, REMOVAL)
    assert batches.get(batch.batch_id).data == {}
    for step in (tickets.withdraw, tickets.reject):
        with pytest.raises(TicketError, match="cannot take this step"):
            step(held, "no")
    assert tickets.release(held).state == "scheduled"
    assert holds.waiting() == {}
    reach(batches, holds, batch, BatchStage.PURGED)
    assert tickets.get(held).state == "purged"


@pytest.mark.parametrize("stage", STOPPABLE)
def test_once_removal_has_begun_the_batch_goes_on_and_stops_before_purge(
    tickets: TicketStore, batches: BatchStore, holds: Holds, stage: BatchStage
) -> None:
    batch = opened(tickets, batches, "person-1", "person-2")
    held, other = batch.tickets
    holds.begin(batch.batch_id, REMOVAL)
    reach(batches, holds, batch, stage)
    assert tickets.hold(held, "a claim").batch_id == batch.batch_id
    reach(batches, holds, batch, BatchStage.REGISTERED)
    assert (tickets.get(held).state, tickets.get(other).state) == ("on_hold", "registered")
    assert list(holds.waiting()) == [batch.batch_id]
    with pytest.raises(BatchWaitsError, match=f"purge does not begin while ticket {held} is on hold"):
        holds.begin(batch.batch_id, PURGE)
    with pytest.raises(TicketError, match="cannot take this step"):
        batches.advance(batch.batch_id, BatchStage.PURGED)
    assert batches.get(batch.batch_id).stage is BatchStage.REGISTERED
    assert sorted(tickets.subject_ids(batch.batch_id)) == ["person-1", "person-2"]
    assert tickets.release(held).state == "registered"
    reach(batches, holds, batch, BatchStage.PURGED)
    assert {tickets.get(t).state for t in batch.tickets} == {"purged"}


def test_once_purge_has_begun_a_hold_comes_too_late(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    batch = opened(tickets, batches, "person-1")
    reach(batches, holds, batch, BatchStage.REGISTERED)
    holds.begin(batch.batch_id, PURGE)
    for _ in (1, 2):  # also where the purge failed half-way
        with pytest.raises(TicketError, match="whose purge has not begun"):
            tickets.hold(batch.tickets[0], "a claim")
        batches.fail(batch.batch_id, "MLflow is away")
    batches.resume(batch.batch_id)
    holds.begin(batch.batch_id, PURGE)
    batches.advance(batch.batch_id, BatchStage.PURGED)
    batches.close(batch.batch_id)
    with pytest.raises(TicketError):
        tickets.hold(batch.tickets[0], "a claim")
    assert tickets.get(batch.tickets[0]).state == "closed"


def test_a_hold_stops_the_purge_of_other_batches_whose_bytes_it_needs(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    first, second, third = (opened(tickets, batches, f"person-{n}") for n in range(3))
    for batch in (first, second):
        reach(batches, holds, batch, BatchStage.REGISTERED)
    tickets.hold(third.tickets[0], "its rows are in the current version, which no purge touches")
    assert list(holds.waiting()) == [third.batch_id]
    tickets.hold(second.tickets[0], "a claim")
    assert list(holds.waiting()) == [first.batch_id, second.batch_id, third.batch_id]
    with pytest.raises(BatchWaitsError, match=second.tickets[0]):
        holds.begin(first.batch_id, PURGE)
    tickets.release(second.tickets[0])
    for batch in (first, second):
        reach(batches, holds, batch, BatchStage.PURGED)
    assert list(holds.waiting()) == [third.batch_id]


def test_a_purge_that_rests_half_way_is_stopped_by_a_later_batchs_hold(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    first, second = (opened(tickets, batches, f"person-{n}") for n in range(2))
    reach(batches, holds, first, BatchStage.REGISTERED)
    holds.begin(first.batch_id, PURGE)  # its weights are in quarantine
    holds.begin(second.batch_id, REMOVAL)
    tickets.hold(second.tickets[0], "a claim")
    holds.begin(second.batch_id, REMOVAL)
    with pytest.raises(BatchWaitsError, match=f"purge does not go on while ticket {second.tickets[0]}"):
        holds.begin(first.batch_id, PURGE)
    assert list(holds.waiting()) == [first.batch_id]  # its worker does not ask for a sweep
    tickets.release(second.tickets[0])
    assert holds.waiting() == {}
    holds.begin(first.batch_id, PURGE)
    assert batches.get(first.batch_id).data["begun"].count(PURGE) == 1


@pytest.mark.parametrize("stage", STOPPABLE)
def test_a_failed_batch_can_be_held_and_resumes_after_the_release(
    tickets: TicketStore, batches: BatchStore, holds: Holds, stage: BatchStage
) -> None:
    batch = opened(tickets, batches, "person-1", "person-2")
    holds.begin(batch.batch_id, REMOVAL)
    reach(batches, holds, batch, stage)
    batches.fail(batch.batch_id, "a gate said no")
    held, other = batch.tickets
    tickets.hold(held, "a claim")
    assert (batch.batch_id in holds.waiting()) == (stage is BatchStage.REGISTERED)
    batches.resume(batch.batch_id)
    assert (tickets.get(held).state, tickets.get(other).state) == (
        "on_hold",
        "scheduled" if stage is BatchStage.PLANNED else stage,
    )
    batches.fail(batch.batch_id, "again")
    assert tickets.get(held).state == "on_hold"  # its clock stands still
    batches.resume(batch.batch_id)
    assert tickets.release(held).state == tickets.get(other).state


def test_a_step_back_takes_the_held_ticket_along(
    tickets: TicketStore, batches: BatchStore, holds: Holds
) -> None:
    batch = opened(tickets, batches, "person-1", "person-2")
    reach(batches, holds, batch, BatchStage.UNLEARNED)
    tickets.hold(batch.tickets[0], "a claim")
    batches.step_back(batch.batch_id)
    assert tickets.get(batch.tickets[0]).state == "on_hold"
    assert tickets.release(batch.tickets[0]).state == "removed"


def test_the_deadline_moves_by_the_time_held(
    tickets: TicketStore, batches: BatchStore, holds: Holds, database: Database
) -> None:
    batch = opened(tickets, batches, "person-1")
    reach(batches, holds, batch, BatchStage.VALIDATED)
    before = tickets.get(batch.tickets[0]).due_at
    tickets.hold(batch.tickets[0], "a claim")
    reach(batches, holds, batch, BatchStage.REGISTERED)
    with database.transaction() as session:
        at = datetime.now(UTC) - timedelta(days=400)
        session.execute(text("UPDATE ticket_events SET at = :at WHERE target = 'on_hold'"), {"at": at})
    moved = tickets.release(batch.tickets[0]).due_at - before
    assert timedelta(days=400) <= moved < timedelta(days=400, minutes=5)


@pytest.mark.parametrize("act", [REMOVAL, PURGE])
def test_of_a_hold_and_an_act_one_comes_first(url: str, act: str) -> None:
    store, batches, holds = (
        make(open_database(url)) for make in (lambda d: TicketStore(d, PSEUDONYMISER), BatchStore, Holds)
    )
    for number in range(8):
        batch = opened(store, batches, f"person-{number}")
        if act == PURGE:
            reach(batches, holds, batch, BatchStage.REGISTERED)
        ticket_id = batch.tickets[0]
        began, held = together(
            [
                lambda b=batch: Holds(open_database(url)).begin(b.batch_id, act),
                lambda t=ticket_id: store.hold(t, "x"),
            ]
        )
        state = store.get(ticket_id).state
        if isinstance(began, BatchWaitsError):  # the hold came first: nothing has begun
            assert state == "on_hold"
            assert act not in batches.get(batch.batch_id).data.get("begun", [])
            assert batch.batch_id in holds.waiting()
            store.release(ticket_id)
            holds.begin(batch.batch_id, act)
        else:
            assert began is None
            assert act in batches.get(batch.batch_id).data["begun"]
            # after removal has begun the hold keeps what only purge would destroy; after purge it is refused
            assert isinstance(held, TicketError) == (act == PURGE)
            assert (state == "on_hold") == (act == REMOVAL)
            if act == REMOVAL:
                store.release(ticket_id)


def test_of_two_holds_at_once_one_ticket_leaves_and_the_other_stops_the_batch(url: str) -> None:
    batches, holds = BatchStore(open_database(url)), Holds(open_database(url))
    stores = [TicketStore(open_database(url), PSEUDONYMISER) for _ in range(2)]
    batch = opened(stores[0], batches, "person-1", "person-2")
    together([lambda s=s, t=t: s.hold(t, "x") for s, t in zip(stores, batch.tickets, strict=True)])
    (left,) = batches.get(batch.batch_id).tickets
    assert {stores[0].get(t).state for t in batch.tickets} == {"on_hold"}
    assert list(holds.waiting()) == [batch.batch_id]
    assert [stores[0].release(t).state for t in sorted(batch.tickets, key=left.__eq__)] == [
        "verified",
        "scheduled",
    ]
