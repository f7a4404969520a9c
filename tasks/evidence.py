"""What a certificate's page and PDF are made from, as things stand now."""

import json
from pathlib import Path
from typing import Any

from expunge.errors import VerificationError
from expunge.evidence.bundle import CERTIFICATE_FILE, ENVELOPE_FILE
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.statements import CERTIFICATE_PREDICATE, open_statement
from expunge.reports.content import certificate_document
from expunge.reports.document import Document
from expunge.state import State
from tasks.verification import batch_of, rolled_back


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
        signed_by=_signed_by(state, folder, content),
        rolled_back=rolled_back(batch_of(state, certificate), certificate.certificate_id),
    )


def _signed_by(state: State, folder: Path, content: dict[str, Any]) -> str | None:
    """The key whose signature holds on this very certificate; None where there is no signature."""
    file = folder / ENVELOPE_FILE
    if not file.is_file():
        return None
    try:
        envelope = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VerificationError("the envelope is not JSON", got=file.name) from error
    keys = [one.key for one in state.signing.keyring().of("evidence")]
    said = open_statement(envelope, keys, CERTIFICATE_PREDICATE)
    if said.predicate != content:
        raise VerificationError(
            "the signed certificate is not the one beside it",
            expected=f"{folder.name}/certificate.json",
            got="another predicate in certificate.dsse.json",
            remedy="run `expunge certificate verify`",
        )
    return said.keyids[0]
