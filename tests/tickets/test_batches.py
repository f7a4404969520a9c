"""The contract of the batch store and its leases, on SQLite and on PostgreSQL."""

import time

import pytest

from expunge.database import open_database
from expunge.errors import LeaseHeldError, RefusedError, TicketError
from expunge.tickets.batches import ORDER, Batch, BatchStage, BatchStore
from expunge.tickets.store import TicketStore
from tests.tickets.test_store import chain, close, together


@pytest.fixture
def batch(tickets: TicketStore, batches: BatchStore) -> Batch:
    """Two people's batch, just planned."""
    return batches.open_batch([tickets.submit(f"person-{n}-long").ticket.ticket_id for n in (1, 2)])


def test_a_new_batch(tickets: TicketStore, batches: BatchStore, batch: Batch) -> None:
    assert (batch.stage, batch.draws, batch.data, batch.error) == (BatchStage.PLANNED, 0, {}, None)
    assert batch.batch_id.startswith("b-")
    members = [tickets.get(ticket_id) for ticket_id in batch.tickets]
    assert {(m.state, m.batch_id) for m in members} == {("scheduled", batch.batch_id)}
    assert batch.pseudonyms == tuple(m.pseudonym for m in members)
    assert sorted(tickets.subject_ids(batch.batch_id)) == ["person-1-long", "person-2-long"]
    assert batches.get(batch.batch_id) == batch
    assert tickets.due_for_batch() == []


def test_a_batch_that_cannot_be_leaves_nothing(tickets: TicketStore, batches: BatchStore) -> None:
    good, held = (tickets.submit(name).ticket.ticket_id for name in ("person-a", "person-b"))
    tickets.hold(held, "wait")
    taken = batches.open_batch([tickets.submit("person-c").ticket.ticket_id])
    for chosen, told in (
        ([], "needs a ticket"),
        ([good, held], "cannot take this step"),
        ([good, *taken.tickets], "cannot take this step"),
        ([good, "t-000000000000"], "no such ticket.*t-0"),
        ([good, good], "named twice"),
    ):
        with pytest.raises(TicketError, match=told):
            batches.open_batch(chosen)
    assert batches.every() == [taken]
    assert (tickets.get(good).state, tickets.get(good).batch_id) == ("verified", None)
    with pytest.raises(TicketError, match="no such batch"):
        batches.get("b-000000000000")


def test_a_batch_moves_its_tickets(tickets: TicketStore, batches: BatchStore, batch: Batch) -> None:
    other = tickets.submit("bystander").ticket.ticket_id
    for number, stage in enumerate(ORDER[1:], 1):
        moved = batches.advance(batch.batch_id, stage, **{f"key{number}": number})
        assert moved == batches.get(batch.batch_id)
        assert {tickets.get(t).state for t in batch.tickets} == {stage}
        assert all(moved.done(s) == (ORDER.index(s) <= number) for s in ORDER)
    assert moved.data == {f"key{number}": number for number in range(1, len(ORDER))}
    assert chain(tickets, batch.tickets[0]) == ["received", "verified", "scheduled", *ORDER[1:]]
    assert tickets.get(other).state == "verified"


def test_no_stage_is_left_out_and_none_comes_back(batches: BatchStore, batch: Batch) -> None:
    for reached, stage in enumerate(ORDER):
        batch = batches.advance(batch.batch_id, stage)
        for other in set(BatchStage) - set(ORDER[reached : reached + 2]):
            with pytest.raises(TicketError, match="cannot leave out a stage"):
                batches.advance(batch.batch_id, other, kept=1)
        assert batches.get(batch.batch_id) == batch


def test_repeating_a_stage_merges_data_only(tickets: TicketStore, batches: BatchStore, batch: Batch) -> None:
    batches.advance(batch.batch_id, BatchStage.REMOVED, records=3, seconds={"removal": 1.0})
    batches.advance(batch.batch_id, BatchStage.REMOVED, records=3, md5="x")
    batches.record(batch.batch_id, plan=["newton"], records=4)
    again = batches.get(batch.batch_id)
    assert again.data == {"records": 4, "seconds": {"removal": 1.0}, "md5": "x", "plan": ["newton"]}
    assert chain(tickets, batch.tickets[0]).count("removed") == 1


def test_tickets_take_the_certificate(tickets: TicketStore, batches: BatchStore, batch: Batch) -> None:
    for stage in ORDER[1:4]:
        batches.advance(batch.batch_id, stage)
    batches.advance(batch.batch_id, BatchStage.CERTIFIED, certificate_id="c-1")
    batches.advance(batch.batch_id, BatchStage.REGISTERED)
    assert {tickets.get(t).certificate_id for t in batch.tickets} == {"c-1"}


@pytest.mark.parametrize("reached", range(len(ORDER) - 1))
def test_failing_and_resuming(tickets: TicketStore, batches: BatchStore, batch: Batch, reached: int) -> None:
    for stage in ORDER[1 : reached + 1]:
        batches.advance(batch.batch_id, stage)
    before = batches.get(batch.batch_id)
    failed = batches.fail(batch.batch_id, "a gate said no")
    assert (failed.stage, failed.failed_stage, failed.error) == ("failed", ORDER[reached], "a gate said no")
    assert not any(failed.done(stage) for stage in ORDER)
    assert {(tickets.get(t).state, tickets.get(t).reason) for t in batch.tickets} == {
        ("failed", "a gate said no")
    }
    with pytest.raises(TicketError):
        batches.advance(batch.batch_id, ORDER[reached + 1])
    assert batches.fail(batch.batch_id, "again").failed_stage == ORDER[reached]
    assert batches.resume(batch.batch_id) == before
    assert batches.resume(batch.batch_id) == before
    assert chain(tickets, batch.tickets[0])[-2:] == ["failed", tickets.get(batch.tickets[0]).state]
    assert batches.advance(batch.batch_id, ORDER[reached + 1]).stage is ORDER[reached + 1]


def test_a_closed_batch_stays_closed(tickets: TicketStore, batches: BatchStore) -> None:
    batch_id = close(tickets, batches, "person-1")
    with pytest.raises(TicketError):
        batches.fail(batch_id, "too late")
    assert batches.resume(batch_id).stage is BatchStage.CLOSED
    assert batches.close(batch_id).stage is BatchStage.CLOSED
    assert len(chain(tickets, batches.get(batch_id).tickets[0])) == 10


def test_a_batch_is_not_closed_before_it_is_proved_that_nobody_is_left(
    tickets: TicketStore, batches: BatchStore, batch: Batch
) -> None:
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)

    def prove() -> None:
        assert tickets.subject_ids(batch.batch_id) == []
        raise TicketError("somebody is left")

    with pytest.raises(TicketError, match="somebody is left"):
        batches.close(batch.batch_id, prove)
    assert batches.get(batch.batch_id).stage is BatchStage.PURGED
    batches.fail(batch.batch_id, "somebody is left")  # the reason is not masked by another error
    assert batches.resume(batch.batch_id).stage is BatchStage.PURGED
    assert batches.close(batch.batch_id).stage is BatchStage.CLOSED


def test_a_step_back_is_in_the_history(tickets: TicketStore, batches: BatchStore, batch: Batch) -> None:
    assert batches.step_back(batch.batch_id).stage is BatchStage.PLANNED
    for stage in ("removed", "unlearned"):
        batches.advance(batch.batch_id, BatchStage(stage))
    assert batches.step_back(batch.batch_id).stage is BatchStage.REMOVED
    batches.advance(batch.batch_id, BatchStage.UNLEARNED)
    expected = ["scheduled", "removed", "unlearned", "removed", "unlearned"]
    assert chain(tickets, batch.tickets[1])[2:] == expected


def test_what_is_unfinished(tickets: TicketStore, batches: BatchStore) -> None:
    close(tickets, batches, "person-0")
    running, failed = (
        batches.open_batch([tickets.submit(f"person-{n}").ticket.ticket_id]).batch_id for n in (1, 2)
    )
    batches.fail(failed, "no")
    assert [batch.batch_id for batch in batches.unfinished()] == [running, failed]
    assert len(batches.every()) == 3


def test_closing_erases_people_and_fingerprints(
    tickets: TicketStore, batches: BatchStore, batch: Batch
) -> None:
    with pytest.raises(TicketError, match="planned to closed"):
        batches.close(batch.batch_id)
    assert len(tickets.subject_ids(batch.batch_id)) == 2
    batches.record(batch.batch_id, scan={"rows": ["f00d"]}, attempts={"convex, 1": "sealed"}, kept="yes")
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)
    closed = batches.close(batch.batch_id)
    assert closed.stage == BatchStage.CLOSED
    assert closed.data == {"scan": None, "attempts": {}, "kept": "yes"}
    assert tickets.subject_ids(batch.batch_id) == []
    assert all(tickets.get(t).closed_at is not None for t in batch.tickets)
    assert closed.pseudonyms == batch.pseudonyms


def test_no_draw_is_counted_once_for_two(url: str, batch: Batch) -> None:
    stores = [BatchStore(open_database(url)) for _ in range(4)]
    counts = together([lambda s=s: [s.append_draw(batch.batch_id, m=0.5) for _ in range(10)] for s in stores])
    assert sorted(number for each in counts for number in each) == list(range(1, 41))
    after = stores[0].get(batch.batch_id)
    assert (after.draws, after.data["drawn"]) == (40, [{"m": 0.5}] * 40)


def test_one_lease_a_lineage(batches: BatchStore) -> None:
    batches.acquire_lease("model", "one", 60)
    batches.acquire_lease("model", "one", 60)
    batches.acquire_lease("another model", "two", 60)
    with pytest.raises(RefusedError, match="another run is at work"):
        batches.acquire_lease("model", "two", 60)
    batches.release_lease("model", "two")
    with pytest.raises(RefusedError):
        batches.acquire_lease("model", "two", 60)
    batches.release_lease("model", "one")
    batches.acquire_lease("model", "two", 60)
    batches.release_lease("model", "two")
    batches.release_lease("model", "two")


def test_a_stale_lease_is_taken_over(batches: BatchStore) -> None:
    batches.acquire_lease("model", "one", 0.05)
    time.sleep(0.1)
    batches.acquire_lease("model", "two", 60)
    with pytest.raises(RefusedError):
        batches.acquire_lease("model", "one", 60)
    batches.release_lease("model", "one")  # the former holder's late release must not free the new one's
    with pytest.raises(RefusedError):
        batches.acquire_lease("model", "three", 60)


def test_renewing_makes_a_lease_last(batches: BatchStore) -> None:
    batches.acquire_lease("model", "one", 0.05)
    batches.acquire_lease("model", "one", 60)
    time.sleep(0.1)
    with pytest.raises(RefusedError):
        batches.acquire_lease("model", "two", 60)


def test_a_dead_holder_is_taken_over(batches: BatchStore) -> None:
    batches.acquire_lease("model", "dead", 3600)
    asked: list[str] = []
    with pytest.raises(RefusedError):
        batches.acquire_lease("model", "two", 60, alive=lambda holder: not asked.append(holder))
    batches.acquire_lease("model", "two", 60, alive=lambda holder: bool(asked.append(holder)))
    assert asked == ["dead", "dead"]


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_the_lease(url: str, stale: bool) -> None:
    stores = [BatchStore(open_database(url)) for _ in range(6)]
    if stale:
        stores[0].acquire_lease("model", "former", 0)
    done = together([lambda i=i: stores[i].acquire_lease("model", f"h{i}", 60) for i in range(6)])
    assert [type(outcome) for outcome in done if outcome is not None] == [LeaseHeldError] * 5
