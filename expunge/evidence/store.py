"""Where ledgers are kept: appended to, never changed, each entry with the signed head of all up to it."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, String, UniqueConstraint, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.append_only import APPEND_ONLY
from expunge.database import Base, Database
from expunge.errors import RefusedError, VerificationError
from expunge.evidence.keyring import Keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import (
    CLOCKS,
    GENESIS,
    LedgerEntry,
    account_of,
    check_ledger,
    moment_of,
    parse_entries,
    serving_version,
    version_of,
)
from expunge.evidence.ledger_file import Ledger, sign_head
from expunge.evidence.verify_ledger import head_fault

_PAGE = 50


class LedgerRow(Base):
    """One ledger entry, with its digest beside it."""

    __tablename__ = "ledger"
    __table_args__ = (UniqueConstraint("lineage", "sequence"), {"info": {APPEND_ONLY: True}})

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    lineage: Mapped[str] = mapped_column(String(100), index=True)
    sequence: Mapped[int]
    digest: Mapped[str] = mapped_column(String(80))
    entry: Mapped[dict[str, Any]] = mapped_column(JSON)


class HeadRow(Base):
    """The signed head of a ledger up to an entry."""

    __tablename__ = "ledger_heads"
    __table_args__ = ({"info": {APPEND_ONLY: True}},)

    lineage: Mapped[str] = mapped_column(String(100), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    envelope: Mapped[dict[str, Any]] = mapped_column(JSON)


class NewHeadRow(Base):
    """A head that was signed anew: the key of the one that is there was revoked."""

    __tablename__ = "ledger_heads_anew"
    __table_args__ = ({"info": {APPEND_ONLY: True}},)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    lineage: Mapped[str] = mapped_column(String(100), index=True)
    sequence: Mapped[int]
    envelope: Mapped[dict[str, Any]] = mapped_column(JSON)


class LedgerStore:
    """The ledgers in a database.

    The database refuses to change or to remove entries and heads; :mod:`expunge.append_only` says what that does not
    stop.

    Args:
        database: Where.
        keys: That sign heads.
    """

    def __init__(self, database: Database, keys: SigningKeys) -> None:
        """Keep the database and the keys."""
        self._database = database
        self._keys = keys

    def lineages(self) -> list[str]:
        """Every lineage that has a ledger in this database.

        Returns:
            Names.
        """
        with self._database.transaction() as session:
            return sorted(session.scalars(select(LedgerRow.lineage).distinct()))

    def entries(self, lineage: str) -> list[LedgerEntry]:
        """A lineage's ledger.

        Args:
            lineage: Name of the registered model.

        Returns:
            Entries in order.

        Raises:
            VerificationError: If one of them is malformed.
        """
        return list(self.read(lineage).entries)

    def read(self, lineage: str, last: int | None = None) -> Ledger:
        """A lineage's ledger with its signed head.

        Args:
            lineage: Name of the registered model.
            last: Sequence number of the last entry wanted; by default the newest.

        Returns:
            The ledger up to this entry, with the head that was signed then, if one was; by default with the
            newest head, whatever entries are there.

        Raises:
            VerificationError: If an entry is malformed.
        """
        query = select(LedgerRow.entry).where(LedgerRow.lineage == lineage).order_by(LedgerRow.sequence)
        if last is not None:
            query = query.where(LedgerRow.sequence <= last)
        with self._database.transaction() as session:
            entries = parse_entries(list(session.scalars(query)))
            head = _head(session, lineage, last)
        return Ledger(lineage, tuple(entries), head)

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
                found += parse_entries([content])
                if found[-1].kind in ("opening", "retraining"):
                    break
        return found[::-1]

    def now(self, lineage: str) -> datetime:
        """The date of what is issued now: never before the newest entry, where the clock was set back since.

        Args:
            lineage: Name of the registered model.

        Returns:
            Now, or the date of the newest entry, if that is later.

        Raises:
            RefusedError: If the clock is behind it by more than what clocks may differ: no such date would verify.
        """
        now = datetime.now(UTC)
        latest = max((moment_of(entry.issued_at) for entry in self.entries(lineage)), default=now)
        if latest - now > CLOCKS:
            raise RefusedError(
                "this machine's clock is behind the ledger",
                expected=f"a time after {latest.isoformat()}, the date of an entry",
                got=now.isoformat(timespec="seconds"),
                remedy="nothing was changed; set the clock. If it is right, that entry was dated by one that was not: "
                "wait until then, or restore the backup from before",
            )
        return max(now, latest)

    def append(self, lineage: str, **content: Any) -> LedgerEntry:
        """Append an entry and sign the new head: sequence, chain and accumulated figures are filled in here.

        Appending what is already there (same kind, batch and certificate; of an alias, the same move) returns the entry
        that is there.

        Args:
            lineage: Name of the registered model.
            **content: Fields of the entry.

        Returns:
            The entry.

        Raises:
            VerificationError: If the stored ledger is damaged, or is not the one that its head signs: signing what was
                added to it would cover that up. Or if an alias moves that is elsewhere.
            WorkspaceError: If there is no key to sign with; nothing is written then.
        """
        ledger = self.read(lineage)
        entries = ledger.entries
        same = [entry for entry in entries if _what(entry.to_json()) == _what(content)]
        if same:
            return same[-1]
        draft = LedgerEntry(
            lineage=lineage,
            version=version_of(content["kind"]),
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
        self._require_intact(ledger)
        serves = serving_version(entries)
        if draft.move is not None and serves not in (None, draft.move.from_version):
            raise VerificationError(
                "the ledger says that another version serves",
                expected=f"the alias to leave version {serves}",
                got=f"version {draft.move.from_version}",
                remedy="nothing was written; see `expunge ledger show`",
            )
        head = sign_head(self._keys.signer(), [*entries, entry], datetime.now(UTC))
        row = LedgerRow(
            lineage=lineage, sequence=entry.sequence, digest=entry.digest(), entry=entry.to_json()
        )
        with self._database.transaction() as session:
            session.add_all([row, HeadRow(lineage=lineage, sequence=entry.sequence, envelope=head)])
        return entry

    def seal(self, lineage: str) -> Ledger:
        """Sign the head of a ledger that was made before heads were; one that has its head is left as it is.

        Args:
            lineage: Name of the registered model.

        Returns:
            The ledger, with its head; an empty one has none.

        Raises:
            VerificationError: If the ledger does not hold.
            WorkspaceError: If there is no key to sign with.
        """
        ledger = self.read(lineage)
        if not ledger.entries or ledger.head is not None:
            return ledger
        self._require_intact(ledger)
        return self._sign(ledger, HeadRow)

    def sign_anew(self, lineage: str) -> Ledger:
        """Sign the newest head with the key that signs now, where that of the head was revoked since.

        Args:
            lineage: Name of the registered model.

        Returns:
            The ledger, with a head that counts; one that has such a head is left as it is.

        Raises:
            VerificationError: If the ledger does not hold.
            WorkspaceError: If there is no key to sign with.
        """
        ledger, ring = self.read(lineage), self._keys.keyring()
        if ledger.head is None or head_fault(ledger.head, ledger, ring, whole=True) is None:
            return ledger
        self._require_intact(ledger, ring.before_revocations())
        return self._sign(ledger, NewHeadRow)

    def _sign(self, ledger: Ledger, row: type[HeadRow] | type[NewHeadRow]) -> Ledger:
        """Sign the head of entries that hold, and keep it as such a row."""
        if findings := check_ledger(ledger.entries):
            raise VerificationError("the ledger does not hold", got="; ".join(findings))
        head = sign_head(self._keys.signer(), ledger.entries, datetime.now(UTC))
        with self._database.transaction() as session:
            session.add(row(lineage=ledger.lineage, sequence=len(ledger.entries) - 1, envelope=head))
        return Ledger(ledger.lineage, ledger.entries, head)

    def _require_intact(self, ledger: Ledger, ring: Keyring | None = None) -> None:
        """The newest head must hold; a ledger without any is of an earlier release, or empty."""
        entries, fault = ledger.entries, None
        if entries and entries[-1].sequence != len(entries) - 1:
            fault = "a gap"
        elif ledger.head is not None:
            fault = head_fault(ledger.head, ledger, ring or self._keys.keyring(), whole=True)
        if fault is not None:
            raise VerificationError(
                "the ledger is not as it was signed", got=fault, remedy="run `expunge ledger verify`"
            )


def _head(session: Session, lineage: str, sequence: int | None) -> dict[str, Any] | None:
    query = select(HeadRow).where(HeadRow.lineage == lineage).order_by(HeadRow.sequence.desc())
    if sequence is not None:
        query = query.where(HeadRow.sequence == sequence)
    if (first := session.scalars(query.limit(1)).first()) is None:
        return None
    anew = (
        select(NewHeadRow.envelope)
        .where(NewHeadRow.lineage == lineage, NewHeadRow.sequence == first.sequence)
        .order_by(NewHeadRow.number.desc())
    )
    return session.scalars(anew.limit(1)).first() or first.envelope


def _what(content: dict[str, Any]) -> tuple[Any, ...]:
    """What an entry is about: a batch may move the alias more than once."""
    details = content["details"] if content["kind"] in ("alias", "incident", "policy", "fork") else None
    return content["kind"], content.get("batch"), content.get("certificate_id"), details
