"""What a certificate's page and PDF are made from, as things stand now."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from expunge.errors import VerificationError
from expunge.evidence.bundle import CERTIFICATE_FILE, ENVELOPE_FILE
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.keyring import standing
from expunge.evidence.statements import CERTIFICATE_PREDICATE, open_statement
from expunge.reports.content import certificate_document
from expunge.reports.document import Document
from expunge.state import State
from tasks.verification import batch_of, rolled_back, verify_own_ledger


def document_of(state: State, folder: Path) -> Document:
    """A certificate as people read it, on a page or in a PDF.

    Args:
        state: The workspace.
        folder: Of its evidence.

    Returns:
        The document: of the certificate, today's ledger, which key signed it, and whether its release was rolled back.

    Raises:
        VerificationError: If the certificate is malformed, or its signature is not one of this workspace's keys.
    """
    try:
        content = json.loads((folder / CERTIFICATE_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise VerificationError(
            "the certificate is not JSON", got=folder.name, remedy="ask for the original"
        ) from error
    certificate = parse_certificate(content)
    return certificate_document(
        content,
        [entry.to_json() for entry in state.ledger.entries(state.lineage)],
        signed_by=_signed_by(state, folder, certificate, content),
        rolled_back=rolled_back(batch_of(state, certificate), certificate.certificate_id),
    )


def _signed_by(state: State, folder: Path, certificate: Certificate, content: dict[str, Any]) -> str | None:
    """The key whose signature holds on this very certificate; None where there is no signature."""
    file = folder / ENVELOPE_FILE
    if not file.is_file():
        return None
    try:
        envelope = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VerificationError("the envelope is not JSON", got=file.name) from error
    ring = state.signing.keyring()
    said = open_statement(envelope, [one.key for one in ring.of("evidence")], CERTIFICATE_PREDICATE)
    if said.predicate != content:
        raise VerificationError(
            "the signed certificate is not the one beside it",
            expected=f"{folder.name}/certificate.json",
            got="another predicate in certificate.dsse.json",
            remedy="run `expunge certificate verify`",
        )
    ledger = state.ledger.read(state.lineage)
    checked = CheckedLedger.of(ledger.entries, verify_own_ledger(state, ledger, ring))
    covered = checked.vouches_for(certificate)
    found = standing(ring, said.keyids, datetime.fromisoformat(certificate.issued_at), covered=covered)
    if found.fault is not None:
        raise VerificationError(
            "the signature of the certificate does not count",
            got=found.fault,
            remedy="see `expunge certificate verify`; no page says that it is signed",
        )
    return said.keyids[0]
