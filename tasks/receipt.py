"""The receipt of a ticket, from the evidence in the workspace."""

from typing import Any

from expunge.errors import TicketError, VerificationError
from expunge.reports.decision import make_decision
from expunge.reports.receipt import make_receipt
from expunge.state import State
from expunge.tickets.lifecycle import TicketState


def receipt_of(state: State, ticket_id: str) -> dict[str, Any]:
    """The receipt of a ticket that is closed, or was rejected or withdrawn.

    Args:
        state: The workspace.
        ticket_id: Of the ticket.

    Returns:
        Plain data, without a subject id.

    Raises:
        TicketError: If the ticket is open.
        VerificationError: If the ledger has no entry of its purge.
    """
    ticket, organisation = state.tickets.get(ticket_id), state.policy.organisation.model_dump()
    if ticket.state in (TicketState.REJECTED, TicketState.WITHDRAWN):
        return make_decision(ticket.to_json(), state.tickets.history(ticket_id), organisation)
    if ticket.state != TicketState.CLOSED or ticket.batch_id is None:
        raise TicketError(
            "there is no receipt of an open ticket",
            expected="a rejected, a withdrawn or a closed ticket",
            got=ticket.state,
            remedy="see `expunge ticket show`",
        )
    batch = state.batches.get(ticket.batch_id)
    purges = [
        entry
        for entry in state.ledger.entries(state.lineage)
        if (entry.kind, entry.batch) == ("purge", batch.batch_id)
    ]
    if not purges:
        raise VerificationError(
            "the ledger does not prove the purge of this ticket's batch",
            expected="a purge entry",
            got=f"none for {batch.batch_id}",
            remedy="run `expunge ledger verify`",
        )
    return make_receipt(
        ticket.to_json(),
        state.tickets.history(ticket_id),
        batch.data["certificate"],
        purges[-1].to_json(),
        batch.data.get("backups", []),
        organisation,
    )
