"""A ledger as a file: its entries, and the signed head that says how many there are.

Whoever holds an earlier head, a *witness*, can tell a ledger that was cut off, or rewritten and signed anew, from one
that went on. Ledgers of earlier releases are bare lists of entries, without a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.signer import Signer

from expunge.errors import VerificationError
from expunge.evidence.ledger import CLOCKS, LedgerEntry, faults_of, malformed, moment_of, parse_entries
from expunge.evidence.statements import HEAD_PREDICATE, Statement, read_statement, sign_statement

LEDGER_FILE_TYPE: Final = "https://expunge.dev/ledger"
LEDGER_FILE: Final = "ledger.json"


class Head(BaseModel):
    """What a signed head says: so many entries, the last of them with this digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lineage: str
    entries: int = Field(ge=1, strict=True)
    head: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    issued_at: AwareDatetime

    def fault_against(self, entries: Sequence[LedgerEntry], *, whole: bool) -> str | None:
        """Why entries are not those that the head speaks of.

        Args:
            entries: Of the ledger, in order.
            whole: Whether the head is of these entries, not an earlier one that they continue.

        Returns:
            In words; None if they agree.
        """
        count = len(entries)
        if count < self.entries:
            return f"{count} entries where the head signs {self.entries}: cut off, or an old copy"
        if whole and count > self.entries:
            return f"{count} entries where the head signs {self.entries}: some are not signed"
        if entries[self.entries - 1].digest() != self.head:
            return f"entry {self.entries - 1} is not the one that the head signs: rewritten"
        lineage = entries[self.entries - 1].lineage
        return None if lineage == self.lineage else f"the head is of lineage {self.lineage}, not of {lineage}"

    def date_fault(self, entries: Sequence[LedgerEntry]) -> str | None:
        """Why the head cannot have been signed when it says.

        Args:
            entries: Of the ledger, in order; at least those that it speaks of.

        Returns:
            In words; None if it can.
        """
        if self.issued_at - datetime.now(UTC) > CLOCKS:
            return f"signed at {self.issued_at.isoformat()}, in the future"
        last = entries[self.entries - 1]
        try:
            early = moment_of(last.issued_at) - self.issued_at > CLOCKS
        except VerificationError as error:
            return str(error)
        if early:
            return f"signed at {self.issued_at.isoformat()}, before its last entry, dated {last.issued_at}"
        return None


@dataclass(frozen=True)
class Ledger:
    """A lineage's ledger.

    Args:
        lineage: Name of the registered model.
        entries: In order.
        head: DSSE envelope over how many there are and the digest of the last; None where nobody signed.
    """

    lineage: str
    entries: tuple[LedgerEntry, ...]
    head: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, as in ``ledger.json``.

        Returns:
            ``{type, version, lineage, entries, head}``.
        """
        return {
            "type": LEDGER_FILE_TYPE,
            "version": 1,
            "lineage": self.lineage,
            "entries": [entry.to_json() for entry in self.entries],
            "head": self.head,
        }


class _LedgerFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["https://expunge.dev/ledger"]
    version: Literal[1]
    lineage: str
    entries: list[Any]
    head: dict[str, Any] | None


def parse_ledger(content: Any) -> Ledger:
    """Read a ledger of any version.

    Args:
        content: Parsed JSON: what :meth:`Ledger.to_json` makes, or a bare list of entries.

    Returns:
        The ledger; nothing of it is verified.

    Raises:
        VerificationError: If it is not a ledger.
    """
    if isinstance(content, list):
        entries = parse_entries(content)
        return Ledger(entries[0].lineage if entries else "", tuple(entries))
    try:
        file = _LedgerFile.model_validate(content, strict=True)
    except ValidationError as error:
        raise malformed(faults_of(error)) from error
    return Ledger(file.lineage, tuple(parse_entries(file.entries)), file.head)


def parse_witness(content: Any) -> dict[str, Any]:
    """Read a witness: a signed head by itself, or a ledger that has one.

    Args:
        content: Parsed JSON.

    Returns:
        The envelope; nothing of it is verified.

    Raises:
        VerificationError: If it is neither.
    """
    if isinstance(content, dict) and content.get("type") == LEDGER_FILE_TYPE:
        content = parse_ledger(content).head
    read_head(content)
    envelope: dict[str, Any] = content
    return envelope


def sign_head(signer: Signer, entries: Sequence[LedgerEntry], now: datetime) -> dict[str, Any]:
    """Sign how many entries there are, and the digest of the last.

    Args:
        signer: Of the workspace.
        entries: In order; at least one.
        now: When.

    Returns:
        A DSSE envelope.
    """
    last = entries[-1]
    head = Head(lineage=last.lineage, entries=len(entries), head=last.digest(), issued_at=now)
    said = {**head.model_dump(), "issued_at": now.isoformat()}
    return sign_statement(signer, HEAD_PREDICATE, _subjects(head), said)


def read_head(envelope: Any) -> Head:
    """What a head says, whoever signed it.

    Args:
        envelope: As plain data.

    Returns:
        The head.

    Raises:
        VerificationError: If it is no head.
    """
    return head_of(read_statement(envelope))


def head_of(statement: Statement) -> Head:
    """The head in a statement.

    Args:
        statement: As it was read or opened.

    Returns:
        The head.

    Raises:
        VerificationError: If it is another statement, or does not agree with itself.
    """
    if statement.predicate_type != HEAD_PREDICATE:
        raise VerificationError(
            "this is no head of a ledger", expected=HEAD_PREDICATE, got=statement.predicate_type
        )
    try:
        head = Head.model_validate(statement.predicate)
    except ValidationError as error:
        raise malformed(f"head: {faults_of(error)}") from error
    if dict(statement.subjects) != _subjects(head):
        raise VerificationError(
            "the head names another subject than it speaks of", got=", ".join(statement.subjects)
        )
    return head


def _subjects(head: Head) -> dict[str, str]:
    return {f"ledger {head.lineage}": head.head.removeprefix("sha256:")}
