"""Deadlines of tickets: the one extension, and alarms before they pass.

The clock of a ticket stands still while it is on hold, and at no other time: identity is vouched for at intake.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from expunge.database import Database
from expunge.errors import TicketError
from expunge.regimes import LAWS, Regime
from expunge.tickets.intake import check_reason
from expunge.tickets.lifecycle import FINAL, RUNNING, TicketState, due_at
from expunge.tickets.steps import held_since
from expunge.tickets.tables import DeadlineRow, TicketEventRow, TicketRow

# level -> time left at most; the last one that applies counts
LEVELS = {"7d": timedelta(days=7), "2d": timedelta(days=2), "overdue": timedelta(0)}


@dataclass(frozen=True)
class Alarm:
    """A deadline that is near or past.

    Args:
        ticket_id: Of the ticket.
        pseudonym: Of the subject.
        level: 7d, 2d or overdue.
        due_at: UTC.
    """

    ticket_id: str
    pseudonym: str
    level: str
    due_at: datetime

    def to_json(self) -> dict[str, str]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return {**vars(self), "due_at": self.due_at.isoformat()}


def alarm_level(due: datetime, now: datetime) -> str | None:
    """Which alarm a deadline deserves.

    Args:
        due: The deadline.
        now: The time.

    Returns:
        7d, 2d, overdue, or None while there is more time.

    Example:
        >>> alarm_level(datetime(2026, 1, 3), datetime(2026, 1, 2))
        '2d'
    """
    reached = [level for level, left in LEVELS.items() if due - now <= left]
    return reached[-1] if reached else None


class Deadlines:
    """The deadlines of a workspace's tickets.

    Args:
        database: Where the tickets are.
        laws: By name.
    """

    def __init__(self, database: Database, laws: Mapping[str, Regime] = LAWS) -> None:
        """Keep both."""
        self._database, self._laws = database, laws

    def extend(self, ticket_id: str, reason: str) -> datetime:
        """Take the one extension that the law allows, such as two months (GDPR Art. 12(3)) or 45 days (CCPA).

        Args:
            ticket_id: Of an open ticket that is not overdue.
            reason: Why; it must be given to the person too.

        Returns:
            The new deadline, in UTC.

        Raises:
            TicketError: If the ticket is closed, overdue or extended already, or the reason will not do.
        """
        with self._database.transaction() as session:
            row = session.get(TicketRow, ticket_id)
            if row is None:
                raise TicketError("no such ticket", got=ticket_id, remedy="see `expunge ticket list`")
            check_reason(reason, row.subject_id)
            now = datetime.now(UTC)
            clock = held_since(session, ticket_id) if row.state == TicketState.ON_HOLD else now
            record = session.get(DeadlineRow, ticket_id) or DeadlineRow(ticket_id=ticket_id)
            if row.state in FINAL or record.extended_at is not None or row.due_at <= clock:
                got = (
                    row.state
                    if row.state in FINAL
                    else "overdue"
                    if row.due_at <= clock
                    else "extended already"
                )
                raise TicketError(
                    "the deadline cannot be extended",
                    expected="an open ticket, before its deadline, once",
                    got=str(got),
                    remedy="close the ticket, or answer the person with what stands in the way",
                )
            # time on hold has moved the deadline already: that stays
            usual = due_at(row.received_at, row.regime, laws=self._laws)
            longer = due_at(row.received_at, row.regime, extended=True, laws=self._laws)
            if longer == usual:
                raise TicketError(
                    "the deadline cannot be extended",
                    expected="a law that allows an extension",
                    got=row.regime,
                    remedy="close the ticket, or answer the person with what stands in the way",
                )
            row.due_at += longer - usual
            record.extended_at, record.alarm = now, None
            session.add(record)
            session.add(
                TicketEventRow(
                    ticket_id=ticket_id,
                    at=now,
                    source=row.state,
                    target=row.state,
                    reason=f"extended: {reason}",
                )
            )
            return row.due_at

    def alarms(self, now: datetime) -> list[Alarm]:
        """Alarms that nobody has been told yet, the most urgent first.

        Args:
            now: The time, with its zone.

        Returns:
            At most one a ticket: the highest level reached. Held tickets have none, for their clock stands still.
        """
        query = (
            select(TicketRow.ticket_id, TicketRow.pseudonym, TicketRow.due_at, DeadlineRow.alarm)
            .outerjoin(DeadlineRow, DeadlineRow.ticket_id == TicketRow.ticket_id)
            .where(TicketRow.due_at <= now + max(LEVELS.values()), TicketRow.state.in_(RUNNING))
            .order_by(TicketRow.due_at, TicketRow.ticket_id)
        )
        with self._database.transaction() as session:
            found = [
                (Alarm(ticket_id, pseudonym, level, due), told)
                for ticket_id, pseudonym, due, told in session.execute(query).tuples()
                if (level := alarm_level(due, now))
            ]
        order = list(LEVELS)
        return [a for a, told in found if told is None or order.index(told) < order.index(a.level)]

    def told(self, alarm: Alarm) -> None:
        """Record that an alarm was delivered: it is not raised again.

        Args:
            alarm: From :meth:`alarms`.
        """
        with self._database.transaction() as session:
            session.merge(DeadlineRow(ticket_id=alarm.ticket_id, alarm=alarm.level))
