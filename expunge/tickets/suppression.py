"""The suppression list: who was removed, by keyed pseudonym, so that nobody brings them back unseen.

A person is recognised for as long as the key lives that their pseudonym was made with. Closing a batch leaves them on
the list; destroying the key at the end of retention is what ends it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import String, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime
from expunge.pseudonyms import Pseudonymiser

_MOST = 5_000  # values in one statement: SQLite takes 32,766


class SuppressedRow(Base):
    """One person who was removed."""

    __tablename__ = "suppressed"

    pseudonym: Mapped[str] = mapped_column(String(60), primary_key=True)
    epoch: Mapped[int] = mapped_column(index=True)
    batch_id: Mapped[str] = mapped_column(String(40))
    added_at: Mapped[datetime] = mapped_column(UtcTime)


class Suppression:
    """The suppression list of a workspace.

    Args:
        database: Where.
        pseudonymiser: For the subjects.
    """

    def __init__(self, database: Database, pseudonymiser: Pseudonymiser) -> None:
        """Keep both."""
        self._database = database
        self._pseudonymiser = pseudonymiser

    def add(self, subject_ids: Sequence[str], batch_id: str) -> None:
        """Put people on the list; those who are on it under any living epoch stay as they are.

        Args:
            subject_ids: Whom.
            batch_id: That removes them.
        """
        with self._database.transaction() as session:
            there = self._among(session, subject_ids)
            now, epoch = datetime.now(UTC), self._pseudonymiser.epoch
            rows = [
                {"pseudonym": self._pseudonymiser.of(subject), "epoch": epoch}
                | {"batch_id": batch_id, "added_at": now}
                for subject in dict.fromkeys(subject_ids)
                if subject not in there
            ]
            if rows:
                session.execute(insert(SuppressedRow), rows)

    def among(self, subject_ids: Iterable[str]) -> dict[str, str]:
        """Who of these people was removed, as far as living keys can tell.

        Args:
            subject_ids: Whom to look for.

        Returns:
            Pseudonyms on the list, by subject id.
        """
        with self._database.transaction() as session:
            return self._among(session, subject_ids)

    def _among(self, session: Session, subject_ids: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        subjects = list(dict.fromkeys(subject_ids))
        step = max(1, _MOST // len(self._pseudonymiser.epochs))
        for start in range(0, len(subjects), step):
            part = subjects[start : start + step]
            owner = {name: subject for subject in part for name in self._pseudonymiser.every(subject)}
            query = select(SuppressedRow.pseudonym).where(SuppressedRow.pseudonym.in_(owner))
            found |= {owner[name]: name for name in session.scalars(query)}
        return found
