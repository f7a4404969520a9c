"""The verification flow: all evidence, and that nobody erased is left. For a weekly schedule."""

from prefect import flow

from tasks.residue import search_residue
from tasks.verification import check_alias, check_certificates, check_ledger


@flow(name="verify", persist_result=False, validate_parameters=False)
def verify() -> None:
    """Verify the ledger, the serving alias, every certificate and that everyone erased is absent; fails if not."""
    check_ledger()
    check_alias()
    check_certificates()
    search_residue()
