"""The journal of purges: what a batch destroys is written down, durably, before the first byte goes.

An entry is destroyed, then marked; destroying again what is gone does no harm. So a purge that was killed continues
where it was, and what it destroyed stays on record. No entry holds personal data.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime

PENDING, DONE, KEPT = "pending", "done", "kept"
FREE_PAGES = "free pages"  # the kind of entry that is planned always: that it is says nothing


class PurgeRow(Base):
    """One thing that a batch's purge destroys, or has to keep."""

    __tablename__ = "purge_journal"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.batch_id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(40))
    what: Mapped[str] = mapped_column(Text)
    place: Mapped[str] = mapped_column(Text)
    size: Mapped[int | None]
    why: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10), index=True)
    done_at: Mapped[datetime | None] = mapped_column(UtcTime)


@dataclass(frozen=True)
class Item:
    """One thing to destroy.

    Args:
        kind: How it is destroyed: data object, weights, run-cache and so on.
        what: Its digest, number, name, or path below the workspace.
        where: The store that holds it.
        bytes: Its size, where that is known.
        why: Why it goes, or stays.
        kept: Whether it stays, because somebody else needs it.
    """

    kind: str
    what: str
    where: str
    bytes: int | None
    why: str
    kept: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            ``{kind, what, where, bytes, why, kept}``.
        """
        return asdict(self)


@dataclass(frozen=True)
class Entry:
    """One entry.

    Args:
        number: In its batch, in the order of destruction.
        item: What.
        state: pending, done or kept.
        done_at: When it was destroyed.
    """

    number: int
    item: Item
    state: str
    done_at: datetime | None


class PurgeJournal:
    """The journal of all batches.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def write(self, batch_id: str, plan: Iterable[Item]) -> list[Entry]:
        """Write a batch's plan, in one transaction; one that is there is completed by what is new.

        What is done is opened again, where it is planned again: it has come back. Free pages are once nothing is
        pending.

        Args:
            batch_id: Of the batch.
            plan: What is to be destroyed as things are.

        Returns:
            All entries of the batch.
        """
        with self._database.transaction() as session:
            rows = {(row.kind, row.what, row.place): row for row in _rows(session, batch_id)}
            under_way = any(row.state == PENDING for row in rows.values())
            for item in plan:
                state, key = KEPT if item.kept else PENDING, (item.kind, item.what, item.where)
                row = rows.get(key)
                if row is None:
                    row = rows[key] = PurgeRow(batch_id=batch_id, number=len(rows) + 1, kind=item.kind)
                    row.what, row.place = item.what, item.where
                    session.add(row)
                elif not item.kept and (row.state == PENDING or (under_way and item.kind == FREE_PAGES)):
                    continue
                row.size, row.why, row.state, row.done_at = item.bytes, item.why, state, None
            session.flush()
            return [_entry(row) for row in _rows(session, batch_id)]

    def entries(self, batch_id: str) -> list[Entry]:
        """A batch's entries.

        Args:
            batch_id: Of the batch.

        Returns:
            In the order of destruction; none if nothing was planned yet.
        """
        with self._database.transaction() as session:
            return [_entry(row) for row in _rows(session, batch_id)]

    def done(self, batch_id: str, number: int) -> None:
        """Record that an entry is destroyed.

        Args:
            batch_id: Of the batch.
            number: Of the entry.
        """
        with self._database.transaction() as session:
            row = session.get_one(PurgeRow, (batch_id, number))
            row.state, row.done_at = DONE, datetime.now(UTC)

    def kept(self) -> list[Item]:
        """What purges had to leave to somebody else, in all batches.

        Returns:
            Each once.
        """
        with self._database.transaction() as session:
            rows = session.scalars(select(PurgeRow).where(PurgeRow.state == KEPT)).all()
            return list(dict.fromkeys(_entry(row).item for row in rows))


def _rows(session: Session, batch_id: str) -> list[PurgeRow]:
    query = select(PurgeRow).where(PurgeRow.batch_id == batch_id).order_by(PurgeRow.number)
    return list(session.scalars(query).all())


def _entry(row: PurgeRow) -> Entry:
    item = Item(row.kind, row.what, row.place, row.size, row.why, row.state == KEPT)
    return Entry(row.number, item, row.state, row.done_at)
