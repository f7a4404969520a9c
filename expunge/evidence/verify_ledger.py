"""Verification of a ledger: its chain and its arithmetic."""

from collections.abc import Sequence

from expunge.evidence.ledger import LedgerEntry, check_ledger
from expunge.evidence.result import VerificationResult


def verify_ledger(entries: Sequence[LedgerEntry]) -> VerificationResult:
    """Recompute a ledger's chain and arithmetic.

    Args:
        entries: In order.

    Returns:
        The outcome; an empty ledger is a finding.
    """
    if not entries:
        return VerificationResult(("the ledger is empty",))
    findings = check_ledger(entries)
    return VerificationResult(
        tuple(findings),
        missing=("signatures (not part of this version)",),
        checked=(f"{len(entries)} entries: chain and sequential arithmetic",),
    )
