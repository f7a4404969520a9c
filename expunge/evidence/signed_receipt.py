"""A signed receipt, verified alone by whoever holds it and the public keys."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from expunge.errors import VerificationError
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import Keyring, standing
from expunge.evidence.ledger import CLOCKS
from expunge.evidence.result import VerificationResult
from expunge.evidence.statements import RECEIPT_PREDICATE, open_statement


def verify_receipt(envelope: Any, keys: Keyring) -> tuple[VerificationResult, dict[str, Any]]:
    """Verify who signed a receipt, and that its key was valid then.

    Args:
        envelope: As plain data.
        keys: That are trusted.

    Returns:
        The outcome, and the receipt; an empty one where no trusted key signed it.
    """
    try:
        said = open_statement(envelope, [key.key for key in keys.of("evidence")], RECEIPT_PREDICATE)
        receipt, signed = said.predicate["receipt"], datetime.fromisoformat(said.predicate["signed_at"])
        if signed.tzinfo is None:
            raise ValueError("signed_at has no time zone")
        digest = hashlib.sha256(canonical_bytes(receipt)).hexdigest()
        named = {f"receipt {receipt['ticket_id']}": digest}
    except VerificationError as error:
        return VerificationResult((f"signature: {error}",)), {}
    except (KeyError, TypeError, ValueError) as error:
        return VerificationResult((f"not a receipt: {error}",)), {}
    findings = [] if dict(said.subjects) == named else ["the statement is about another receipt"]
    if signed > datetime.now(UTC) + CLOCKS:
        findings.append("it is signed in the future")
    found = standing(keys, said.keyids, signed)
    if found.fault is not None:
        findings.append(f"signature: {found.fault}")
    checked = tuple(f"signature by key {keyid[:16]}" for keyid in said.keyids)
    missing = ("what it says of the certificate: verify that one, too", *found.missing)
    return VerificationResult(tuple(findings), missing, checked), receipt
