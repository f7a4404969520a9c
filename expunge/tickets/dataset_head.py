"""Which dataset version is the newest: recorded, because the pointer in the working tree follows any `git checkout`."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import String, Text, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime


class DatasetHeadRow(Base):
    """One version that Expunge made or took out."""

    __tablename__ = "dataset_heads"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    md5: Mapped[str] = mapped_column(String(80))
    branch: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcTime)


@dataclass(frozen=True)
class Head:
    """The newest version.

    Args:
        md5: DVC's digest of the folder.
        branch: That was checked out; empty if none was.
    """

    md5: str
    branch: str


class DatasetHead:
    """The version of the dataset that Expunge made or took out last.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def record(self, head: Head) -> None:
        """Record a version as the newest; repeating it changes nothing.

        Args:
            head: Which.
        """
        with self._database.transaction() as session:
            if _latest(session) != head:
                session.add(DatasetHeadRow(md5=head.md5, branch=head.branch, at=datetime.now(UTC)))

    def latest(self) -> Head | None:
        """The newest version.

        Returns:
            It, or None in a workspace of an earlier release that has made no version since.
        """
        with self._database.transaction() as session:
            return _latest(session)


def _latest(session: Session) -> Head | None:
    row = session.scalar(select(DatasetHeadRow).order_by(DatasetHeadRow.number.desc()).limit(1))
    return Head(row.md5, row.branch) if row is not None else None
