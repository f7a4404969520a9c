"""Verification of what was promised: every certificate, and the ledger."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from expunge.errors import TicketError, VerificationError
from expunge.evidence.annex import ANNEX_FILE
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger_file import Ledger
from expunge.evidence.result import VerificationResult
from expunge.evidence.verify import undone, verify_certificate
from expunge.evidence.verify_ledger import verify_ledger
from expunge.evidence.witness import read_witness
from expunge.state import State, open_state
from expunge.tickets.batches import Batch
from tasks.adapters import access
from tasks.ledger import alias_fault
from tasks.step import log, step


def verify_one(state: State, certificate: Certificate) -> VerificationResult:
    """Verify a certificate against the workspace: its ledger, its annex, the files that serve.

    Args:
        state: The workspace.
        certificate: Of this workspace.

    Returns:
        What holds, what is missing, what does not hold.
    """
    annex = state.workspace.evidence_dir / certificate.certificate_id / ANNEX_FILE
    return verify_certificate(
        certificate,
        ledger=state.ledger.entries(state.lineage),
        annex=annex.read_bytes() if annex.is_file() else None,
        model_digest=_served_digest(state, certificate),
        rolled_back=rolled_back(_batch(state, certificate), certificate.certificate_id),
    )


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


def _batch(state: State, certificate: Certificate) -> Batch | None:
    try:
        return state.batches.get(certificate.batch)
    except TicketError:
        return None


def _served_digest(state: State, certificate: Certificate) -> str | None:
    """Digest of the files that serve, if this certificate is about them."""
    from expunge.models.serving import model_digest  # with torch: a sweep that has nothing to do needs none
    from expunge.stages import MODEL_FOLDER

    champion = access.registry(state).champion()
    folder = state.workspace.build_dir / MODEL_FOLDER
    if champion is None or champion.version != certificate.model.version or not folder.is_dir():
        return None
    return model_digest(folder)


def verify_own_ledger(
    state: State, ledger: Ledger, keys: Keyring | None = None, witnesses: Sequence[Path] = ()
) -> VerificationResult:
    """Verify the workspace's ledger, against the witness that policy names too.

    Args:
        state: The workspace.
        ledger: Its ledger.
        keys: That are trusted; by default the workspace's own, if it has any.
        witnesses: More of them.

    Returns:
        The outcome.
    """
    found, missing = [read_witness(path) for path in witnesses], []
    named = state.policy.evidence.witness
    if named is not None and Path(named).exists():
        found.append(read_witness(Path(named)))
    elif named is not None:
        missing.append(f"the witness that policy names: {named} is not there")
    if keys is None and state.signing.exist:
        keys = state.signing.keyring()
        missing.append("a key from elsewhere: the workspace's own keyring was trusted")
    outcome = verify_ledger(ledger, keys=keys, witnesses=found)
    return replace(outcome, missing=(*outcome.missing, *missing))


@step
def check_ledger() -> int:
    """Verify the ledger, its head and its witness, and that the alias is where the ledger moved it.

    Returns:
        Number of entries.

    Raises:
        VerificationError: If something does not hold.
    """
    state = open_state()
    ledger = state.ledger.read(state.lineage)
    outcome = verify_own_ledger(state, ledger)
    findings = [*outcome.findings, *_alias_findings(state, ledger)]
    if findings:
        raise VerificationError("the ledger does not hold", got="; ".join(findings))
    log(
        f"ledger of {len(ledger.entries)} entries: verified; {'; '.join(outcome.missing) or 'nothing is missing'}"
    )
    return len(ledger.entries)


def _alias_findings(state: State, ledger: Ledger) -> list[str]:
    champion = access.registry(state).champion()
    fault = alias_fault(state, ledger, champion.version if champion else None)
    if fault is None or state.batches.lease_held(
        state.lineage
    ):  # whoever is at work may be moving it just now
        return []
    return [fault]


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
    wrong = []
    for path in paths:
        certificate = parse_certificate(json.loads(path.read_text(encoding="utf-8")))
        findings = list(verify_one(state, certificate).findings)
        batch, told = _batch(state, certificate), undone(certificate)
        if told in findings and batch is not None and "certificate_id" in batch.data:
            findings.remove(told)
            log(f"{certificate.certificate_id}: {told}; replaced by {batch.data['certificate_id']}")
        if findings:
            wrong.append(f"{path.parent.name}: {'; '.join(findings)}")
    if wrong:
        raise VerificationError(
            f"{len(wrong)} of {len(paths)} certificates do not hold", got="; ".join(wrong)
        )
    log(f"{len(paths)} certificates: verified")
    return len(paths)
