"""Signed evidence: the envelope around a certificate, its time stamp, and the signature on the model's files."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from expunge.evidence.bundle import ENVELOPE_FILE, STAMP_FILE
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import KEYRING_FILE
from expunge.evidence.model_check import MODEL_SIGNATURE_FILE
from expunge.evidence.model_files import file_digests
from expunge.evidence.statements import CERTIFICATE_PREDICATE, RECEIPT_PREDICATE, sign_statement
from expunge.files import replace_file, write_json
from expunge.scratch import scratch
from expunge.state import State
from tasks.adapters.model_signing import sign_model
from tasks.adapters.timestamps import time_stamp

SIGNED_FILES = (
    ENVELOPE_FILE,
    KEYRING_FILE,
    MODEL_SIGNATURE_FILE,
)  # of every certificate; a stamp only if asked for


def require_signer(state: State) -> None:
    """Refuse early what could not be signed in the end.

    Args:
        state: The workspace.

    Raises:
        WorkspaceError: If there are no signing keys, or one cannot be used.
    """
    state.signing.signer()
    state.signing.model_key()


def sign_certificate(state: State, certificate: dict[str, Any], model: Path) -> dict[str, Any]:
    """Sign a certificate. Both are recorded together: a key that is newer than the certificate could not vouch for it.

    Args:
        state: The workspace.
        certificate: As plain data, issued now.
        model: Folder of the model's files.

    Returns:
        A DSSE envelope.

    Raises:
        WorkspaceError: If the key cannot be used.
    """
    return sign_statement(state.signing.signer(), CERTIFICATE_PREDICATE, file_digests(model), certificate)


def write_signed(state: State, envelope: dict[str, Any], model: Path, folder: Path) -> str:
    """Put the signed form of a certificate beside it; repeating it makes no second time stamp.

    Args:
        state: The workspace.
        envelope: Of the certificate.
        model: Folder of the model's files.
        folder: Of the evidence.

    Returns:
        Id of the key that signed it.

    Raises:
        WorkspaceError: If the key for model files cannot be used.
        ServiceUnavailableError: If policy wants a time stamp and there is none to be had.
    """
    write_json(folder / ENVELOPE_FILE, envelope)
    write_json(folder / KEYRING_FILE, state.signing.keyring().to_json())
    _, private = state.signing.model_key()
    with scratch(state.workspace.scratch_dir) as place:
        key = place / "model.key"
        key.touch(mode=0o600)
        key.write_bytes(private)
        sign_model(model, key, place / MODEL_SIGNATURE_FILE)
        replace_file(folder / MODEL_SIGNATURE_FILE, (place / MODEL_SIGNATURE_FILE).read_bytes())
    stamp = stamper(state)
    if stamp is not None and not (folder / STAMP_FILE).exists():
        replace_file(folder / STAMP_FILE, stamp(canonical_bytes(envelope)))
    return str(envelope["signatures"][0]["keyid"])


def stamper(state: State) -> Callable[[bytes], bytes] | None:
    """What stamps bytes, where policy names an authority.

    Args:
        state: The workspace.

    Returns:
        It raises :class:`expunge.errors.ServiceUnavailableError` if the authority gives no stamp.
    """
    url = state.policy.evidence.timestamp_url
    return None if url is None else partial(time_stamp, url=url)


def sign_receipt(state: State, receipt: dict[str, Any]) -> dict[str, Any]:
    """Sign a receipt.

    Args:
        state: The workspace.
        receipt: As plain data.

    Returns:
        A DSSE envelope, whose subject is the receipt itself by its digest.
    """
    subject = hashlib.sha256(canonical_bytes(receipt)).hexdigest()
    content = {"receipt": receipt, "signed_at": datetime.now(UTC).isoformat()}
    return sign_statement(
        state.signing.signer(), RECEIPT_PREDICATE, {f"receipt {receipt['ticket_id']}": subject}, content
    )
