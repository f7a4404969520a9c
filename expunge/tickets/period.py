"""What happened to tickets until a moment, in pages, so that any number fits; nobody's id or words leave."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from expunge.database import Database
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.tables import BatchRow, TicketEventRow, TicketRow

_PAGE, _BATCHES = 1000, 50  # a batch is large: its certificate is in it
_SAID = (
    TicketState.REJECTED,
    TicketState.WITHDRAWN,
)  # whose reasons are sorted into kinds, and not passed on
_KINDS = (  # the first that fits counts
    ("identity not established", ("identit", "verify", "authenticat")),
    ("legal obligation to keep the data", ("legal obligation", "obligat", "retention", "required by law", "statut")),
    ("legal claims", ("claim", "litigation", "lawsuit", "court")),
    ("nobody of the dataset", ("not in the dataset", "not found", "no record", "no data", "unknown person")),
    ("unfounded or excessive", ("unfounded", "excessive", "repeated", "duplicate")),
    ("withdrawn by the person", ("changed their mind", "withdr", "no longer want", "person's wish")),
)  # fmt: skip
OTHER = "another reason"


@dataclass(frozen=True)
class TicketCourse:
    """The course of one ticket until a moment.

    Args:
        regime: gdpr or ccpa.
        received_at: UTC.
        due_at: As it is known now, extension and time on hold included.
        closed_at: When it was closed, rejected or withdrawn; None if it was open at the moment.
        state: At the moment.
        held: When it was put on hold.
        extended: When its deadline was extended.
        refused: When it was rejected or withdrawn, and which kind of reason was given.
    """

    regime: str
    received_at: datetime
    due_at: datetime
    closed_at: datetime | None
    state: str
    held: list[datetime] = field(default_factory=list)
    extended: list[datetime] = field(default_factory=list)
    refused: tuple[str, datetime, str] | None = None


def count_tickets(database: Database, until: datetime) -> int:
    """How many tickets were received before a moment.

    Args:
        database: Where they are.
        until: The moment.

    Returns:
        Their number.
    """
    with database.transaction() as session:
        return session.scalar(select(func.count()).where(TicketRow.received_at < until)) or 0


def courses(database: Database, until: datetime) -> Iterator[TicketCourse]:
    """All tickets received before a moment, as they were then.

    Args:
        database: Where they are.
        until: The moment; later steps are as if they had not been.

    Yields:
        Courses, in no order that means anything; a page of them is in memory, and each page is a short transaction.
    """
    last = ""
    while True:
        columns = (TicketRow.ticket_id, TicketRow.regime, TicketRow.received_at, TicketRow.due_at)
        tickets = (
            select(*columns)
            .where(TicketRow.ticket_id > last, TicketRow.received_at < until)
            .order_by(TicketRow.ticket_id)
            .limit(_PAGE)
        )
        with database.transaction() as session:
            rows = session.execute(tickets).tuples().all()
            ids = [row[0] for row in rows]
            events = select(
                TicketEventRow.ticket_id,
                TicketEventRow.at,
                TicketEventRow.source,
                TicketEventRow.target,
                TicketEventRow.reason,
            ).where(TicketEventRow.ticket_id.in_(ids), TicketEventRow.at < until)
            steps: dict[str, list[tuple[datetime, str | None, str, str]]] = {ticket: [] for ticket in ids}
            found = session.execute(events.order_by(TicketEventRow.number)).tuples()
            for ticket, at, source, target, reason in found:
                steps[ticket].append((at, source, target, reason))
        for ticket, regime, received_at, due_at in rows:
            yield _course(regime, received_at, due_at, steps[ticket])
        if len(rows) < _PAGE:
            return
        last = ids[-1]


def batches_before(database: Database, until: datetime) -> Iterator[tuple[datetime, int, dict[str, Any]]]:
    """Batches that were opened before a moment.

    Args:
        database: Where they are.
        until: The moment.

    Yields:
        When each was opened, its noise draws, and what its stages have recorded.
    """
    last = ""
    while True:
        query = (
            select(BatchRow.batch_id, BatchRow.created_at, BatchRow.draws, BatchRow.data)
            .where(BatchRow.created_at < until, BatchRow.batch_id > last)
            .order_by(BatchRow.batch_id)
            .limit(_BATCHES)
        )
        with database.transaction() as session:
            rows = session.execute(query).tuples().all()
        for _, created_at, draws, data in rows:
            yield created_at, draws, data
        if len(rows) < _BATCHES:
            return
        last = rows[-1][0]


def kind_of(reason: str) -> str:
    """Sort an operator's reason by its words.

    Args:
        reason: Free text.

    Returns:
        One of a few kinds: nothing of the text itself.

    Example:
        >>> kind_of("identity could not be checked")
        'identity not established'
    """
    said = reason.lower()
    return next((kind for kind, words in _KINDS if any(word in said for word in words)), OTHER)


def _course(
    regime: str, received_at: datetime, due_at: datetime, steps: list[tuple[datetime, str | None, str, str]]
) -> TicketCourse:
    ends = [at for at, _, target, _ in steps if target in (TicketState.CLOSED, *_SAID)]
    refused = [(target, at, kind_of(reason)) for at, _, target, reason in steps if target in _SAID]
    return TicketCourse(
        regime=regime,
        received_at=received_at,
        due_at=due_at,
        closed_at=ends[-1] if ends else None,
        state=steps[-1][2] if steps else TicketState.RECEIVED,
        held=[at for at, _, target, _ in steps if target == TicketState.ON_HOLD],
        extended=[
            at for at, source, target, reason in steps if source == target and reason.startswith("extended: ")
        ],
        refused=refused[-1] if refused else None,
    )
