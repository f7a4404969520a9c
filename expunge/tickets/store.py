"""The ticket store: SQLAlchemy, the same on SQLite and PostgreSQL."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, insert, or_, select, tuple_
from sqlalchemy.orm import Session

from expunge.database import Database, plain
from expunge.errors import TicketConflictError, TicketError, UnknownTicketError
from expunge.pseudonyms import Pseudonymiser
from expunge.regimes import LAWS, Regime
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
        regime: Name of a law.
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
        laws: Their periods to answer, by name.
    """

    def __init__(
        self, database: Database, pseudonymiser: Pseudonymiser, laws: Mapping[str, Regime] = LAWS
    ) -> None:
        """Keep all three."""
        self._database = database
        self._pseudonymiser = pseudonymiser
        self._laws = laws

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
            regime: Name of a law.
            idempotency_key: The same key gives the same ticket.
            received_at: When the request came, with its time zone; now by default.
            present: Whether they are known to be in the dataset: whoever was erased, and is back, is erased again.

        Returns:
            The new ticket, or the open one of the same subject or key; where this request came before that one, its
            deadline counts from this receipt on.

        Raises:
            TicketError: If the key belongs to another subject's ticket, the subject is erased already, or
                anything given is not valid.
        """
        return self._file([(subject_id, regime, idempotency_key, received_at)], present)[0]

    def submit_all(
        self,
        rows: Iterable[tuple[str, str, str | None] | tuple[str, str, str | None, datetime | None]],
        *,
        present: bool = False,
        beside: str | None = None,
    ) -> list[Submission]:
        """File several tickets, all or none.

        Args:
            rows: ``(subject_id, regime, idempotency_key)``, and when the request came, if that is not now.
            present: As for :meth:`submit`, of all of them.
            beside: A batch that has removed these people and left some of their rows: its open tickets do not count.

        Returns:
            Outcomes in order.
        """
        return self._file(
            ((row[0], row[1], row[2], row[3] if len(row) == 4 else None) for row in rows), present, beside
        )

    def _file(
        self,
        rows: Iterable[tuple[str, str, str | None, datetime | None]],
        present: bool = False,
        beside: str | None = None,
    ) -> list[Submission]:
        maker = self._pseudonymiser
        one_form = maker.identity.canonical
        asked, done = list[tuple[str, str | None, datetime | None, Ticket]](), list[Submission]()
        for subject_id, regime, key, received_at in rows:
            if received_at is not None and received_at.tzinfo is None:
                raise TicketError(
                    "the time of receipt has no time zone", expected="one in UTC", remedy="add it"
                )
            one = one_form(subject_id)
            asked.append((one, key, received_at, self._new(one, regime, received_at)))
        filed, steps = list[dict[str, Any]](), list[dict[str, Any]]()
        with self._database.transaction() as session:
            codes = {key: maker.every_request(key) for _, key, _, _ in asked if key is not None}
            names = {subject_id: maker.every(subject_id) for subject_id, *_ in asked}
            known = _among(session, TicketRow.idempotency_key, codes)
            people = _among(session, TicketRow.pseudonym, names)
            for subject_id, given, received_at, new in asked:
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
                if same is not None and received_at is not None and received_at < same.received_at:
                    same = self._received_earlier(session, same, received_at)
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
            due_at=due_at(received_at, regime, laws=self._laws),
            pseudonym=self._pseudonymiser.of(subject_id),
            batch_id=None,
            reason="identity vouched for at intake",
            certificate_id=None,
            closed_at=None,
        )

    def _received_earlier(self, session: Session, ticket: Ticket, received_at: datetime) -> Ticket:
        """A request of the same person that came before the one that was filed: the deadline counts from it."""
        row = session.get(TicketRow, ticket.ticket_id)
        if row is None or row.state in FINAL:  # filed in this very transaction; or answered already
            return ticket
        earlier = due_at(received_at, row.regime, laws=self._laws)
        row.due_at += earlier - due_at(
            row.received_at, row.regime, laws=self._laws
        )  # an extension, a hold stay
        row.received_at = received_at
        reason = "a request of this person came earlier: the deadline moved"
        session.add(_remark(row, reason))
        session.flush()
        return _find(session, TicketRow.ticket_id == ticket.ticket_id)[0]

    def require_regime(self, regime: str) -> None:
        """Refuse a law that nobody named.

        Args:
            regime: Its name.

        Raises:
            TicketError: If it is unknown.
        """
        due_at(datetime.now(UTC), regime, laws=self._laws)

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
        search: str | None = None,
        limit: int | None = None,
    ) -> list[Ticket]:
        """Tickets, soonest deadline first, of equal deadlines by id.

        Args:
            states: Only these.
            due_before: Only open ones due by then.
            after: Only those that come after this deadline and id.
            search: Only those whose id or pseudonym has this in it.
            limit: At most so many.

        Returns:
            Tickets.
        """
        criteria: list[ColumnElement[bool]] = [TicketRow.state.in_(states)] if states else []
        if due_before is not None:
            criteria += [TicketRow.due_at <= due_before, TicketRow.state.in_(OPEN)]
        if after is not None:
            criteria.append(tuple_(TicketRow.due_at, TicketRow.ticket_id) > after)
        if search is not None:
            columns = (TicketRow.ticket_id, TicketRow.pseudonym)
            criteria.append(or_(*(column.contains(search.strip(), autoescape=True) for column in columns)))
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
        """Put a ticket on hold; see :meth:`hold_all`."""
        return self.hold_all([ticket_id], reason)[0]

    def release(self, ticket_id: str) -> Ticket:
        """Release a held ticket; see :meth:`release_all`."""
        return self.release_all([ticket_id])[0]

    def withdraw(self, ticket_id: str, reason: str) -> Ticket:
        """Withdraw a ticket; its subject id is erased."""
        return self.end_all([ticket_id], TicketState.WITHDRAWN, reason)[0]

    def reject(self, ticket_id: str, reason: str) -> Ticket:
        """Reject a ticket; its subject id is erased."""
        return self.end_all([ticket_id], TicketState.REJECTED, reason)[0]

    def hold_all(self, ticket_ids: Sequence[str], reason: str) -> list[Ticket]:
        """Put tickets on hold, at any state before their purge has begun: all of them or none.

        Args:
            ticket_ids: Their ids.
            reason: Why; required.

        Returns:
            The tickets; one whose rows are all there yet has left its batch, unless it was the only one.
        """

        def act(session: Session, row: TicketRow) -> None:
            check_reason(reason, row.subject_id)
            put_on_hold(session, row, reason)

        return self._each(ticket_ids, act)

    def release_all(self, ticket_ids: Sequence[str]) -> list[Ticket]:
        """Release held tickets to where they were, all or none; a deadline moves by the time its ticket was held.

        Args:
            ticket_ids: Their ids.

        Returns:
            The tickets.
        """

        def act(session: Session, row: TicketRow) -> None:
            if row.state != TicketState.ON_HOLD or row.state_before is None:
                raise TicketError(
                    "the ticket is not on hold", expected="on_hold", got=row.state, remedy="nothing to do"
                )
            row.due_at += datetime.now(UTC) - held_since(session, row.ticket_id)
            chosen = TicketRow.ticket_id == row.ticket_id
            move(session, chosen, TicketState(row.state_before), "released from hold")

        return self._each(ticket_ids, act)

    def end_all(self, ticket_ids: Sequence[str], target: TicketState, reason: str) -> list[Ticket]:
        """Withdraw or reject tickets, all or none; their subject ids are erased.

        Args:
            ticket_ids: Their ids.
            target: Withdrawn or rejected.
            reason: Why; required.

        Returns:
            The tickets.
        """

        def act(session: Session, row: TicketRow) -> None:
            check_reason(reason, row.subject_id)
            move(session, TicketRow.ticket_id == row.ticket_id, target, reason)

        done = self._each(ticket_ids, act)
        self._database.compact()
        return done

    def note(self, ticket_id: str, text: str) -> None:
        """Add a note to the history of an open ticket.

        Args:
            ticket_id: Its id.
            text: Anything but the person's id. Of a ticket that is closed nobody knows that id any more.

        Raises:
            TicketError: If the ticket is closed, or the text will not do.
        """
        with self._database.transaction() as session:
            row = _row(session, ticket_id)
            if row.state in FINAL:
                raise TicketError(
                    "a note may be added to an open ticket only",
                    expected="an open ticket",
                    got=row.state,
                    remedy="keep it elsewhere: nobody can check any more that it does not name the person",
                )
            check_reason(text, row.subject_id)
            session.add(_remark(row, f"note: {text.strip()}"))

    def _each(self, ticket_ids: Sequence[str], act: Callable[[Session, TicketRow], None]) -> list[Ticket]:
        """Do the same to tickets in one transaction, and name the one that it cannot be done to."""
        names = list(dict.fromkeys(ticket_ids))
        with self._database.transaction() as session:
            for ticket_id in names:
                row = _row(session, ticket_id)
                try:
                    act(session, row)
                except TicketError as error:
                    if len(names) == 1:
                        raise
                    raise TicketError(
                        f"{ticket_id}: {error.message}",
                        expected=error.expected,
                        got=error.got,
                        remedy=f"nothing was changed for any of the {len(names)}",
                    ) from error
            return [_find(session, TicketRow.ticket_id == one)[0] for one in names]

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


def _remark(row: TicketRow, text: str) -> TicketEventRow:
    """A step of a ticket that stays where it is."""
    now = datetime.now(UTC)
    return TicketEventRow(ticket_id=row.ticket_id, at=now, source=row.state, target=row.state, reason=text)


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
