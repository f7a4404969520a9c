"""Rollback of the serving alias to the parent version, while its weights are there; never of data.

The people whom the version had unlearned are in the serving model again: their batch goes back to removed, first and
durably, and is unlearned anew from the parent. What follows is repeated until it is done, by whoever comes first.
"""

import json
from pathlib import Path

from expunge.errors import InputError, RefusedError, VerificationError
from expunge.evidence.model_files import model_digest
from expunge.models.kept import destroy_kept
from expunge.reports.plain_words import bound
from expunge.scratch import scratch
from expunge.stages import install_model
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.holds import PURGE
from expunge.tickets.rollback import roll_back as record_rollback
from tasks.adapters import access
from tasks.adapters.model_pages import write_pages
from tasks.adapters.registry import BATCH_TAG, PURGED_TAG, Version
from tasks.dataset import require_dataset
from tasks.leases import lineage_lease
from tasks.ledger import record_move

_AT_REST = (BatchStage.PLANNED, BatchStage.REGISTERED, BatchStage.PURGED)


def undone_by(state: State, number: int) -> Batch:
    """The batch that a rollback would undo; changes nothing.

    Args:
        state: The workspace.
        number: Of the version that is to serve.

    Returns:
        The batch that registered the version that serves.

    Raises:
        InputError: If there is no such version, or it serves already.
        RefusedError: If it cannot or may not serve again.
    """
    registry = access.registry(state)
    target, champion = registry.get(number), registry.champion()
    if champion is None or champion.version == number:
        raise InputError(f"version {number} serves already", expected="an earlier version")
    if PURGED_TAG in target.tags:
        raise RefusedError(
            f"the weights of version {number} were purged",
            expected="a version that still has weights",
            got=f"purged at {target.tags[PURGED_TAG]}",
            remedy="there is no way back: that is what a purge is for",
        )
    if not state.policy.retention.rollback:
        raise RefusedError(
            "policy allows no rollback",
            expected="retention.rollback: true in policy.yaml",
            got="false",
            remedy="have it allowed; the people of the batch are in the earlier model",
        )
    batch = next((b for b in state.batches.unfinished() if b.batch_id == champion.tags[BATCH_TAG]), None)
    free = (
        batch is not None
        and batch.stage is BatchStage.REGISTERED
        and PURGE not in batch.data.get("begun", [])
    )
    if batch is None or not free or batch.data["parent_version"] != number:
        raise RefusedError(
            "only the release that serves can be undone, and only until its purge",
            expected=f"the parent of version {champion.version}, and its batch at registered",
            got=f"version {number}, and a batch at {batch.stage if batch else BatchStage.CLOSED}",
            remedy="nothing was changed",
        )
    _require_account(batch)
    for other in state.batches.unfinished():
        if other.stage in _AT_REST and (other.stage is not BatchStage.PLANNED or "begun" not in other.data):
            continue
        raise RefusedError(
            "another batch builds on the version that serves",
            got=f"{other.batch_id}, {other.stage}",
            remedy="run `expunge run`: it goes on from the version that serves",
        )
    require_dataset(state, batch)
    _require_admitted(state, target)
    return batch


def _require_account(batch: Batch) -> None:
    if batch.data["release"]["guarantee"] == "exact":
        raise RefusedError(
            "an exact training cannot be undone",
            expected="a noised release",
            got=f"a retraining by {batch.batch_id}, from which the ledger counts anew",
            remedy="the account of the version before it cannot be continued",
        )


def _require_admitted(state: State, target: Version) -> None:
    """The opening has no certificate; that of any other version must be admitted by policy as it is now."""
    if "certificate_id" not in target.tags:
        return
    path = state.workspace.evidence_dir / target.tags["certificate_id"] / "certificate.json"
    c, admit = json.loads(path.read_text(encoding="utf-8")), state.policy.admit
    limit = min(admit.epsilon, state.policy.ledger.composed_epsilon)
    if c["guarantee"] not in admit.classes or c["epsilon"] > limit or c["delta"] > admit.delta:
        raise RefusedError(
            f"policy does not admit the certificate of version {target.version} any more",
            expected=f"{'/'.join(admit.classes)}, epsilon <= {limit:g}, delta <= {admit.delta:g}",
            got=f"{c['guarantee']}, epsilon {bound(c['epsilon'])}, delta {bound(c['delta'])}",
            remedy="unlearn on: `expunge run`",
        )


def roll_back(state: State, number: int) -> Batch:
    """Let the parent of the version that serves serve again.

    Args:
        state: The workspace.
        number: Of the parent.

    Returns:
        The batch, which is to be unlearned again.

    Raises:
        LeaseHeldError: If a run is at work on the lineage.
    """
    with lineage_lease(state):
        batch = undone_by(state, number)
        with scratch(state.workspace.scratch_dir) as place:
            _fetch_parent(state, batch, place)  # what can be wrong is found before anything is changed
        reason = f"version {batch.data['model_version']} was rolled back to {number}; to be unlearned again"
        record_rollback(state.database, batch.batch_id, reason)
        finish_rollback(state, batch.batch_id)
        return state.batches.get(batch.batch_id)


def finish_rollback(state: State, batch_id: str) -> None:
    """Do what a recorded rollback of a batch has not done yet; the caller holds the lineage's lease.

    Args:
        state: The workspace.
        batch_id: Of the batch.

    Raises:
        VerificationError: If the parent's weights are not those that were unlearned from.
    """
    batch = state.batches.get(batch_id)
    if not batch.data.get("unfinished_rollback"):
        return
    registry, number, undone = (
        access.registry(state),
        batch.data["parent_version"],
        batch.data["rolled_back"][-1],
    )
    with scratch(state.workspace.scratch_dir) as place:
        measured = {"accuracy": registry.metrics(registry.get(number))["accuracy"]}
        install_model(_fetch_parent(state, batch, place), state.workspace, measured)
    destroy_kept(state.workspace.curvature_dir)  # it serves one release, which was made
    access.repository(state).commit_stages(f"Roll back to version {number} ({batch_id})")
    record_move(state, undone["version"], number, batch=batch_id, certificate_id=undone["certificate_id"])
    registry.roll_back(undone["version"], number, undone["at"])
    write_pages(registry)
    state.batches.record(batch_id, unfinished_rollback=False)


def _fetch_parent(state: State, batch: Batch, place: Path) -> Path:
    number, registry = batch.data["parent_version"], access.registry(state)
    folder = registry.download(registry.get(number), place)
    found = model_digest(folder)
    if found != batch.data["parent_digest"]:
        raise VerificationError(
            f"the weights of version {number} are not those that the batch unlearned from",
            expected=batch.data["parent_digest"],
            got=found,
            remedy="look at the artifact store of MLflow; the alias was not moved",
        )
    return folder
