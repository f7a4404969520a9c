"""Events to Prefect: what its automations may start work on."""

import logging
import os

RECEIVED = "expunge.ticket.received"
_log = logging.getLogger("expunge.events")


def emit_received(ticket_id: str) -> bool:
    """Tell Prefect that a ticket was filed, if a server is named; whatever goes wrong is logged and no more.

    The ticket is stored already: the scheduled sweep finds it without the event.

    Args:
        ticket_id: Of the ticket.

    Returns:
        Whether the event was handed to Prefect.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return False
    try:
        from prefect.events import emit_event

        event = emit_event(
            event=RECEIVED,
            resource={"prefect.resource.id": f"expunge.ticket.{ticket_id}"},
            payload={"ticket_id": ticket_id},
        )
    except Exception as error:  # Prefect's own settings, network and schema errors have no common base
        return _not_told(ticket_id, type(error).__name__)
    return event is not None or _not_told(ticket_id, "Prefect did not take it")


def _not_told(ticket_id: str, why: str) -> bool:
    fields = {"ticket_id": ticket_id}
    _log.warning("no event for %s: %s; the sweep will find the ticket", ticket_id, why, extra=fields)
    return False
