"""The suppression list: who was removed, by keyed pseudonym, so that nobody brings them back unseen.

A person is recognised for as long as the key lives that their pseudonym was made with. Closing a batch leaves them on
the list; destroying the key at the end of retention is what ends it. Exports spell ids in other ways, with blanks or
zeros or as numbers: a second row has the keyed code of what all spellings of an id have in common, unless the contract
says that other spellings are other people.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import String, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime
from expunge.pseudonyms import SPELLING, Pseudonymiser
from expunge.subjects import folded

_MOST = 5_000  # values in one statement: SQLite takes 32,766


class SuppressedRow(Base):
    """One person who was removed, or how that person's id may be spelled."""

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

    def add(self, subject_ids: Sequence[str], batch_id: str, others: Collection[str] = ()) -> None:
        """Put people on the list; those who are on it under any living epoch stay as they are.

        Args:
            subject_ids: Whom.
            batch_id: That removes them.
            others: Folded forms of ids that tell other people apart, who stay.
        """
        maker = self._pseudonymiser
        forms = {} if maker.identity.settled else {folded(one): one for one in subject_ids}
        forms = {form: subject for form, subject in forms.items() if form not in others}
        with self._database.transaction() as session:
            there = self._among(session, subject_ids, maker.every)
            spelled = self._among(session, forms.values(), maker.every_spelling)
            names = list(dict.fromkeys(maker.of(one) for one in subject_ids if one not in there))
            names += [maker.of_spelling(subject) for subject in forms.values() if subject not in spelled]
            values = {"epoch": maker.epoch, "batch_id": batch_id, "added_at": datetime.now(UTC)}
            rows = [{"pseudonym": name, **values} for name in names]
            if rows:
                session.execute(insert(SuppressedRow), rows)

    def among(self, subject_ids: Iterable[str]) -> dict[str, str]:
        """Who of these people was removed, as far as living keys can tell.

        Args:
            subject_ids: Whom to look for.

        Returns:
            Pseudonyms on the list, by subject id; of one spelled otherwise the code of the spelling.
        """
        subjects = list(dict.fromkeys(subject_ids))
        with self._database.transaction() as session:
            spelled = self._among(session, subjects, self._pseudonymiser.every_spelling)
            return spelled | self._among(session, subjects, self._pseudonymiser.every)

    def codes(self, batch_ids: Iterable[str]) -> frozenset[str]:
        """What the spellings of people have in common whom some batches removed.

        Args:
            batch_ids: Of the batches.

        Returns:
            Keyed codes, as :meth:`Pseudonymiser.of_spelling` makes them.
        """
        chosen = set(batch_ids)
        query = select(SuppressedRow.pseudonym, SuppressedRow.batch_id).where(
            SuppressedRow.pseudonym.like(f"{SPELLING}%")
        )
        with self._database.transaction() as session:
            return frozenset(name for name, batch in session.execute(query).tuples() if batch in chosen)

    def _among(
        self, session: Session, subject_ids: Iterable[str], every: Callable[[str], tuple[str, ...]]
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        subjects = list(dict.fromkeys(subject_ids))
        step = max(1, _MOST // len(self._pseudonymiser.epochs))
        for start in range(0, len(subjects), step):
            part = subjects[start : start + step]
            owners: dict[str, list[str]] = {}
            for subject in part:
                for name in every(subject):
                    owners.setdefault(name, []).append(subject)  # a spelling's code may be that of several
            query = select(SuppressedRow.pseudonym).where(SuppressedRow.pseudonym.in_(owners))
            found |= {subject: name for name in session.scalars(query) for subject in owners[name]}
        return found


def spelled_otherwise(names: Iterable[str]) -> int:
    """How many were recognised by what their spelling has in common with that of somebody removed.

    Args:
        names: From :meth:`Suppression.among`.

    Returns:
        Their number.
    """
    return sum(name.startswith(SPELLING) for name in names)
