"""Requests that came with an idempotency key: the same key with another content is refused, for ever."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime
from expunge.errors import TicketConflictError
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.tables import TicketRow


class RequestRow(Base):
    """One idempotency key (as a keyed code), what it was used for, and the ticket that came of it."""

    __tablename__ = "intake_requests"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    pseudonym: Mapped[str] = mapped_column(String(60))
    regime: Mapped[str] = mapped_column(String(10))
    ticket_id: Mapped[str | None] = mapped_column(ForeignKey("tickets.ticket_id"))


class RequestDateRow(Base):
    """The date of receipt that came with a keyed request, if one did."""

    __tablename__ = "intake_request_dates"

    key: Mapped[str] = mapped_column(ForeignKey("intake_requests.key"), primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcTime)


@dataclass(frozen=True)
class Request:
    """One request, without the person.

    Args:
        keys: Keyed codes of the idempotency key, one a living key epoch, the current one's first.
        pseudonyms: Of the subject, likewise.
        regime: Name of a law.
        received_at: As the caller gave it.
    """

    keys: tuple[str, ...]
    pseudonyms: tuple[str, ...]
    regime: str
    received_at: datetime | None = None


class RequestStore:
    """All keyed requests of a workspace.

    A ticket remembers only the key that made it. A key that met a ticket already open is remembered here, so that it
    cannot name somebody else later.

    Args:
        database: Where.
        pseudonymiser: For subjects and keys.
    """

    def __init__(self, database: Database, pseudonymiser: Pseudonymiser) -> None:
        """Keep both."""
        self._database = database
        self._pseudonymiser = pseudonymiser

    def request(
        self, idempotency_key: str, subject_id: str, regime: str, received_at: datetime | None = None
    ) -> Request:
        """What is kept of a request.

        Args:
            idempotency_key: As the caller gave it.
            subject_id: The person, checked already.
            regime: Name of a law.
            received_at: As the caller gave it.

        Returns:
            The request.
        """
        maker = self._pseudonymiser
        return Request(maker.every_request(idempotency_key), maker.every(subject_id), regime, received_at)

    def ticket_of(self, request: Request) -> str | None:
        """The ticket of a request that was answered before.

        Args:
            request: It.

        Returns:
            The ticket's id, or None.

        Raises:
            TicketConflictError: If the key was used for another request.
        """
        with self._database.transaction() as session:
            row = _same(session, request)
            return row.ticket_id if row else None

    def reserve(self, request: Request) -> None:
        """Bind a key to its request, before a ticket is filed: of two at once with one key, one is refused.

        Args:
            request: It.

        Raises:
            TicketConflictError: If the key was used for another request.
        """
        with self._database.transaction() as session:
            if _same(session, request) is None:
                key, pseudonym = request.keys[0], request.pseudonyms[0]
                session.add(RequestRow(key=key, pseudonym=pseudonym, regime=request.regime))
                if request.received_at is not None:
                    session.flush()
                    session.add(RequestDateRow(key=key, received_at=request.received_at))

    def answer(self, request: Request, ticket_id: str) -> None:
        """Record the ticket of a reserved request.

        Args:
            request: It.
            ticket_id: What its caller is told.

        Raises:
            TicketConflictError: If the key was used for another request.
        """
        with self._database.transaction() as session:
            row = _same(session, request)
            if row is not None:
                row.ticket_id = ticket_id


def _same(session: Session, request: Request) -> RequestRow | None:
    row = session.scalar(select(RequestRow).where(RequestRow.key.in_(request.keys)))
    # The command line's keys are with their tickets only.
    query = select(TicketRow.pseudonym).where(TicketRow.idempotency_key.in_(request.keys))
    filed_for = session.scalar(query) or request.pseudonyms[0]
    dated = session.get(RequestDateRow, row.key) if row is not None else None
    other = row is not None and (
        row.pseudonym not in request.pseudonyms
        or row.regime != request.regime
        or (dated.received_at if dated is not None else None) != request.received_at
    )
    if other or filed_for not in request.pseudonyms:
        raise TicketConflictError(
            "the idempotency key belongs to another request",
            expected="the body that this key came with first",
            got="another one",
            remedy="use a new key",
        )
    return row
