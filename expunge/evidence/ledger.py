"""The ledger: hash-chained entries of a model lineage, with their sequential arithmetic.

Each entry carries the digest of the one before it, over whole canonical entries, so that an edit, a reordering or a
removal inside the chain shows. What a chain cannot show, entries cut off at its end, its signed head does
(:mod:`expunge.evidence.ledger_file`).
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expunge.errors import VerificationError
from expunge.evidence.canonical import digest
from expunge.evidence.policy_change import PolicyChange, chain_faults
from expunge.privacy.accountant import LedgerLimits, SequentialAccount, compose_m
from expunge.privacy.gaussian import gaussian_delta

LEDGER_TYPE: Final = "https://expunge.dev/ledger-entry"
GENESIS = "sha256:" + "0" * 64
CLOCKS = timedelta(days=1)  # how far clocks may be apart, or be set back: dates fall then, and nobody lied
_SLACK = 1e-9  # relative: evidence passes through decimal text


class AliasMove(BaseModel):
    """That the serving alias goes from one version to another; MLflow keeps no history of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str
    from_version: int | None = Field(ge=1)  # None: nothing served before
    to_version: int = Field(ge=1)


class Incident(BaseModel):
    """That an attack contradicted a certificate, so that a mechanism is suspect; or that an officer cleared it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["suspected", "cleared"]
    mechanism: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    draws: int | None = Field(None, ge=0)  # of the batch by then: it may be suspected again after another
    clears: int | None = Field(None, ge=1)  # sequence number of the incident that is cleared

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if (self.event == "cleared") != (self.clears is not None):
            raise ValueError("an incident is cleared by its number, and only that names one")
        return self


class Fork(BaseModel):
    """That the ledger is that of a copy from then on: what the original does later is told by another ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = Field(min_length=1)  # identity of the copy
    of: str = Field(min_length=1)  # of the original


class LedgerEntry(BaseModel):
    """One event of a lineage.

    ``opening`` registers the first model; ``release`` a noised one; ``retraining`` an exact one, which starts the
    account anew; ``purge`` proves that superseded bytes of a batch are gone; ``alias``, in entries of version 2 alone,
    tells which version serves from then on: ``details`` are those of :class:`AliasMove`. Of one that was interrupted it
    may be there before the alias has moved. ``incident``, in entries of version 3 alone, makes a mechanism suspect from
    then on, or clears it: ``details`` are those of :class:`Incident`. ``policy``, in entries of version 4 alone, states
    the policy that holds from then on: ``details`` are those of :class:`PolicyChange`. ``fork``, in entries of
    version 5 alone, says that a copy goes on from there: ``details`` are those of :class:`Fork`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    type: Literal["https://expunge.dev/ledger-entry"] = LEDGER_TYPE
    version: Literal[1, 2, 3, 4, 5] = 1
    sequence: int = Field(ge=0)
    previous: str
    lineage: str
    kind: Literal["opening", "release", "retraining", "purge", "alias", "incident", "policy", "fork"]
    issued_at: str
    batch: str | None = None
    certificate_id: str | None = None
    certificate_digest: str | None = None
    model_digest: str | None = None
    dataset_md5: str | None = None
    records_removed: int = 0
    mechanism: str | None = None
    guarantee: str | None = None
    error_bound: float = Field(0.0, ge=0)
    sigma: float = Field(0.0, ge=0)
    m: float = Field(0.0, ge=0)
    draws: int = Field(0, ge=0)
    composed_m: float = Field(0.0, ge=0)
    epsilon: float = Field(0.0, ge=0)
    gaussian_delta: float = Field(0.0, ge=0)
    delta: float = Field(0.0, ge=0)
    step: int = Field(0, ge=0)
    accumulated_error: float = Field(0.0, ge=0)
    uniform_error: float = Field(0.0, ge=0)
    details: dict[str, Any] = {}

    @model_validator(mode="after")
    def _kinds_since_their_version(self) -> Self:
        if self.version != (expected := version_of(self.kind)):
            raise ValueError(f"an entry of kind {self.kind} has version {expected}")
        if self.kind == "alias":
            AliasMove.model_validate(self.details, strict=True)
        if self.kind == "incident":
            Incident.model_validate(self.details, strict=True)
        if self.kind == "policy":
            PolicyChange.model_validate(self.details, strict=True)
        if self.kind == "fork":
            Fork.model_validate(self.details, strict=True)
        return self

    @property
    def move(self) -> AliasMove | None:
        """Where the alias goes; None for an entry of another kind."""
        return AliasMove.model_validate(self.details) if self.kind == "alias" else None

    @property
    def incident(self) -> Incident | None:
        """What made a mechanism suspect, or cleared it; None for an entry of another kind."""
        return Incident.model_validate(self.details) if self.kind == "incident" else None

    @property
    def policy(self) -> PolicyChange | None:
        """Which policy holds; None for an entry of another kind."""
        return PolicyChange.model_validate(self.details) if self.kind == "policy" else None

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Digest of the whole entry.

        Returns:
            ``sha256:`` and 64 hexadecimal digits.
        """
        return digest(self.to_json())


def version_of(kind: str) -> int:
    """The version of entries of a kind.

    Args:
        kind: Of the entry.

    Returns:
        2 for ``alias``, 3 for ``incident``, 4 for ``policy``, 5 for ``fork``, else 1.

    Example:
        >>> version_of("alias")
        2
    """
    return {"alias": 2, "incident": 3, "policy": 4, "fork": 5}.get(kind, 1)


def policy_of(entries: Sequence[LedgerEntry]) -> LedgerEntry | None:
    """The last statement of policy.

    Args:
        entries: In order.

    Returns:
        Its entry; None in ledgers of earlier releases.
    """
    return next((entry for entry in reversed(entries) if entry.kind == "policy"), None)


def suspects_of(entries: Sequence[LedgerEntry]) -> dict[str, int]:
    """Mechanisms that an attack has contradicted, and nobody has cleared since.

    Args:
        entries: In order.

    Returns:
        Sequence number of the last incident, by mechanism.
    """
    suspects: dict[str, int] = {}
    for entry in entries:
        if (incident := entry.incident) is None:
            continue
        if incident.event == "suspected":
            suspects[incident.mechanism] = entry.sequence
        elif suspects.get(incident.mechanism) == incident.clears:
            del suspects[incident.mechanism]
    return suspects


def account_of(entries: Sequence[LedgerEntry]) -> SequentialAccount:
    """Where a lineage stands: releases since its last exact training.

    Args:
        entries: In order.

    Returns:
        The account, recomputed from the entries' error bounds.
    """
    account = SequentialAccount()
    for entry in entries:
        if entry.kind in ("opening", "retraining"):
            account = SequentialAccount()
        elif entry.kind == "release":
            account = account.after_release(entry.error_bound)
    return account


def left_of(entries: Sequence[LedgerEntry], limits: LedgerLimits) -> LedgerLimits:
    """What limits leave to a lineage.

    Args:
        entries: In order.
        limits: Of policy.

    Returns:
        Error and releases that are not spent since the last exact training; and how far the largest composed epsilon
        since then is below its limit, which holds for each batch by itself.
    """
    account, largest = account_of(entries), 0.0
    for entry in entries:
        largest = 0.0 if entry.kind in ("opening", "retraining") else max(largest, entry.epsilon)
    return LedgerLimits(
        accumulated_error=limits.accumulated_error - account.accumulated_error,
        composed_epsilon=limits.composed_epsilon - largest,
        releases=limits.releases - account.step,
    )


def serving_version(entries: Sequence[LedgerEntry]) -> int | None:
    """Which version serves, by the last move of the alias.

    Args:
        entries: In order.

    Returns:
        Its number; None where no move was recorded, as in ledgers of earlier releases.
    """
    moves = (entry.move for entry in reversed(entries))
    return next((move.to_version for move in moves if move is not None), None)


def parse_entries(content: Any) -> list[LedgerEntry]:
    """Read entries, as they were written: a field that is missing or of another type is a fault.

    Args:
        content: Parsed JSON: a list of entries.

    Returns:
        The entries.

    Raises:
        VerificationError: If it is not a ledger.
    """
    if not isinstance(content, list):
        raise malformed(f"{type(content).__name__} instead of a list of entries")
    return [_parse_entry(index, entry) for index, entry in enumerate(content)]


def _parse_entry(index: int, content: Any) -> LedgerEntry:
    if not isinstance(content, dict) or type(content.get("version")) is not int:  # true is 1 to the parser
        raise malformed(f"entry {index}: no entry of a ledger")
    try:
        entry = LedgerEntry.model_validate(content, strict=True)
    except ValidationError as error:
        raise malformed(f"entry {index}: {faults_of(error)}") from error
    if absent := LedgerEntry.model_fields.keys() - content.keys():
        raise malformed(f"entry {index}: without {', '.join(sorted(absent))}")
    return entry


def malformed(fault: str) -> VerificationError:
    """The error on what is no ledger.

    Args:
        fault: What is wrong with it.

    Returns:
        The error.
    """
    return VerificationError("the ledger is malformed", got=fault[:400], remedy="ask for the original")


def faults_of(error: ValidationError) -> str:
    """What a parser complains of, without what it was given.

    Args:
        error: Its complaint.

    Returns:
        Field by field, on one line.
    """
    return "; ".join(f"{'.'.join(map(str, f['loc'])) or 'all of it'}: {f['msg']}" for f in error.errors())


def moment_of(text: str) -> datetime:
    """A date of evidence.

    Args:
        text: As it is written there.

    Returns:
        The moment.

    Raises:
        VerificationError: If it is no date, or names no time zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise VerificationError("a date is malformed", expected="ISO 8601", got=text[:40]) from error
    if moment.tzinfo is None:
        raise VerificationError("a date names no time zone", expected="ISO 8601 with one", got=text[:40])
    return moment


def check_ledger(entries: Sequence[LedgerEntry]) -> list[str]:
    """Every fault of a ledger: its chain, its arithmetic, its dates and the moves of the alias.

    Args:
        entries: In order.

    Returns:
        Findings in words; empty if all holds.
    """
    findings: list[str] = []
    previous, account, serving = GENESIS, SequentialAccount(), None
    suspects: dict[str, int] = {}
    for index, entry in enumerate(entries):
        where = f"entry {index}"
        if entry.lineage != entries[0].lineage:
            findings.append(f"{where}: of lineage {entry.lineage} in a ledger of {entries[0].lineage}")
        if entry.sequence != index:
            findings.append(f"{where}: sequence {entry.sequence} where {index} is expected")
        if entry.previous != previous:
            findings.append(
                f"{where}: does not chain to the entry before it: one of the two was changed, moved or removed"
            )
        if (index == 0) != (entry.kind == "opening"):
            findings.append(f"{where}: a ledger opens once, at its start")
        if entry.records_removed < 0:
            findings.append(f"{where}: {entry.records_removed} records removed")
        previous = entry.digest()
        if entry.kind in ("release", "retraining") and entry.mechanism in suspects:
            findings.append(
                f"{where}: a release by {entry.mechanism}, which is suspect since entry {suspects[entry.mechanism]}"
            )
        if (incident := entry.incident) is not None and incident.event == "suspected":
            suspects[incident.mechanism] = index
        elif incident is not None and suspects.pop(incident.mechanism, None) != incident.clears:
            findings.append(f"{where}: clears no incident of {incident.mechanism} that is open")
        if entry.kind in ("opening", "retraining"):
            account = SequentialAccount()
            if entry.epsilon or entry.delta:
                findings.append(f"{where}: an exact training states epsilon = delta = 0")
            if any((entry.sigma, entry.error_bound, entry.m, entry.composed_m, entry.gaussian_delta)):
                findings.append(f"{where}: an exact training states no noise and no error bound")
            if entry.kind == "retraining" and entry.guarantee not in (None, "exact"):
                findings.append(f"{where}: a retraining of the class {entry.guarantee}")
        elif entry.kind == "release":
            account = account.after_release(entry.error_bound)
            findings += [f"{where}: {fault}" for fault in _check_release(entry)]
        elif (move := entry.move) is not None:
            if serving is not None and move.from_version != serving:
                findings.append(
                    f"{where}: the alias leaves version {move.from_version} where {serving} serves"
                )
            serving = move.to_version
        stated = (entry.step, entry.accumulated_error, entry.uniform_error)
        expected = (account.step, account.accumulated_error, account.uniform_error)
        if not all(math.isclose(a, b, rel_tol=_SLACK) for a, b in zip(stated, expected, strict=True)):
            findings.append(f"{where}: accumulated figures {stated} where {expected} are recomputed")
    policies = [
        (index, change) for index, entry in enumerate(entries) if (change := entry.policy) is not None
    ]
    return [*findings, *chain_faults(policies), *_check_draws(entries), *_check_dates(entries)]


def _check_draws(entries: Sequence[LedgerEntry]) -> Iterator[str]:
    """A batch counts its draws for good: each further noised release of it is charged one more, at the least."""
    charged: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if entry.kind != "release" or entry.batch is None:
            continue
        before = charged.get(entry.batch, 0)
        if 0 < entry.draws <= before:  # no draw at all is another finding
            yield (
                f"entry {index}: {entry.draws} noise draws for batch {entry.batch}, "
                f"and an earlier release of it was charged {before} already"
            )
        charged[entry.batch] = max(before, entry.draws)


def _check_dates(entries: Sequence[LedgerEntry]) -> Iterator[str]:
    latest, now = None, datetime.now(UTC)
    for index, entry in enumerate(entries):
        try:
            moment = moment_of(entry.issued_at)
        except VerificationError as error:
            yield f"entry {index}: {error}"
            continue
        if moment - now > CLOCKS:
            yield f"entry {index}: dated {entry.issued_at}, in the future"
        if latest is not None and latest - moment > CLOCKS:
            yield f"entry {index}: dated {entry.issued_at}, and an entry before it {latest.isoformat()}"
        # A certificate keeps its date when its batch is resumed; what is no certificate may come in between.
        if entry.kind not in ("purge", "incident", "policy", "fork"):
            latest = moment if latest is None else max(latest, moment)


def _check_release(entry: LedgerEntry) -> list[str]:
    faults = []
    if entry.guarantee == "exact":
        faults.append("a noised release is not exact")
    if entry.sigma <= 0 or entry.draws < 1:
        return [*faults, "a noised release needs sigma > 0 and at least one draw"]
    if not math.isclose(entry.m, entry.error_bound / entry.sigma, rel_tol=_SLACK):
        faults.append("m is not error_bound / sigma")
    if not math.isclose(entry.composed_m, compose_m([entry.m]) * math.sqrt(entry.draws), rel_tol=_SLACK):
        faults.append("composed m is not the root-sum over its draws")
    if gaussian_delta(entry.epsilon, entry.composed_m) > entry.gaussian_delta * (1 + 1e-6):
        faults.append("epsilon is below what composed m and delta allow")
    if entry.delta < entry.gaussian_delta:
        faults.append("delta is below the Gaussian mechanism's share")
    return faults
