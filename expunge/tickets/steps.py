"""Steps of tickets inside a transaction: as many statements for thousands of tickets as for one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, literal, select, update
from sqlalchemy.orm import Session

from expunge.database import UtcTime
from expunge.residue.search import Scanner
from expunge.residue.target import Target
from expunge.tickets.lifecycle import FINAL, TicketState, advance
from expunge.tickets.tables import BatchRow, TicketEventRow, TicketRow


def move(session: Session, chosen: ColumnElement[bool], target: TicketState, reason: str = "") -> None:
    """Take one step of tickets inside a transaction, and record it: three statements for any number of them.

    Args:
        session: The transaction; rows of the tickets that it has read are stale afterwards.
        chosen: Which tickets.
        target: Where they go.
        reason: Why.

    Raises:
        TicketError: If the step is out of order for one of them.
    """
    kinds = select(TicketRow.state, TicketRow.state_before).where(chosen).distinct()
    for state, before in session.execute(kinds).tuples():
        advance(TicketState(state), target, before=TicketState(before) if before else None)
    # one that is held after it failed returns to where it was before that
    was = func.coalesce(TicketRow.state_before, TicketRow.state)
    kept = was if target in (TicketState.ON_HOLD, TicketState.FAILED) else None
    values: dict[str, Any] = {"reason": reason, "state_before": kept}
    if target in FINAL:
        values |= {"subject_id": None, "closed_at": datetime.now(UTC)}
    put(session, chosen, target, reason, values)


def put(
    session: Session,
    chosen: ColumnElement[bool],
    target: TicketState,
    reason: str,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Set the state of tickets, whatever it was, and record that.

    Args:
        session: The transaction.
        chosen: Which tickets.
        target: The state.
        reason: Why, for their history.
        values: Of other columns.
    """
    step = (literal(datetime.now(UTC), UtcTime), TicketRow.state, literal(str(target)), literal(reason))
    session.execute(
        insert(TicketEventRow).from_select(
            ["ticket_id", "at", "source", "target", "reason"],
            select(TicketRow.ticket_id, *step).where(chosen),
        )
    )
    session.execute(
        update(TicketRow).where(chosen).values({"state": target, **(values or {})}),
        execution_options={"synchronize_session": False},
    )


def not_held(batch_id: str) -> ColumnElement[bool]:
    """The tickets of a batch that go where it goes.

    Args:
        batch_id: Of the batch.

    Returns:
        Which they are.
    """
    return and_(TicketRow.batch_id == batch_id, TicketRow.state != TicketState.ON_HOLD)


def take_held_along(session: Session, batch_id: str, target: TicketState) -> None:
    """Tickets on hold stay on hold while their batch moves, and return to where it is then.

    Args:
        session: The transaction.
        batch_id: Of the batch.
        target: Where the batch is now.
    """
    held = and_(TicketRow.batch_id == batch_id, TicketRow.state == TicketState.ON_HOLD)
    session.execute(
        update(TicketRow).where(held).values(state_before=target),
        execution_options={"synchronize_session": False},
    )


def held_since(session: Session, ticket_id: str) -> datetime:
    """When a ticket's clock was stopped.

    Args:
        session: The transaction.
        ticket_id: Of a ticket on hold.

    Returns:
        UTC.
    """
    query = (
        select(TicketEventRow.at)
        .where(TicketEventRow.ticket_id == ticket_id, TicketEventRow.target == TicketState.ON_HOLD)
        .order_by(TicketEventRow.number.desc())
        .limit(1)
    )
    return session.scalars(query).one()


def blank_texts(session: Session, row: BatchRow) -> None:
    """Erase reasons and errors of a batch that hold an id of its people, while the ids are known.

    Args:
        session: The transaction.
        row: The batch.
    """
    of_batch = TicketRow.batch_id == row.batch_id
    people = session.scalars(select(TicketRow.subject_id).where(of_batch, TicketRow.subject_id.is_not(None)))
    scanner = Scanner(Target(frozenset(map(str, people))))
    if row.error and scanner.names(row.error):
        row.error = ""
    tickets = select(TicketRow.ticket_id).where(of_batch)
    for table in (TicketRow, TicketEventRow):
        own = and_(table.ticket_id.in_(tickets), table.reason != "")
        for reason in session.scalars(select(table.reason).where(own).distinct()).all():
            if scanner.names(reason):
                session.execute(
                    update(table).where(own, table.reason == reason).values(reason=""),
                    execution_options={"synchronize_session": False},
                )
