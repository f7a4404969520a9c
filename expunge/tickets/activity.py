"""What is at work, how near deadlines are, how long things took: numbers and ids of batches, at a bounded cost.

Closed tickets and batches stay for ever: durations are those of the last ones, found by an index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from expunge.database import Database
from expunge.tickets.batches import BatchStage
from expunge.tickets.deadlines import LEVELS
from expunge.tickets.lifecycle import RUNNING, TicketState
from expunge.tickets.tables import BatchRow, LeaseRow, TicketRow

LAST_BATCHES, LAST_TICKETS = 50, 200


@dataclass(frozen=True)
class Durations:
    """How long the last closed batches and tickets took.

    Args:
        stages: Seconds of each batch, by stage; for operators only, since they depend on the forget set.
        tickets: Seconds from receipt to close, of each ticket.
        shares: The same, as a share of the time that the deadline allowed.
    """

    stages: dict[str, list[float]]
    tickets: list[float]
    shares: list[float]


def read_durations(database: Database) -> Durations:
    """Durations of the last closed batches and tickets.

    Args:
        database: Where they are.

    Returns:
        The durations, the last first.
    """
    batches = (
        select(BatchRow.data["seconds"])
        .where(BatchRow.stage == BatchStage.CLOSED)
        .order_by(BatchRow.created_at.desc())
        .limit(LAST_BATCHES)
    )
    tickets = (
        select(TicketRow.received_at, TicketRow.closed_at, TicketRow.due_at)
        .where(TicketRow.state == TicketState.CLOSED, TicketRow.closed_at.is_not(None))
        .order_by(TicketRow.closed_at.desc())
        .limit(LAST_TICKETS)
    )
    with database.transaction() as session:
        spent = session.scalars(batches).all()
        closed = session.execute(tickets).tuples().all()
    stages: dict[str, list[float]] = {}
    for seconds in spent:
        for stage, taken in (seconds or {}).items():
            stages.setdefault(stage, []).append(float(taken))
    took = [(end - start).total_seconds() for start, end, _ in closed if end]
    allowed = [(due - start).total_seconds() for start, end, due in closed if end]
    return Durations(stages, took, [t / a for t, a in zip(took, allowed, strict=True) if a > 0])


def count_near_deadline(database: Database, now: datetime | None = None) -> dict[str, int]:
    """Tickets whose clock runs, by the alarm that their deadline deserves.

    Args:
        database: Where they are.
        now: What deadlines are compared with; the present by default.

    Returns:
        Count by level, every level; a ticket counts at the highest it reached.
    """
    now = now or datetime.now(UTC)
    reached = [
        select(func.count()).where(TicketRow.state.in_(RUNNING), TicketRow.due_at <= now + left)
        for left in LEVELS.values()
    ]
    with database.transaction() as session:
        counts = [session.scalar(query) or 0 for query in reached]
    return {
        level: count - higher for level, count, higher in zip(LEVELS, counts, [*counts[1:], 0], strict=True)
    }


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is not closed.

    Args:
        batch_id: Its id.
        stage: What is done, or failed.
        tickets: How many.
    """

    batch_id: str
    stage: str
    tickets: int


def open_batches(database: Database) -> list[OpenBatch]:
    """Batches that are not closed, without what their stages left.

    Args:
        database: Where they are.

    Returns:
        The oldest first, which is the order of work.
    """
    unfinished = [str(stage) for stage in BatchStage if stage is not BatchStage.CLOSED]
    tickets = select(func.count()).where(TicketRow.batch_id == BatchRow.batch_id).scalar_subquery()
    query = (
        select(BatchRow.batch_id, BatchRow.stage, tickets)
        .where(BatchRow.stage.in_(unfinished))
        .order_by(BatchRow.created_at)
    )
    with database.transaction() as session:
        return [OpenBatch(*row) for row in session.execute(query).tuples()]


def live_leases(database: Database, names: Sequence[str]) -> dict[str, tuple[str, datetime]]:
    """Leases that have not expired.

    Args:
        database: Where they are.
        names: Which, of those that may be held.

    Returns:
        Holder and end, by name.
    """
    query = select(LeaseRow).where(LeaseRow.lineage.in_(names), LeaseRow.expires_at > datetime.now(UTC))
    with database.transaction() as session:
        return {row.lineage: (row.holder, row.expires_at) for row in session.scalars(query)}
