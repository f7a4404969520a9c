"""The ticket store: SQLAlchemy, the same on SQLite and PostgreSQL."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge.database import Database
from expunge.errors import TicketConflictError, TicketError, UnknownTicketError
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.intake import check_reason, check_subject
from expunge.tickets.lifecycle import FINAL, TicketState, advance, due_at
from expunge.tickets.tables import TicketEventRow, TicketRow


@dataclass(frozen=True)
class Ticket:
    """A ticket as anyone may see it: the subject id stays in the database.

    Args:
        ticket_id: ``t-`` and 12 hexadecimal digits.
        state: Where it stands.
        regime: gdpr or ccpa.
        received_at: UTC.
        due_at: UTC.
        pseudonym: Of the subject.
        batch_id: Of the batch it is in.
        reason: Of its last step, if one was given.
        certificate_id: Once certified.
        closed_at: UTC.
    """

    ticket_id: str
    state: str
    regime: str
    received_at: datetime
    due_at: datetime
    pseudonym: str
    batch_id: str | None
    reason: str
    certificate_id: str | None
    closed_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict, times in ISO 8601.
        """
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class Submission:
    """Outcome of a submission.

    Args:
        ticket: New, or the one there is already.
        created: Whether it is new.
    """

    ticket: Ticket
    created: bool


class TicketStore:
    """All tickets of a workspace.

    Args:
        database: Where.
        pseudonymiser: For the subjects.
    """

    def __init__(self, database: Database, pseudonymiser: Pseudonymiser) -> None:
        """Keep both."""
        self._database = database
        self._pseudonymiser = pseudonymiser

    def submit(
        self,
        subject_id: str,
        *,
        regime: str = "gdpr",
        idempotency_key: str | None = None,
        received_at: datetime | None = None,
    ) -> Submission:
        """File a ticket; filing it twice does no harm.

        Args:
            subject_id: The person.
            regime: gdpr or ccpa.
            idempotency_key: The same key gives the same ticket.
            received_at: When the request came, with its time zone; now by default.

        Returns:
            The new ticket, or the open one of the same subject or key.

        Raises:
            TicketError: If the key belongs to another subject's ticket, the subject is erased already, or
                anything given is not valid.
        """
        with self._database.transaction() as session:
            return self._submit(session, subject_id, regime, idempotency_key, received_at)

    def submit_all(self, rows: Iterable[tuple[str, str, str | None]]) -> list[Submission]:
        """File several tickets, all or none.

        Args:
            rows: ``(subject_id, regime, idempotency_key)``.

        Returns:
            Outcomes in order.
        """
        with self._database.transaction() as session:
            return [self._submit(session, subject, regime, key, None) for subject, regime, key in rows]

    def _submit(
        self, session: Session, subject_id: str, regime: str, key: str | None, received_at: datetime | None
    ) -> Submission:
        check_subject(subject_id)
        if received_at is not None and received_at.tzinfo is None:
            raise TicketError("the time of receipt has no time zone", expected="one in UTC", remedy="add it")
        now = (received_at or datetime.now(UTC)).astimezone(UTC)
        due = due_at(now, regime)
        pseudonym = self._pseudonymiser.of(subject_id)
        key = self._pseudonymiser.of_request(key) if key is not None else None
        if key is not None:
            same = session.scalar(select(TicketRow).where(TicketRow.idempotency_key == key))
            if same is not None and same.pseudonym != pseudonym:
                raise TicketConflictError(
                    "the idempotency key belongs to another request",
                    got=same.ticket_id,
                    remedy="use a new key",
                )
            if same is not None:
                return Submission(_ticket(same), False)
        _refuse_erased(session, pseudonym)
        for row in session.scalars(select(TicketRow).where(TicketRow.pseudonym == pseudonym)):
            if row.state not in FINAL:
                return Submission(_ticket(row), False)
        row = TicketRow(
            ticket_id=f"t-{secrets.token_hex(6)}",
            subject_id=subject_id,
            pseudonym=pseudonym,
            state=TicketState.RECEIVED,
            regime=regime,
            received_at=now,
            due_at=due,
            idempotency_key=key,
            reason="",
        )
        session.add(row)
        session.flush()
        session.add(TicketEventRow(ticket_id=row.ticket_id, at=now, target=TicketState.RECEIVED))
        move(session, row, TicketState.VERIFIED, "identity vouched for at intake")
        return Submission(_ticket(row), True)

    def require_not_erased(self, subject_id: str) -> None:
        """Refuse a subject whose ticket is closed.

        Args:
            subject_id: The person.

        Raises:
            TicketError: If they are erased already.
        """
        check_subject(subject_id)
        with self._database.transaction() as session:
            _refuse_erased(session, self._pseudonymiser.of(subject_id))

    def get(self, ticket_id: str) -> Ticket:
        """One ticket.

        Args:
            ticket_id: Its id.

        Returns:
            The ticket.

        Raises:
            TicketError: If there is none.
        """
        with self._database.transaction() as session:
            return _ticket(_row(session, ticket_id))

    def select(
        self, *, states: Sequence[str] | None = None, due_before: datetime | None = None
    ) -> list[Ticket]:
        """Tickets, soonest deadline first.

        Args:
            states: Only these.
            due_before: Only open ones due by then.

        Returns:
            Tickets.
        """
        query = select(TicketRow).order_by(TicketRow.due_at, TicketRow.received_at)
        if states:
            query = query.where(TicketRow.state.in_(states))
        if due_before is not None:
            query = query.where(
                TicketRow.due_at <= due_before, TicketRow.state.not_in([str(s) for s in FINAL])
            )
        with self._database.transaction() as session:
            return [_ticket(row) for row in session.scalars(query)]

    def history(self, ticket_id: str) -> list[dict[str, Any]]:
        """Steps of a ticket.

        Args:
            ticket_id: Its id.

        Returns:
            ``{at, from, to, reason}`` in order.
        """
        with self._database.transaction() as session:
            _row(session, ticket_id)
            query = (
                select(TicketEventRow)
                .where(TicketEventRow.ticket_id == ticket_id)
                .order_by(TicketEventRow.number)
            )
            return [
                {"at": e.at.isoformat(), "from": e.source, "to": e.target, "reason": e.reason}
                for e in session.scalars(query)
            ]

    def hold(self, ticket_id: str, reason: str) -> Ticket:
        """Put a ticket on hold.

        Args:
            ticket_id: Its id.
            reason: Why; required.

        Returns:
            The ticket.
        """
        return self._step(ticket_id, TicketState.ON_HOLD, reason)

    def release(self, ticket_id: str) -> Ticket:
        """Release a held ticket to where it was; its deadline moves by the time it was held.

        Args:
            ticket_id: Its id.

        Returns:
            The ticket.
        """
        with self._database.transaction() as session:
            row = _row(session, ticket_id)
            if row.state != TicketState.ON_HOLD or row.state_before is None:
                raise TicketError(
                    "the ticket is not on hold", expected="on_hold", got=row.state, remedy="nothing to do"
                )
            held = (
                select(TicketEventRow.at)
                .where(TicketEventRow.ticket_id == ticket_id, TicketEventRow.target == TicketState.ON_HOLD)
                .order_by(TicketEventRow.number.desc())
                .limit(1)
            )
            row.due_at += datetime.now(UTC) - session.scalars(held).one()
            move(session, row, TicketState(row.state_before), "released from hold")
            return _ticket(row)

    def withdraw(self, ticket_id: str, reason: str) -> Ticket:
        """Withdraw a ticket; its subject id is erased.

        Args:
            ticket_id: Its id.
            reason: Why; required.

        Returns:
            The ticket.
        """
        return self._step(ticket_id, TicketState.WITHDRAWN, reason)

    def reject(self, ticket_id: str, reason: str) -> Ticket:
        """Reject a ticket; its subject id is erased.

        Args:
            ticket_id: Its id.
            reason: Why; required.

        Returns:
            The ticket.
        """
        return self._step(ticket_id, TicketState.REJECTED, reason)

    def _step(self, ticket_id: str, target: TicketState, reason: str) -> Ticket:
        with self._database.transaction() as session:
            row = _row(session, ticket_id)
            check_reason(reason, row.subject_id)
            move(session, row, target, reason)
            ticket = _ticket(row)
        if target in FINAL:
            self._database.compact()
        return ticket

    def subject_ids(self, batch_id: str) -> list[str]:
        """The people of a batch: for removal and the residue scan in this process only.

        Args:
            batch_id: Of the batch.

        Returns:
            Subject ids that are not erased yet.
        """
        with self._database.transaction() as session:
            query = select(TicketRow.subject_id).where(
                TicketRow.batch_id == batch_id, TicketRow.subject_id.is_not(None)
            )
            return [subject for subject in session.scalars(query) if subject is not None]

    def subject_of(self, ticket_id: str) -> str | None:
        """The person of one ticket: for a plan in this process only.

        Args:
            ticket_id: Of the ticket.

        Returns:
            The subject id, or None once it is erased.
        """
        with self._database.transaction() as session:
            return _row(session, ticket_id).subject_id

    def due_for_batch(self) -> list[Ticket]:
        """Tickets that the next batch may take, soonest deadline first.

        Returns:
            Verified tickets.
        """
        return self.select(states=[TicketState.VERIFIED])


def move(session: Session, row: TicketRow, target: TicketState, reason: str = "") -> None:
    """Take one step of a ticket inside a transaction, and record it.

    Args:
        session: The transaction.
        row: The ticket.
        target: Where it goes.
        reason: Why.
    """
    source = TicketState(row.state)
    advance(source, target, before=TicketState(row.state_before) if row.state_before else None)
    row.state_before = source if target in (TicketState.ON_HOLD, TicketState.FAILED) else None
    row.state, row.reason = target, reason
    now = datetime.now(UTC)
    if target in FINAL:
        row.subject_id = None
        row.closed_at = now
    session.add(TicketEventRow(ticket_id=row.ticket_id, at=now, source=source, target=target, reason=reason))


def _refuse_erased(session: Session, pseudonym: str) -> None:
    query = select(TicketRow).where(TicketRow.pseudonym == pseudonym, TicketRow.state == TicketState.CLOSED)
    closed = session.scalars(query).first()
    if closed is not None:
        raise TicketConflictError(
            "this person is erased already", got=f"ticket {closed.ticket_id}", remedy="there is nothing to do"
        )


def _row(session: Session, ticket_id: str) -> TicketRow:
    row = session.get(TicketRow, ticket_id)
    if row is None:
        raise UnknownTicketError(
            "no such ticket",
            expected="a ticket id such as t-0123456789ab",
            got=ticket_id,
            remedy="see `expunge ticket list`",
        )
    return row


def _ticket(row: TicketRow) -> Ticket:
    return Ticket(
        ticket_id=row.ticket_id,
        state=str(row.state),
        regime=row.regime,
        received_at=row.received_at,
        due_at=row.due_at,
        pseudonym=row.pseudonym,
        batch_id=row.batch_id,
        reason=row.reason,
        certificate_id=row.certificate_id,
        closed_at=row.closed_at,
    )
