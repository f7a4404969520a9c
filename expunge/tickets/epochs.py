"""Key epochs: a new pseudonym key from time to time, and the end of an old one when its retention is over.

Whoever was removed is recognised through the key that their pseudonym was made with. Without it the pseudonym stays on
the list and on certificates, and says nothing to anybody any more: that is how the suppression list forgets.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime, plain
from expunge.errors import InputError, RefusedError, WorkspaceError
from expunge.pseudonyms import SPELLING, create_key, destroy_key, key_epochs, key_path
from expunge.tickets.lifecycle import OPEN, TicketState
from expunge.tickets.suppression import SuppressedRow
from expunge.tickets.tables import TicketRow

MADE, DESTROYED = "made", "destroyed"


class KeyEventRow(Base):
    """One event in the life of a key epoch; the first epoch is made with the workspace, without one."""

    __tablename__ = "key_events"

    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event: Mapped[str] = mapped_column(String(20), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcTime)


@dataclass(frozen=True)
class Epoch:
    """A key epoch, and who depends on it.

    Args:
        epoch: Its number.
        state: current, living or destroyed.
        made_at: UTC; None for the first one.
        superseded_at: When the next one was made.
        destroyed_at: UTC.
        suppressed: People on the suppression list under it.
        last_added_at: When the last of them was added.
        open_tickets: That are under it.
        closed_tickets: Likewise: people who can be told apart as erased already.
        past_retention: Whether policy keeps it no longer.
    """

    epoch: int
    state: str
    made_at: datetime | None
    superseded_at: datetime | None
    destroyed_at: datetime | None
    suppressed: int
    last_added_at: datetime | None
    open_tickets: int
    closed_tickets: int
    past_retention: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict, times in ISO 8601.
        """
        return plain(self)


class KeyEpochs:
    """The key epochs of a workspace.

    Args:
        database: Of the tickets.
        folder: Of the keys.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        """Keep both."""
        self._database = database
        self._folder = folder

    def require(self) -> None:
        """Refuse to work without a key that was not destroyed: the removed would come back unseen.

        One whose destruction was interrupted is destroyed.

        Raises:
            WorkspaceError: If one is missing.
        """
        with self._database.transaction() as session:
            events = _events(session)
        made = {1, *(epoch for epoch, event in events if event == MADE)}
        destroyed = {epoch for epoch, event in events if event == DESTROYED}
        for epoch in destroyed:
            if any(self._folder.glob(f"{key_path(self._folder, epoch).name}*")):
                destroy_key(key_path(self._folder, epoch))
        if lost := sorted(made - destroyed - set(key_epochs(self._folder))):
            raise WorkspaceError(
                "a pseudonym key is missing, and whoever was removed under it cannot be recognised",
                expected="every key that was not destroyed",
                got=f"no {', '.join(key_path(self._folder, epoch).name for epoch in lost)}",
                remedy="restore it to .expunge/keys from your backup",
            )

    def rotate(self) -> int:
        """Begin a new epoch; one whose beginning was interrupted is completed instead.

        Returns:
            Its number.
        """
        newest = key_epochs(self._folder)[-1]
        with self._database.transaction() as session:
            events = _events(session)
        if newest == 1 or (newest, MADE) in events:
            newest += 1
            create_key(key_path(self._folder, newest))
        with self._database.transaction() as session:
            session.merge(KeyEventRow(epoch=newest, event=MADE, at=datetime.now(UTC)))
        return newest

    def every(self, retention_days: int | None) -> list[Epoch]:
        """All epochs, oldest first.

        Args:
            retention_days: Of policy; None keeps for ever.

        Returns:
            The epochs.
        """
        living = key_epochs(self._folder)
        with self._database.transaction() as session:
            events = _events(session)
            numbers = sorted({*living, *(epoch for epoch, _ in events)})
            return [_epoch(session, number, living, events, retention_days) for number in numbers]

    def destroy(self, number: int) -> None:
        """Destroy an old epoch's key; called again it finishes what was interrupted.

        Args:
            number: Of the epoch.

        Raises:
            InputError: If there is no such epoch.
            RefusedError: If it is the current one, or an open ticket needs it.
            WorkspaceError: If the key is still there afterwards.
        """
        with self._database.transaction() as session:
            events, living = _events(session), key_epochs(self._folder)
            if (number, DESTROYED) not in events:
                _require_destroyable(session, number, living)
                session.add(KeyEventRow(epoch=number, event=DESTROYED, at=datetime.now(UTC)))
        destroy_key(key_path(self._folder, number))


def _require_destroyable(session: Session, number: int, living: Collection[int]) -> None:
    if number not in living:
        raise InputError(
            "no such key epoch",
            expected=", ".join(map(str, sorted(living))),
            got=str(number),
            remedy="see `expunge suppression list`",
        )
    if number == max(living):
        raise RefusedError(
            "the current key epoch cannot be destroyed",
            got=str(number),
            remedy="run `expunge suppression rotate` first; nothing was changed",
        )
    if waiting := _count(session, _under(number), TicketRow.state.in_(OPEN)):
        raise RefusedError(
            "open tickets need this key",
            got=f"{waiting} of epoch {number}",
            remedy="close them first with `expunge run`; nothing was changed",
        )


def _events(session: Session) -> dict[tuple[int, str], datetime]:
    return {(row.epoch, row.event): row.at for row in session.scalars(select(KeyEventRow))}


def _epoch(
    session: Session,
    number: int,
    living: Collection[int],
    events: dict[tuple[int, str], datetime],
    retention_days: int | None,
) -> Epoch:
    query = select(func.count(), func.max(SuppressedRow.added_at)).where(
        SuppressedRow.epoch == number, SuppressedRow.pseudonym.not_like(f"{SPELLING}%")
    )
    people, last = session.execute(query).one()
    superseded = events.get((number + 1, MADE))
    ended = max(filter(None, (superseded, last)), default=None)
    alive = number in living and (number, DESTROYED) not in events
    return Epoch(
        epoch=number,
        state="current" if number == max(living) else "living" if alive else DESTROYED,
        made_at=events.get((number, MADE)),
        superseded_at=superseded,
        destroyed_at=events.get((number, DESTROYED)),
        suppressed=people,
        last_added_at=last,
        open_tickets=_count(session, _under(number), TicketRow.state.in_(OPEN)),
        closed_tickets=_count(session, _under(number), TicketRow.state == TicketState.CLOSED),
        past_retention=alive
        and superseded is not None
        and ended is not None
        and retention_days is not None
        and ended + timedelta(days=retention_days) <= datetime.now(UTC),
    )


def _under(number: int) -> ColumnElement[bool]:
    return TicketRow.pseudonym.startswith(f"p{number}-")


def _count(session: Session, *criteria: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(TicketRow).where(*criteria)) or 0
