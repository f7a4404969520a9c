"""A signed receipt, verified alone by whoever holds it and the public keys."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from expunge.errors import VerificationError
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import Keyring, standing
from expunge.evidence.ledger import CLOCKS
from expunge.evidence.result import VerificationResult
from expunge.evidence.statements import RECEIPT_PREDICATE, open_statement, read_statement


def verify_receipt(envelope: Any, keys: Keyring | None) -> tuple[VerificationResult, dict[str, Any]]:
    """Verify who signed a receipt, and that its key was valid then.

    Args:
        envelope: As plain data.
        keys: That are trusted; without, its signature is not looked at.

    Returns:
        The outcome, and the receipt; an empty one where it is none, or no trusted key signed it.
    """
    try:
        if keys is None:
            said = read_statement(envelope)
            if said.predicate_type != RECEIPT_PREDICATE:
                return VerificationResult((f"not a receipt: it is of {said.predicate_type}",)), {}
        else:
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
    missing = []
    if "certificate_id" in receipt:
        missing.append("what it says of the certificate: verify that one, too")
    if keys is None:
        missing.append("signature (no key given: --key)")
        return VerificationResult(tuple(findings), tuple(missing), ("structure and digest",)), receipt
    found = standing(keys, said.keyids, signed)
    if found.fault is not None:
        findings.append(f"signature: {found.fault}")
    checked = tuple(f"signature by key {keyid[:16]}" for keyid in said.keyids)
    missing += found.missing
    return VerificationResult(tuple(findings), tuple(missing), checked, "given keys"), receipt
