"""Figures for monitoring: numbers only, no id of anything."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from expunge.database import Database
from expunge.tickets.batches import BatchStage
from expunge.tickets.lifecycle import OPEN, RUNNING, TicketState
from expunge.tickets.tables import BatchRow, TicketRow


@dataclass(frozen=True)
class Figures:
    """How many of what there are.

    Args:
        tickets: By state, every state.
        overdue: Open tickets past their deadline, but for those on hold: their clock stands still.
        next_due: The first deadline among those, past or to come; None if there is none.
        oldest_open_s: Age of the oldest open ticket in seconds; 0 if none is open.
        batches: By stage, every stage.
    """

    tickets: dict[str, int]
    overdue: int
    next_due: datetime | None
    oldest_open_s: float
    batches: dict[str, int]


def read_figures(database: Database, now: datetime | None = None) -> Figures:
    """Count tickets and batches, at one moment.

    Args:
        database: Where they are.
        now: What deadlines are compared with; the present by default.

    Returns:
        The figures.
    """
    now = now or datetime.now(UTC)
    tickets = {str(state): 0 for state in TicketState}
    batches = {str(stage): 0 for stage in BatchStage}
    overdue = select(func.count()).where(TicketRow.state.in_(RUNNING), TicketRow.due_at < now)
    next_due = select(func.min(TicketRow.due_at)).where(TicketRow.state.in_(RUNNING))
    oldest = (
        select(TicketRow.received_at)
        .where(TicketRow.state.in_(OPEN))
        .order_by(TicketRow.received_at)
        .limit(1)
    )
    with database.transaction() as session:
        for state, count in session.execute(
            select(TicketRow.state, func.count()).group_by(TicketRow.state)
        ).tuples():
            tickets[state] = count
        for stage, count in session.execute(
            select(BatchRow.stage, func.count()).group_by(BatchRow.stage)
        ).tuples():
            batches[stage] = count
        first = session.scalar(oldest)
        return Figures(
            tickets=tickets,
            overdue=session.scalar(overdue) or 0,
            next_due=session.scalar(next_due),
            oldest_open_s=max(0.0, (now - first).total_seconds()) if first else 0.0,
            batches=batches,
        )
