"""What follows from a stolen key: it is revoked, and the ledger that it signed is signed anew by its successor."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from expunge.errors import VerificationError
from expunge.evidence.keyring import PublicKey
from expunge.evidence.witness import write_witness
from expunge.state import State
from tasks.verification import signature_lost, verify_own_ledger


@dataclass(frozen=True)
class Revoked:
    """What a revocation did.

    Args:
        key: The key.
        entries: Of the ledger, whose head a key that counts signs; None where there is no ledger.
        witnessed: Whether the ledger was held against a witness.
        lost: Ids of certificates dated from the revocation on: their signature counts no more.
    """

    key: PublicKey
    entries: int | None
    witnessed: bool
    lost: tuple[str, ...]


def revoke_key(state: State, keyid: str, since: datetime, reason: str) -> Revoked:
    """Revoke a key. Doing it again does what is left to do.

    Args:
        state: The workspace.
        keyid: Of a key that does not sign any more; its beginning will do.
        since: From when on nothing that it signed counts.
        reason: For auditors.

    Returns:
        What was done.

    Raises:
        InputError: If there is no such key, or it cannot be revoked like this.
        VerificationError: If the ledger does not hold: the key is revoked, and nothing was signed anew.
    """
    # The revocation first: whatever is wrong with the ledger, auditors have to learn of it.
    key = state.signing.revoke(keyid, since, reason, datetime.now(UTC))
    ring = state.signing.keyring()
    ledger = state.ledger.read(state.lineage)
    if key.use != "evidence" or not ledger.entries:
        return Revoked(key, None, False, ())
    outcome = verify_own_ledger(state, ledger, ring.before_revocations())
    if not outcome.consistent:
        raise VerificationError(
            "the key is revoked, but the ledger does not hold, and is not signed anew",
            got="; ".join(outcome.findings),
            remedy="bring back the ledger of before (a backup of the database) and run the same command again",
        )
    sealed = state.ledger.sign_anew(state.lineage)
    witness = state.policy.evidence.witness
    witnessed = witness is not None and Path(witness).exists()
    if witness is not None and witnessed:
        write_witness(Path(witness), sealed, ring, of_earlier=ring.before_revocations())
    folders = sorted(path.parent for path in state.workspace.evidence_dir.glob("c-*/certificate.json"))
    lost = tuple(folder.name for folder in folders if signature_lost(ring, folder))
    return Revoked(key, len(sealed.entries), witnessed, lost)
