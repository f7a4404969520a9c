"""Where ledgers are kept: appended to, never changed."""

from typing import Any

from sqlalchemy import JSON, String, UniqueConstraint, select
from sqlalchemy.orm import Mapped, mapped_column

from expunge.database import Base, Database
from expunge.errors import VerificationError
from expunge.evidence.ledger import GENESIS, LedgerEntry, account_of

_PAGE = 50


class LedgerRow(Base):
    """One ledger entry, with its digest beside it."""

    __tablename__ = "ledger"
    __table_args__ = (UniqueConstraint("lineage", "sequence"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    lineage: Mapped[str] = mapped_column(String(100), index=True)
    sequence: Mapped[int]
    digest: Mapped[str] = mapped_column(String(80))
    entry: Mapped[dict[str, Any]] = mapped_column(JSON)


class LedgerStore:
    """The ledgers in a database.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def entries(self, lineage: str) -> list[LedgerEntry]:
        """A lineage's ledger.

        Args:
            lineage: Name of the registered model.

        Returns:
            Entries in order.
        """
        with self._database.transaction() as session:
            rows = session.scalars(
                select(LedgerRow).where(LedgerRow.lineage == lineage).order_by(LedgerRow.sequence)
            )
            return [LedgerEntry.model_validate(row.entry) for row in rows]

    def since_exact(self, lineage: str) -> list[LedgerEntry]:
        """A lineage's ledger from its last exact training on: what its account is made of, however long the ledger is.

        Args:
            lineage: Name of the registered model.

        Returns:
            Entries in order; the first is the opening or a retraining.
        """
        query = (
            select(LedgerRow.entry).where(LedgerRow.lineage == lineage).order_by(LedgerRow.sequence.desc())
        )
        found: list[LedgerEntry] = []
        with self._database.transaction() as session:
            for content in session.scalars(query.execution_options(yield_per=_PAGE)):
                found.append(LedgerEntry.model_validate(content))
                if found[-1].kind in ("opening", "retraining"):
                    break
        return found[::-1]

    def append(self, lineage: str, **content: Any) -> LedgerEntry:
        """Append an entry: sequence, chain and accumulated figures are filled in here.

        Appending what is already there (same kind, batch and certificate) returns the entry that is there.

        Args:
            lineage: Name of the registered model.
            **content: Fields of the entry.

        Returns:
            The entry.

        Raises:
            VerificationError: If the stored ledger is damaged.
        """
        entries = self.entries(lineage)
        same = [
            e
            for e in entries
            if (e.kind, e.batch, e.certificate_id)
            == (content["kind"], content.get("batch"), content.get("certificate_id"))
        ]
        if same:
            return same[-1]
        if entries and entries[-1].sequence != len(entries) - 1:
            raise VerificationError("the ledger has a gap", remedy="run `expunge ledger verify`")
        draft = LedgerEntry(
            lineage=lineage,
            sequence=len(entries),
            previous=entries[-1].digest() if entries else GENESIS,
            **content,
        )
        account = account_of([*entries, draft])
        entry = draft.model_copy(
            update={
                "step": account.step,
                "accumulated_error": account.accumulated_error,
                "uniform_error": account.uniform_error,
            }
        )
        row = LedgerRow(
            lineage=lineage, sequence=entry.sequence, digest=entry.digest(), entry=entry.to_json()
        )
        with self._database.transaction() as session:
            session.add(row)
        return entry
