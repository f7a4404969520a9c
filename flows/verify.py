"""Verification of the ledger, by the week."""

from prefect import flow

from expunge.errors import VerificationError
from expunge.evidence.verify import verify_ledger
from expunge.state import open_state


@flow(name="verify", persist_result=False, validate_parameters=False)
def verify() -> None:
    """Verify the ledger.

    Raises:
        VerificationError: If it does not hold.
    """
    state = open_state()
    outcome = verify_ledger(state.ledger.entries(state.lineage))
    if not outcome.verified:
        raise VerificationError("the ledger does not verify")
