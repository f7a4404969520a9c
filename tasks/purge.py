"""Purge: superseded bytes are destroyed, and a residue scan proves it; then the tickets close."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from expunge.errors import ResidueError
from expunge.models.kept import destroy_kept
from expunge.residue.scan import Target, scan
from expunge.residue.stores import database
from expunge.state import State, open_state
from expunge.tickets.batches import BatchStage
from tasks.adapters import access
from tasks.adapters.registry import PURGED_TAG
from tasks.residue import scan_workspace
from tasks.step import Timer, log, step


@step
def purge(batch_id: str) -> int:
    """Destroy what a batch superseded and search the workspace for what may be left.

    Args:
        batch_id: Of the batch.

    Returns:
        Bytes of data destroyed.

    Raises:
        ResidueError: If anything is left: a partial failure is a failure.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.PURGED):
        return int(batch.data["purged_bytes"])
    repo, registry = access.repository(state), access.registry(state)
    destroyed = repo.purge(repo.superseded(batch.data["partitions"]))
    registry.purge_weights(batch.data["parent_version"])
    shutil.rmtree(state.workspace.releases_dir / batch_id, ignore_errors=True)
    destroy_kept(state.workspace.curvature_dir)
    saved = batch.data["scan"]
    target = Target(
        subjects=frozenset(state.tickets.subject_ids(batch_id)),
        fingerprints=frozenset(saved["rows"]),
        columns=tuple(saved["columns"]),
        key=bytes.fromhex(saved["key"]),
        texts=tuple(saved["texts"]),
        embedded=saved["embedded"],
    )
    report = scan_workspace(state, target, with_tickets=False)
    if not report.clean:
        places = sorted({str(hit["where"]) for hit in report.hits})
        raise ResidueError(
            "the residue scan found something",
            expected="nothing",
            got="; ".join(places[:5]),
            remedy="remove it, run again",
        )
    total = batch.data.get("purged_bytes", 0) + destroyed
    state.batches.record(batch_id, purged_bytes=total, scan_report=report.to_json())
    state.ledger.append(
        state.lineage,
        kind="purge",
        issued_at=datetime.now(UTC).isoformat(timespec="seconds"),
        batch=batch_id,
        certificate_id=batch.data["certificate_id"],
        details={"purged_version": batch.data["parent_version"], "scan": report.to_json()},
    )
    registry.tag(batch.data["model_version"], "superseded.purged", "true")
    state.batches.advance(batch_id, BatchStage.PURGED, seconds=timer.seconds(batch.data, "purge"))
    log(f"batch {batch_id}: superseded bytes purged, residue scan clean")
    return int(total)


@step
def close(batch_id: str) -> None:
    """Close a purged batch: subject ids and row fingerprints leave the tickets database, free pages too.

    Args:
        batch_id: Of the batch.

    Raises:
        ResidueError: If an id is still in the database.
    """
    state = open_state()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.CLOSED):
        return
    # By pseudonym too: whoever continues an interrupted closing knows the ids no more.
    target = Target(
        subjects=frozenset(state.tickets.subject_ids(batch_id)),
        pseudonyms=frozenset(batch.pseudonyms),
        pseudonymiser=state.pseudonymiser,
    )

    def prove() -> None:
        if not scan([database(state.workspace.database_url, "tickets database")], target).clean:
            raise ResidueError(
                "an id is still in the tickets database",
                expected="none after the tickets were erased",
                remedy="look for it in the reasons of other tickets, then run `expunge run` again",
            )

    state.batches.close(batch_id, prove)
    log(f"batch {batch_id}: closed")


def preview(state: State) -> list[dict[str, Any]]:
    """What a purge would destroy now: superseded data objects and weights of versions that do not serve.

    Args:
        state: The workspace.

    Returns:
        ``{what, where, bytes, why}``; nothing is changed.
    """
    return [*_data(state), *_weights(state), *_curvature(state)]


def _data(state: State) -> Iterator[dict[str, Any]]:
    removed: set[str] = set()
    for batch in state.batches.every():
        removed |= set(batch.data.get("partitions", []))
    for item in access.repository(state).superseded(removed):
        yield {
            "what": f"data object {item.md5[:12]}" if item.md5 else "run-cache entry",
            "where": item.where,
            "bytes": item.size,
            "why": "holds rows of removed people, or their partition's earlier contents",
        }


def _weights(state: State) -> Iterator[dict[str, Any]]:
    registry = access.registry(state)
    champion = registry.champion()
    for number in range(1, champion.version if champion else 0):
        if PURGED_TAG not in registry.get(number).tags:
            yield {
                "what": f"weights of version {number}",
                "where": "MLflow",
                "bytes": None,
                "why": "superseded",
            }


def _curvature(state: State) -> Iterator[dict[str, Any]]:
    """Kept curvature serves the next request and goes with what that supersedes."""
    folder = state.workspace.curvature_dir
    for path in sorted(folder.glob("*")) if folder.is_dir() and state.batches.unfinished() else ():
        yield {
            "what": "kept curvature",
            "where": path.relative_to(state.workspace.root).as_posix(),
            "bytes": path.stat().st_size,
            "why": "was computed from records that are being removed",
        }
