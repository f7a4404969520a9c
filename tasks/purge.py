"""Purge: superseded bytes are destroyed, and a residue scan proves it; then the tickets close."""

from datetime import UTC, datetime
from typing import Any

from expunge.errors import BatchWaitsError, ResidueError
from expunge.residue.scan import ScanReport, Target, scan
from expunge.residue.stores import database
from expunge.state import State, open_state
from expunge.subjects import folded, likely
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.holds import PURGE
from expunge.tickets.purge_journal import DONE, FREE_PAGES, KEPT, PENDING, Entry
from expunge.tickets.purge_waits import begin_quarantine, reason_to_wait
from tasks.adapters import access
from tasks.adapters.model_pages import PURGE_RECORD, SUPERSEDED_TAG, write_pages
from tasks.coverage import declared_late, mark_purged
from tasks.dataset_head import require_newest
from tasks.destruction import UNNAMED, WEIGHTS, begin_weights, destroy, plan, quarantine
from tasks.ingest import finish_import
from tasks.ledger import append, publish_purge
from tasks.residue import scan_workspace
from tasks.spellings import residue_found, searched_forms
from tasks.step import Timer, log, step


@step
def purge(batch_id: str) -> int:
    """Destroy what a batch superseded and search the workspace for what may be left.

    Args:
        batch_id: Of the batch.

    Returns:
        Bytes destroyed.

    Raises:
        RefusedError: If the dataset that is checked out is not the newest version; nothing is changed then.
        BatchWaitsError: If a ticket on hold may need what would be destroyed, or an approval is missing; nothing is
            changed then. Or if all but weights in quarantine is destroyed.
        ResidueError: If anything is left: a partial failure is a failure.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.PURGED):
        return int(batch.data["purged_bytes"])
    now = datetime.now(UTC)
    if (waits := reason_to_wait(batch, state.policy, now, state.batches.unfinished())) is not None:
        raise BatchWaitsError(waits)
    finish_import(state)  # one that was killed: the newest version is a whole one
    require_newest(state, stored=True)
    state.holds.begin(batch_id, PURGE)
    entries = state.purges.write(batch_id, plan(state, batch))
    if "only_weights_left" not in batch.data:
        _destroy_all_but_weights(state, batch, entries, now)
    _execute(state, batch_id, entries)
    report = _search(state, batch)
    destroyed, kept = _sum(state.purges.entries(batch_id))
    declared = [backup.model_dump() for backup in state.policy.backups]  # for the receipt: policy may change
    state.batches.record(batch_id, purged_bytes=destroyed, scan_report=report.to_json(), backups=declared)
    late = declared_late(state, batch)
    entry = append(
        state,
        kind="purge",
        batch=batch_id,
        certificate_id=batch.data["certificate_id"],
        details={
            "purged_version": batch.data["parent_version"],
            "scan": report.to_json(),
            **({"kept": kept} if kept else {}),
            **({"declared_late": late} if late else {}),
        },
    )
    publish_purge(state, batch, entry)
    mark_purged(state, batch)
    registry = access.registry(state)
    version = registry.get(batch.data["model_version"])
    registry.attach(version, PURGE_RECORD, entry.to_json())
    registry.tag(version.version, SUPERSEDED_TAG, entry.issued_at)  # after the record: the page links to it
    write_pages(registry)
    state.batches.advance(batch_id, BatchStage.PURGED, seconds=timer.seconds(batch.data, "purge"))
    log(f"batch {batch_id}: superseded bytes purged, residue scan clean")
    return destroyed


def _destroy_all_but_weights(state: State, batch: Batch, entries: list[Entry], now: datetime) -> None:
    """Put the superseded weights into quarantine, where there is time for one, and destroy everything else."""
    days = state.policy.retention.quarantine_days
    until = begin_quarantine(state.batches, state.database, batch, days, now)
    if until <= now:
        return
    quarantine(state, entries, until.isoformat(timespec="seconds"))
    write_pages(access.registry(state))
    _execute(state, batch.batch_id, [e for e in entries if e.item.kind not in (WEIGHTS, UNNAMED, FREE_PAGES)])
    batch = state.batches.record(batch.batch_id, only_weights_left=True)
    raise BatchWaitsError(str(reason_to_wait(batch, state.policy, now)))


def _execute(state: State, batch_id: str, entries: list[Entry]) -> None:
    """Destroy what is pending, in the journal's order, and mark each when it is gone."""
    needed = access.repository(state).needed()
    for entry in entries:
        if entry.state == PENDING:
            begin_weights(state, batch_id, entry.item)
            destroy(state, entry.item, needed)
            state.purges.done(batch_id, entry.number)


def _search(state: State, batch: Batch) -> ScanReport:
    saved, subjects = batch.data["scan"], state.tickets.subject_ids(batch.batch_id)
    target = Target(
        subjects=frozenset(subjects),
        fingerprints=frozenset(saved["rows"]),
        columns=tuple(saved["columns"]),
        key=bytes.fromhex(saved["key"]),
        pseudonymiser=state.pseudonymiser,
        texts=tuple(saved.get("texts", ())),  # not there in a batch of an earlier release
        embedded=saved.get("embedded", {}),
        forms=searched_forms(state, subjects),
    )
    report = scan_workspace(state, target, with_tickets=False)
    if not report.clean:
        raise residue_found(state, batch, report)
    return report


def _sum(entries: list[Entry]) -> tuple[int, list[dict[str, Any]]]:
    """Bytes destroyed, and what had to stay."""
    destroyed = sum(entry.item.bytes or 0 for entry in entries if entry.state == DONE)
    kept = [entry.item for entry in entries if entry.state == KEPT]
    return destroyed, [{"what": item.what, "where": item.where, "why": item.why} for item in kept]


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
    # Tickets that are open hold their people's ids, and one of them may be of the same person under another spelling.
    others = state.tickets.open_subjects(besides=batch_id)
    forms = {folded(one) for one in others}
    subjects = [one for one in state.tickets.subject_ids(batch_id) if folded(one) not in forms]
    # By pseudonym too: whoever continues an interrupted closing knows the ids no more.
    open_names = {
        name for one in others for spelled in likely(one) for name in state.pseudonymiser.every(spelled)
    }
    target = Target(
        subjects=frozenset(subjects),
        pseudonyms=frozenset(batch.pseudonyms) - open_names,
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
