"""Verification of what was promised: every certificate, and the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from expunge.errors import TicketError, VerificationError
from expunge.evidence.bundle import (
    CERTIFICATE_FILE,
    ENVELOPE_FILE,
    NOT_VALID_THEN,
    Evidence,
    Trust,
    Verifier,
    find_evidence,
)
from expunge.evidence.canonical import read_json
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.keyring import Keyring
from expunge.evidence.ledger_file import Ledger
from expunge.evidence.result import VerificationResult, Voucher
from expunge.evidence.verify import undone
from expunge.evidence.verify_ledger import verify_ledger
from expunge.evidence.witness import read_witness
from expunge.stages import MODEL_FOLDER
from expunge.state import State, open_state
from expunge.tickets.batches import Batch
from tasks.adapters import access
from tasks.ledger import alias_fault
from tasks.step import log, step


class OwnEvidence:
    """Verifies certificates of the workspace against its stores; its ledger is checked once.

    Args:
        state: The workspace.
        trust: What is trusted; keys and ledger that are not given are the workspace's own.
    """

    def __init__(self, state: State, trust: Trust | None = None) -> None:
        """Read the ledger and the keys."""
        trust = trust or Trust()
        self.state, self._own = state, trust.keys is None and state.signing.exist
        keys = state.signing.keyring() if self._own else trust.keys
        if trust.ledger is None:
            ledger = state.ledger.read(state.lineage)
            outcome = verify_own_ledger(state, ledger, trust.keys, trust.witnesses)
            trust = replace(trust, ledger=CheckedLedger.of(ledger.entries, outcome))
        self._verifier, self._unsigned = Verifier(replace(trust, keys=keys)), Verifier(trust)
        self._since = (
            min((key.valid_from for key in keys.keys if key.valid_from), default=None) if keys else None
        )
        self._champion = access.registry(state).champion()

    def verify(self, evidence: Evidence, model: Path | None = None) -> VerificationResult:
        """Verify a certificate against the workspace: its ledger, its annex, the files that serve.

        Args:
            evidence: Of this workspace.
            model: Folder of the model's files; by default those that serve, if the certificate is about them.

        Returns:
            What holds, what is missing, what does not hold.
        """
        verifier, undone = self._verifier, False
        note = (
            ("a key from elsewhere: the workspace's own keyring, the operator's, was trusted",)
            if self._own
            else ()
        )
        if (certificate := _parsed(evidence)) is not None:
            undone = rolled_back(batch_of(self.state, certificate), certificate.certificate_id)
            model = model or self._served(certificate)
            if self._own and evidence.envelope is None and self._before_keys(certificate):
                verifier = self._unsigned
                note = ("signature: the certificate is older than the workspace's signing keys",)
        outcome = verifier.verify(evidence, model=model, rolled_back=undone)
        return _by_own_keys(outcome, self._own, note)

    def _before_keys(self, certificate: Certificate) -> bool:
        try:
            return self._since is not None and datetime.fromisoformat(certificate.issued_at) < self._since
        except (TypeError, ValueError):  # no date, or without a zone: a finding
            return False

    def _served(self, certificate: Certificate) -> Path | None:
        """The files that serve, if this certificate is about them."""
        folder = self.state.workspace.build_dir / MODEL_FOLDER
        serves = self._champion is not None and self._champion.version == certificate.model.version
        return folder if serves and folder.is_dir() else None


def _parsed(evidence: Evidence) -> Certificate | None:
    """The bare certificate; that it cannot be read is for the verification to say."""
    try:
        return parse_certificate(read_json(evidence.certificate)) if evidence.certificate else None
    except VerificationError:
        return None


def rolled_back(batch: Batch | None, certificate_id: str) -> bool:
    """Whether a certificate's release was rolled back.

    Args:
        batch: That it is of, if it is one of this workspace.
        certificate_id: Of the certificate.

    Returns:
        Whether the batch says so.
    """
    releases = batch.data.get("rolled_back", []) if batch else []
    return any(release["certificate_id"] == certificate_id for release in releases)


def batch_of(state: State, certificate: Certificate) -> Batch | None:
    """The batch of a certificate.

    Args:
        state: The workspace.
        certificate: Maybe of another workspace.

    Returns:
        The batch, if it is one of this workspace.
    """
    try:
        return state.batches.get(certificate.batch)
    except TicketError:
        return None


def verify_own_ledger(
    state: State, ledger: Ledger, keys: Keyring | None = None, witnesses: Sequence[Mapping[str, Any]] = ()
) -> VerificationResult:
    """Verify the workspace's ledger, against the witness that policy names too.

    Args:
        state: The workspace.
        ledger: Its ledger.
        keys: That are trusted; by default the workspace's own, if it has any.
        witnesses: Envelopes of more of them.

    Returns:
        The outcome.
    """
    found, missing = list(witnesses), []
    named = state.policy.evidence.witness
    if named is not None and Path(named).exists():
        found.append(read_witness(Path(named)))
    elif named is not None:
        missing.append(f"the witness that policy names: {named} is not there")
    own = keys is None and state.signing.exist
    if own:
        keys = state.signing.keyring()
        missing.append("a key from elsewhere: the workspace's own keyring was trusted")
    outcome = verify_ledger(ledger, keys=keys, witnesses=found)
    return _by_own_keys(outcome, own, missing)


def _by_own_keys(outcome: VerificationResult, own: bool, missing: Sequence[str]) -> VerificationResult:
    """An outcome that says whose keys those were, and what else is missing."""
    vouched: Voucher = "own keys" if own and outcome.vouched != "nobody" else outcome.vouched
    return replace(outcome, missing=(*outcome.missing, *missing), vouched=vouched)


def signature_lost(ring: Keyring, folder: Path) -> bool:
    """Whether a certificate is dated after its key was revoked, so that nothing makes its signature count.

    Args:
        ring: Of the workspace.
        folder: Of the certificate.

    Returns:
        Whether it is; what is dated before is vouched for by the ledger.
    """
    envelope = folder / ENVELOPE_FILE
    if not envelope.is_file():
        return False
    dated = datetime.fromisoformat(parse_certificate(read_json(folder / CERTIFICATE_FILE)).issued_at)
    keys = [ring.find(one["keyid"]) for one in read_json(envelope)["signatures"]]
    return all(key is not None and key.revoked is not None and dated >= key.revoked.since for key in keys)


@step
def check_ledger() -> int:
    """Verify the ledger: its chain, its arithmetic, its signed head, and the witness that policy names.

    Returns:
        Number of entries.

    Raises:
        VerificationError: If something does not hold.
    """
    state = open_state()
    ledger = state.ledger.read(state.lineage)
    outcome = verify_own_ledger(state, ledger)
    if not outcome.consistent:
        raise VerificationError("the ledger does not hold", got="; ".join(outcome.findings))
    log(f"ledger of {len(ledger.entries)} entries: verified")
    for line in outcome.missing:
        log(f"ledger, not checked: {line}")
    return len(ledger.entries)


@step
def check_alias() -> int | None:
    """Compare the version that serves with the ledger's last move: MLflow itself keeps no history.

    Returns:
        The version that serves, if there is one.

    Raises:
        VerificationError: If somebody else moved the alias.
    """
    state = open_state()
    ledger, champion = state.ledger.read(state.lineage), access.registry(state).champion()
    served = champion.version if champion else None
    fault = alias_fault(state, ledger, served)
    # whoever is at work on the lineage may have moved it between the two looks
    if fault is not None and not state.batches.lease_held(state.lineage):
        raise VerificationError("the model that serves is not the one that the ledger names", got=fault)
    log(f"version {served} serves, as the ledger says" if served else "no version serves yet")
    return served


@step
def check_certificates() -> int:
    """Verify every certificate of the workspace; one that was undone is told of, and fails until it is replaced.

    Returns:
        Number of certificates.

    Raises:
        VerificationError: If one does not hold.
    """
    state = open_state()
    paths = sorted(state.workspace.evidence_dir.glob("c-*/certificate.json"))
    wrong, own = [], OwnEvidence(state)
    for path in paths:
        certificate = parse_certificate(read_json(path))
        findings = list(own.verify(find_evidence(path)).findings)
        batch, told = batch_of(state, certificate), undone(certificate)
        if told in findings and batch is not None and "certificate_id" in batch.data:
            findings.remove(told)
            log(f"{certificate.certificate_id}: {told}; replaced by {batch.data['certificate_id']}")
        if state.signing.exist and signature_lost(state.signing.keyring(), path.parent):
            # Told when its key was revoked; an alarm that never ends would hide others.
            findings = [one for one in findings if not one.startswith(NOT_VALID_THEN)]
            log(f"{certificate.certificate_id}: its signature does not count any more: the key was revoked")
        if findings:
            wrong.append(f"{path.parent.name}: {'; '.join(findings)}")
    if wrong:
        raise VerificationError(
            f"{len(wrong)} of {len(paths)} certificates do not hold", got="; ".join(wrong)
        )
    log(f"{len(paths)} certificates: verified")
    return len(paths)
