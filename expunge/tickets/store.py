"""The ticket store: SQLAlchemy, the same on SQLite and PostgreSQL."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, insert, select, tuple_
from sqlalchemy.orm import Session

from expunge.database import Database, plain
from expunge.errors import TicketConflictError, TicketError, UnknownTicketError
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.holds import put_on_hold
from expunge.tickets.intake import check_reason, check_subject
from expunge.tickets.lifecycle import FINAL, OPEN, TicketState, due_at
from expunge.tickets.steps import held_since, move
from expunge.tickets.tables import TicketEventRow, TicketRow

_MOST = 10_000  # in one statement: SQLite takes 32,766 values, PostgreSQL 65,535


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
        return plain(self)


# Whole rows would cost more than the query: they are tracked for changes, and hold the person's id.
_SEEN = tuple(getattr(TicketRow, field.name) for field in fields(Ticket))


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
        present: bool = False,
    ) -> Submission:
        """File a ticket; filing it twice does no harm.

        Args:
            subject_id: The person.
            regime: gdpr or ccpa.
            idempotency_key: The same key gives the same ticket.
            received_at: When the request came, with its time zone; now by default.
            present: Whether they are known to be in the dataset: whoever was erased, and is back, is erased again.

        Returns:
            The new ticket, or the open one of the same subject or key.

        Raises:
            TicketError: If the key belongs to another subject's ticket, the subject is erased already, or
                anything given is not valid.
        """
        return self._file([(subject_id, regime, idempotency_key)], received_at, present)[0]

    def submit_all(
        self,
        rows: Iterable[tuple[str, str, str | None]],
        *,
        present: bool = False,
        beside: str | None = None,
    ) -> list[Submission]:
        """File several tickets, all or none.

        Args:
            rows: ``(subject_id, regime, idempotency_key)``.
            present: As for :meth:`submit`, of all of them.
            beside: A batch that has removed these people and left some of their rows: its open tickets do not count.

        Returns:
            Outcomes in order.
        """
        return self._file(rows, present=present, beside=beside)

    def _file(
        self,
        rows: Iterable[tuple[str, str, str | None]],
        received_at: datetime | None = None,
        present: bool = False,
        beside: str | None = None,
    ) -> list[Submission]:
        if received_at is not None and received_at.tzinfo is None:
            raise TicketError("the time of receipt has no time zone", expected="one in UTC", remedy="add it")
        maker = self._pseudonymiser
        one_form = maker.identity.canonical
        rows = [(one_form(subject_id), regime, key) for subject_id, regime, key in rows]
        asked, done = [(*row, self._new(*row[:2], received_at)) for row in rows], list[Submission]()
        filed, steps = list[dict[str, Any]](), list[dict[str, Any]]()
        with self._database.transaction() as session:
            codes = {key: maker.every_request(key) for _, _, key, _ in asked if key is not None}
            names = {subject_id: maker.every(subject_id) for subject_id, *_ in asked}
            known = _among(session, TicketRow.idempotency_key, codes)
            people = _among(session, TicketRow.pseudonym, names)
            for subject_id, _, given, new in asked:
                key = None if given is None else codes[given][0]
                same = known[given][0] if given is not None and known[given] else None
                if same is not None and same.pseudonym not in names[subject_id]:
                    raise TicketConflictError(
                        "the idempotency key belongs to another request",
                        got=same.ticket_id,
                        remedy="use a new key",
                    )
                there = people[subject_id]
                if same is None:
                    waiting = (ticket for ticket in there if beside is None or ticket.batch_id != beside)
                    same = next((ticket for ticket in waiting if ticket.state in OPEN), None)
                    if same is None and not present:
                        _refuse_erased(there)
                done.append(Submission(same or new, same is None))
                if same is None:
                    there.append(new)
                    if given is not None:
                        known[given] = [new]
                    filed.append({"subject_id": subject_id, "idempotency_key": key, **vars(new)})
                    step = {"ticket_id": new.ticket_id, "at": new.received_at, "source": None, "reason": ""}
                    steps.append({**step, "target": TicketState.RECEIVED})
                    verified = {"at": datetime.now(UTC), "target": new.state, "reason": new.reason}
                    steps.append({**step, "source": TicketState.RECEIVED, **verified})
            if filed:
                connection = (
                    session.connection()
                )  # the session would send rows apart that have a None elsewhere
                connection.execute(insert(TicketRow), filed)
                connection.execute(insert(TicketEventRow), steps)
        return done

    def _new(self, subject_id: str, regime: str, received_at: datetime | None) -> Ticket:
        """The ticket that there would be."""
        check_subject(subject_id)
        received_at = (received_at or datetime.now(UTC)).astimezone(UTC)
        return Ticket(
            ticket_id=f"t-{secrets.token_hex(6)}",
            state=str(TicketState.VERIFIED),
            regime=regime,
            received_at=received_at,
            due_at=due_at(received_at, regime),
            pseudonym=self._pseudonymiser.of(subject_id),
            batch_id=None,
            reason="identity vouched for at intake",
            certificate_id=None,
            closed_at=None,
        )

    def require_not_erased(self, subject_id: str) -> None:
        """Refuse a subject whose ticket is closed.

        Args:
            subject_id: The person.

        Raises:
            TicketError: If they are erased already.
        """
        check_subject(subject_id)
        with self._database.transaction() as session:
            _refuse_erased(_find(session, TicketRow.pseudonym.in_(self._pseudonymiser.every(subject_id))))

    def open_for(self, subject_id: str) -> Ticket | None:
        """The open ticket of a person.

        Args:
            subject_id: The person.

        Returns:
            The ticket, or None if there is none, or this can be nobody's id.
        """
        with suppress(TicketError):
            check_subject(subject_id)
            names = self._pseudonymiser.every(subject_id)
            criteria = (TicketRow.pseudonym.in_(names), TicketRow.state.in_(OPEN))
            with self._database.transaction() as session:
                return next(iter(_find(session, *criteria)), None)
        return None

    def of_subject(self, subject_id: str) -> list[Ticket]:
        """Every ticket of a person, whatever became of it.

        Args:
            subject_id: The person.

        Returns:
            Tickets, soonest deadline first; empty where this can be nobody's id.
        """
        with suppress(TicketError):
            check_subject(subject_id)
            names = self._pseudonymiser.every(subject_id)
            with self._database.transaction() as session:
                return _find(session, TicketRow.pseudonym.in_(names))
        return []

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
            _row(session, ticket_id)
            return _find(session, TicketRow.ticket_id == ticket_id)[0]

    def select(
        self,
        *,
        states: Sequence[str] | None = None,
        due_before: datetime | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> list[Ticket]:
        """Tickets, soonest deadline first, of equal deadlines by id.

        Args:
            states: Only these.
            due_before: Only open ones due by then.
            after: Only those that come after this deadline and id.
            limit: At most so many.

        Returns:
            Tickets.
        """
        criteria: list[ColumnElement[bool]] = [TicketRow.state.in_(states)] if states else []
        if due_before is not None:
            criteria += [TicketRow.due_at <= due_before, TicketRow.state.in_(OPEN)]
        if after is not None:
            criteria.append(tuple_(TicketRow.due_at, TicketRow.ticket_id) > after)
        with self._database.transaction() as session:
            return _find(session, *criteria, limit=limit)

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
        """Put a ticket on hold, at any state before its purge has begun.

        Args:
            ticket_id: Its id.
            reason: Why; required.

        Returns:
            The ticket; one whose rows are all there yet has left its batch, unless it was the only one.
        """
        with self._database.transaction() as session:
            row = _row(session, ticket_id)
            check_reason(reason, row.subject_id)
            put_on_hold(session, row, reason)
            return _find(session, TicketRow.ticket_id == ticket_id)[0]

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
            row.due_at += datetime.now(UTC) - held_since(session, ticket_id)
            chosen = TicketRow.ticket_id == ticket_id
            move(session, chosen, TicketState(row.state_before), "released from hold")
            return _find(session, chosen)[0]

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
            check_reason(reason, _row(session, ticket_id).subject_id)
            chosen = TicketRow.ticket_id == ticket_id
            move(session, chosen, target, reason)
            ticket = _find(session, chosen)[0]
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

    def subjects_of(self, ticket_ids: Sequence[str]) -> list[str]:
        """The people of some tickets: for a plan in this process only.

        Args:
            ticket_ids: Of the tickets.

        Returns:
            Subject ids that are not erased yet.
        """
        with self._database.transaction() as session:
            subjects = (
                subject
                for part in _parts(ticket_ids)
                for subject in session.scalars(
                    select(TicketRow.subject_id).where(TicketRow.ticket_id.in_(part))
                )
            )
            return [subject for subject in subjects if subject is not None]

    def open_subjects(self, *, besides: str) -> list[str]:
        """The people of all tickets that are not erased yet, but for those of one batch: for this process only.

        Args:
            besides: The batch.

        Returns:
            Subject ids.
        """
        with self._database.transaction() as session:
            query = select(TicketRow.subject_id).where(
                TicketRow.subject_id.is_not(None), TicketRow.batch_id.is_distinct_from(besides)
            )
            return [subject for subject in session.scalars(query) if subject is not None]

    def due_for_batch(self) -> list[Ticket]:
        """Tickets that the next batch may take, soonest deadline first.

        Returns:
            Verified tickets.
        """
        return self.select(states=[TicketState.VERIFIED])


def _refuse_erased(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        if ticket.state == TicketState.CLOSED:
            raise TicketConflictError(
                "this person is erased already",
                got=f"ticket {ticket.ticket_id}",
                remedy="there is nothing to do",
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


def _find(session: Session, *criteria: ColumnElement[bool], limit: int | None = None) -> list[Ticket]:
    query = select(*_SEEN).where(*criteria).order_by(TicketRow.due_at, TicketRow.ticket_id).limit(limit)
    return [Ticket(*row) for row in session.execute(query)]


def _among(session: Session, column: Any, codes: Mapping[str, tuple[str, ...]]) -> dict[str, list[Ticket]]:
    """Tickets whose column has one of the codes of a person or key, by that person or key."""
    found: dict[str, list[Ticket]] = {given: [] for given in codes}
    owner = {code: given for given, every in codes.items() for code in every}
    for part in _parts(sorted(owner)):
        for code, *seen in session.execute(select(column, *_SEEN).where(column.in_(part))):
            found[owner[code]].append(Ticket(*seen))
    return found


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + _MOST] for start in range(0, len(values), _MOST))
