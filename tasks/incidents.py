"""Incidents: an attack contradicted a certificate. Its mechanism is suspect until an officer clears it."""

from expunge.errors import InputError
from expunge.evidence.ledger import LedgerEntry, suspects_of
from expunge.mechanisms.planner import mechanism_named
from expunge.state import State
from expunge.tickets.batches import Batch
from expunge.tickets.intake import check_reason
from expunge.tickets.lifecycle import OPEN
from tasks.alarms import alarm_of_batch
from tasks.leases import lineage_lease
from tasks.ledger import append

CONTRADICTED = "an attack contradicts the certificate"


def suspect(state: State, batch: Batch) -> LedgerEntry:
    """Make the mechanism of a batch's release suspect: no plan takes it until it is cleared.

    Args:
        state: The workspace.
        batch: Whose release an attack contradicts; it must not be registered.

    Returns:
        The ledger's entry; repeating it finds the first.
    """
    name = batch.data["release"]["mechanism"]
    details = {
        "event": "suspected",
        "mechanism": name,
        "reason": "the lower bound on epsilon of an attack on a release is above the certified epsilon",
        "draws": batch.draws,
        "clears": None,
    }
    entry = append(state, kind="incident", batch=batch.batch_id, details=details)
    alarm_of_batch(
        state, batch.batch_id, f"{CONTRADICTED}: {name} is suspect, and no batch is unlearned by it"
    )
    return entry


def clear(state: State, mechanism: str, reason: str) -> LedgerEntry:
    """Let a suspect mechanism be planned again.

    Args:
        state: The workspace.
        mechanism: Its name.
        reason: Why; the ledger shows it for ever.

    Returns:
        The ledger's entry.

    Raises:
        CertificateRefusedError: If there is no such mechanism.
        InputError: If it is not suspect, or the reason will not do.
        LeaseHeldError: If a batch is at work on the lineage.
    """
    mechanism_named(mechanism)
    waiting = [ticket.ticket_id for ticket in state.tickets.select(states=OPEN)]
    for subject in [None, *state.tickets.subjects_of(waiting)]:
        check_reason(reason, subject)
    suspects = suspects_of(state.ledger.entries(state.lineage))
    if mechanism not in suspects:
        raise InputError(
            "the mechanism is not suspect",
            expected=", ".join(suspects) or "a suspect one; there is none",
            got=mechanism,
            remedy="see `expunge mechanism list`",
        )
    details = {
        "event": "cleared",
        "mechanism": mechanism,
        "reason": reason,
        "draws": None,
        "clears": suspects[mechanism],
    }
    with lineage_lease(state):
        return append(state, kind="incident", details=details)
