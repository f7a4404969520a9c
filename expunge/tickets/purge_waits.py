"""What a registered batch's purge waits for: a person's approval, or the end of its superseded weights' quarantine."""

from datetime import UTC, datetime, timedelta

from expunge.database import Database
from expunge.errors import TicketError
from expunge.settings import Policy
from expunge.tickets.batches import Batch, BatchStage, BatchStore
from expunge.tickets.tables import TicketRow


def reason_to_wait(batch: Batch, policy: Policy, now: datetime) -> str | None:
    """Why a batch's purge does not go on, if it does not.

    Args:
        batch: Any.
        policy: Whether a person has to approve.
        now: The time, with its zone.

    Returns:
        The reason, or None.
    """
    if BatchStage.REGISTERED not in (batch.stage, batch.failed_stage):
        return None
    if policy.purge.approval == "required" and "purge_approved_at" not in batch.data:
        return f"the purge waits for approval: `expunge purge approve {batch.batch_id}`"
    until = quarantined_until(batch)
    if until is not None and batch.data.get("only_weights_left") and now < until:
        return f"the superseded weights are in quarantine until {until:%Y-%m-%d %H:%M} UTC"
    return None


def quarantined_until(batch: Batch) -> datetime | None:
    """Until when a batch's superseded weights are in quarantine.

    Args:
        batch: Any.

    Returns:
        The moment that was recorded, if one was.
    """
    text = batch.data.get("quarantined_until")
    return datetime.fromisoformat(text) if text else None


def begin_quarantine(
    batches: BatchStore, database: Database, batch: Batch, days: int, now: datetime
) -> datetime:
    """Record until when a batch's superseded weights are kept; recording it again changes nothing.

    Args:
        batches: Of the workspace.
        database: Theirs.
        batch: Which.
        days: By policy.
        now: The time, with its zone.

    Returns:
        The moment: never later than the first deadline of the batch's tickets.
    """
    recorded = quarantined_until(batch)
    if recorded is not None:
        return recorded
    with database.transaction() as session:
        deadlines = [session.get_one(TicketRow, ticket_id).due_at for ticket_id in batch.tickets]
    until = min([now + timedelta(days=days), *deadlines])
    batches.record(batch.batch_id, quarantined_until=until.isoformat(timespec="seconds"))
    return until


def approve(batches: BatchStore, batch_id: str) -> str:
    """Record a person's approval of a batch's purge; approving again changes nothing.

    Args:
        batches: Of the workspace.
        batch_id: Of the batch.

    Returns:
        When it was approved.

    Raises:
        TicketError: If there is nothing to approve.
    """
    batch = batches.get(batch_id)
    if BatchStage.REGISTERED not in (batch.stage, batch.failed_stage):
        raise TicketError(
            "there is no purge to approve", expected="a batch that is registered", got=str(batch.stage)
        )
    at = str(batch.data.get("purge_approved_at") or datetime.now(UTC).isoformat(timespec="seconds"))
    batches.record(batch_id, purge_approved_at=at)
    return at
