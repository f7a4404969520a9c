"""The policy of a batch: pinned when it is planned, recorded in the ledger, and the same until its certificate.

Noise, error bound and gates are a promise only if nobody chose them for the people at hand. Before anything of a batch
was removed it is planned anew under another policy; afterwards a change stops it.
"""

import shutil
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from expunge.errors import InputError, RefusedError
from expunge.evidence.canonical import digest
from expunge.evidence.ledger import LedgerEntry, policy_of
from expunge.settings import Policy
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.holds import REMOVAL
from expunge.tickets.intake import check_reason
from expunge.tickets.lifecycle import OPEN
from tasks.leases import lineage_lease
from tasks.ledger import append


def pin(state: State, batch: Batch) -> Batch:
    """Pin the policy that lies there on a batch that is planned, and state it in the ledger.

    Args:
        state: The workspace.
        batch: Which.

    Returns:
        The batch.

    Raises:
        RefusedError: If it has begun, and policy is another than the one it began with.
    """
    if batch.done(BatchStage.CERTIFIED):
        return batch
    if not _begun(batch) and "policy" in batch.data and _differences(state, batch):
        # the guards of the other policy have refused what they refused: they look again
        batch = state.batches.record(
            batch.batch_id, policy=_pinned(state), guards=None, refused=[], refusals=[]
        )
    batch = require_policy(state, batch)
    record_policy(state, batch.data["policy"])
    return batch


def require_policy(state: State, batch: Batch) -> Batch:
    """Refuse to go on with a batch under another policy than the one that is pinned on it.

    Args:
        state: The workspace, with the policy that the caller goes on with.
        batch: Which; one that an earlier release began has no policy yet, and has this one from now on.

    Returns:
        The batch.

    Raises:
        RefusedError: If they differ.
    """
    if "policy" not in batch.data:
        batch = state.batches.record(batch.batch_id, policy=_pinned(state))
    differences = _differences(state, batch)
    if differences:
        raise RefusedError(
            f"policy.yaml was changed under batch {batch.batch_id}",
            expected=f"the policy that was pinned when it was planned, at {batch.data['policy']['pinned_at']}",
            got=f"another {', another '.join(differences)}",
            remedy="put the values back until the batch is certified; or, if the change is to hold for it, "
            f"`expunge policy accept {batch.batch_id} --reason TEXT`, which the ledger tells for ever",
        )
    return batch


def record_policy(
    state: State, pinned: dict[str, Any] | None = None, batch_id: str | None = None, reason: str | None = None
) -> LedgerEntry | None:
    """State in the ledger which policy holds, unless its last statement is the same.

    Args:
        state: The workspace.
        pinned: The policy of a batch; by default the one that lies there.
        batch_id: Of the batch that it was changed under.
        reason: Why it was.

    Returns:
        The entry; None if nothing had to be stated, or no ledger is opened yet.
    """
    pinned, entries = pinned or _pinned(state), state.ledger.entries(state.lineage)
    last = policy_of(entries)
    held = last.policy.new if last is not None and last.policy is not None else None
    if not entries or held == pinned["digest"]:
        return None
    details = {
        "old": held,
        "new": pinned["digest"],
        "replaces": last.sequence if last is not None else None,
        "content": pinned["content"],
        "requests_open": bool(state.tickets.select(states=OPEN, limit=1)),
        "accepted": reason,
    }
    return append(state, kind="policy", batch=batch_id, details=details)


def accept(state: State, batch_id: str, reason: str) -> None:
    """Let a change of policy hold for a batch that has begun; a release that is not validated is made anew.

    Args:
        state: The workspace.
        batch_id: Of the batch.
        reason: Why; the ledger shows it for ever.

    Raises:
        InputError: If there is nothing to accept, or the reason will not do.
        RefusedError: If its release is validated already.
        LeaseHeldError: If a batch is at work on the lineage.
    """
    waiting = [ticket.ticket_id for ticket in state.tickets.select(states=OPEN)]
    for subject in [None, *state.tickets.subjects_of(waiting)]:
        check_reason(reason, subject)
    with lineage_lease(state):
        batch = state.batches.get(batch_id)
        stage = BatchStage(batch.failed_stage) if batch.failed_stage else batch.stage
        if "policy" not in batch.data or not _begun(batch) or not _differences(state, batch):
            raise InputError(
                "there is no change of policy to accept",
                expected="a batch that has begun to remove people under another policy",
                got=f"batch {batch_id}, {stage}",
                remedy="run `expunge run`: before the removal a batch is planned under the policy that lies there",
            )
        if stage not in (BatchStage.PLANNED, BatchStage.REMOVED, BatchStage.UNLEARNED):
            raise RefusedError(
                "the release of this batch was validated under the policy that is pinned on it",
                got=f"batch {batch_id}, {stage}",
                remedy="put policy.yaml back until the batch is certified",
            )
        pinned = _pinned(state)
        record_policy(state, pinned, batch_id, reason)  # first: who continues after a crash accepts it again
        state.batches.resume(batch_id)
        state.batches.record(batch_id, order=[])  # which mechanisms are admissible is asked anew
        state.batches.step_back(batch_id)
        shutil.rmtree(state.workspace.releases_dir / batch_id, ignore_errors=True)
        state.batches.record(batch_id, policy=pinned)


def _pinned(state: State) -> dict[str, Any]:
    content = state.policy.guarantee_content()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"digest": digest(content), "pinned_at": now, "content": content}


def _begun(batch: Batch) -> bool:
    """Whether its people may have begun to leave the dataset."""
    stage = BatchStage(batch.failed_stage) if batch.failed_stage else batch.stage
    return stage is not BatchStage.PLANNED or REMOVAL in batch.data.get("begun", []) or "before" in batch.data


def _differences(state: State, batch: Batch) -> list[str]:
    """Where the policy that lies there differs from the pinned one; a newer release's new values are their defaults."""
    try:
        before = Policy.model_validate(batch.data["policy"]["content"]).guarantee_content()
    except ValidationError:
        return ["meaning of its values in this release"]
    return list(_changed(before, state.policy.guarantee_content(), ""))


def _changed(before: Any, now: Any, where: str) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [where] if before != now else []
    names = sorted({*before, *now})
    return [
        place
        for name in names
        for place in _changed(before.get(name), now.get(name), f"{where}.{name}" if where else name)
    ]
