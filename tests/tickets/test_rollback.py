"""A batch that is rolled back, on SQLite and on PostgreSQL: back to removed, with its draws and its history."""

import pytest

from expunge.database import Database, open_database
from expunge.errors import RefusedError
from expunge.tickets.batches import ORDER, Batch, BatchStage, BatchStore
from expunge.tickets.holds import PURGE, REMOVAL, Holds
from expunge.tickets.rollback import roll_back
from expunge.tickets.store import TicketStore
from tests.tickets.test_store import chain, together

RELEASE = {"m": 0.25}
SPENT = {"m": 0.25, "coordinates": 9}


def registered(tickets: TicketStore, batches: BatchStore, *people: str) -> Batch:
    batch = batches.open_batch([tickets.submit(name).ticket.ticket_id for name in people])
    Holds(batches._database).begin(batch.batch_id, REMOVAL)
    batches.record(batch.batch_id, records=3, parent_version=1, order=["convex"])
    batches.append_draw(batch.batch_id, **SPENT)
    for stage in ORDER[1 : ORDER.index(BatchStage.REGISTERED) + 1]:
        data = (
            {"certificate_id": "c-1", "certificate": {}, "release": RELEASE} if stage == "certified" else {}
        )
        batches.advance(batch.batch_id, stage, **data)
    return batches.record(batch.batch_id, model_version=2)


def test_it_goes_back_to_removed_with_draws_and_history(
    tickets: TicketStore, batches: BatchStore, database: Database
) -> None:
    batch = registered(tickets, batches, "person-1", "person-2")
    held, other = batch.tickets
    tickets.hold(held, "a claim")
    roll_back(database, batch.batch_id, "version 2 was rolled back to 1")
    back = batches.get(batch.batch_id)
    assert (back.stage, back.draws) == (BatchStage.REMOVED, 1)
    undone = back.data.pop("rolled_back")
    assert back.data == {
        "records": 3,
        "parent_version": 1,
        "begun": [REMOVAL],
        "drawn": [SPENT],
        "unfinished_rollback": True,
    }
    assert [(u["version"], u["certificate_id"]) for u in undone] == [(2, "c-1")]
    assert {tickets.get(t).certificate_id for t in batch.tickets} == {None}
    assert tickets.get(other).reason == "version 2 was rolled back to 1"
    assert chain(tickets, other)[-2:] == ["registered", "removed"]
    assert tickets.get(held).state == "on_hold"
    assert tickets.release(held).state == "removed"
    assert batches.advance(batch.batch_id, BatchStage.UNLEARNED).stage is BatchStage.UNLEARNED


@pytest.mark.parametrize("stage", [s for s in ORDER if s is not BatchStage.REGISTERED])
def test_only_a_registered_batch_can_be(
    tickets: TicketStore, batches: BatchStore, database: Database, stage: BatchStage
) -> None:
    batch = batches.open_batch([tickets.submit("person-1").ticket.ticket_id])
    for each in ORDER[1 : ORDER.index(stage) + 1]:
        batches.advance(batch.batch_id, each)
    before = batches.get(batch.batch_id)
    with pytest.raises(RefusedError, match="between its registration and its purge"):
        roll_back(database, batch.batch_id, "x")
    assert batches.get(batch.batch_id) == before


def test_of_a_rollback_and_a_purge_one_comes_first(
    url: str, tickets: TicketStore, batches: BatchStore
) -> None:
    for number in range(6):
        batch = registered(tickets, batches, f"person-{number}")
        undone, _ = together(
            [
                lambda b=batch: roll_back(open_database(url), b.batch_id, "x"),
                lambda b=batch: Holds(open_database(url)).begin(b.batch_id, PURGE),
            ]
        )
        after = batches.get(batch.batch_id)
        if isinstance(undone, RefusedError):
            assert (after.stage, after.data["begun"]) == ("registered", [REMOVAL, PURGE])
        else:
            assert (undone, after.stage) == (None, "removed")
