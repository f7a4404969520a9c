"""What a registered batch's purge waits for: a person's approval, or the end of its superseded weights' quarantine."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from expunge.database import Database
from expunge.errors import TicketError
from expunge.settings import Policy
from expunge.tickets.batches import Batch, BatchStage, BatchStore
from expunge.tickets.tables import TicketRow


def reason_to_wait(batch: Batch, policy: Policy, now: datetime, others: Iterable[Batch] = ()) -> str | None:
    """Why a batch's purge does not go on, if it does not.

    Args:
        batch: Any.
        policy: Whether a person has to approve.
        now: The time, with its zone.
        others: Batches whose approval may be missing: a purge destroys what earlier ones superseded, too.

    Returns:
        The reason, or None.
    """
    if not _registered(batch):
        return None
    for one in (batch, *_earlier(batch, others)):
        if policy.purge.approval == "required" and "purge_approved_at" not in one.data:
            whose = "" if one is batch else f" of the earlier batch {one.batch_id}"
            return f"the purge waits for approval{whose}: `expunge purge approve {one.batch_id}`"
    until = quarantined_until(batch)
    if until is not None and batch.data.get("only_weights_left") and now < until:
        return f"the superseded weights are in quarantine until {until:%Y-%m-%d %H:%M} UTC"
    return None


def _registered(batch: Batch) -> bool:
    return BatchStage.REGISTERED in (batch.stage, batch.failed_stage)


def _earlier(batch: Batch, others: Iterable[Batch]) -> list[Batch]:
    """Those that are registered, with an earlier version of the model, and not purged: earliest first."""
    version = batch.data.get("model_version", 0)
    found = [one for one in others if _registered(one) and one.data.get("model_version", version) < version]
    return sorted(found, key=lambda one: int(one.data["model_version"]))


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
        The moment: not before the quarantines of earlier batches end, whose weights go too, and never later than the
        first deadline of the batch's tickets. One that is over is not recorded.
    """
    recorded = quarantined_until(batch)
    if recorded is not None:
        return recorded
    with database.transaction() as session:
        deadlines = [session.get_one(TicketRow, ticket_id).due_at for ticket_id in batch.tickets]
    earlier = [quarantined_until(one) for one in _earlier(batch, batches.unfinished())]
    until = min([max([now + timedelta(days=days), *filter(None, earlier)]), *deadlines])
    if until > now:
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
