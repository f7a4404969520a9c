"""Removal: the people's rows leave the dataset; a new DVC version, a git commit naming batch and counts."""

import os

from expunge.datasets.partitions import count_rows, remove_subjects, rows_of
from expunge.residue.fingerprints import row_fingerprints
from expunge.state import open_state
from expunge.tickets.batches import BatchStage
from expunge.tickets.holds import REMOVAL
from tasks.adapters import access
from tasks.coverage import record_dataset
from tasks.step import Timer, log, step


@step
def remove(batch_id: str) -> int:
    """Remove a batch's people from the dataset; what later steps must know is recorded before a byte changes.

    Args:
        batch_id: Of the batch.

    Returns:
        Number of records removed.

    Raises:
        BatchWaitsError: If its ticket is on hold; nothing is changed then.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.REMOVED):
        return int(batch.data["records"])
    state.holds.begin(batch_id, REMOVAL)
    batch = state.batches.get(batch_id)  # a ticket that was held just before has left it
    workspace, placement, repo = state.workspace, state.placement, access.repository(state)
    subjects = state.tickets.subject_ids(batch_id)
    if "before" not in batch.data:
        version = repo.current()
        frame, partitions = rows_of(workspace.dataset_dir, subjects, placement)
        columns = [name for name in frame.columns if name not in ("subject_id", "split")]
        key = os.urandom(32)
        batch = state.batches.record(
            batch_id,
            before={"md5": version.md5, "git_revision": version.git_revision},
            rows_before=count_rows(workspace.dataset_dir),
            records=len(frame),
            train_records=int((frame["split"] == "train").sum()),
            partitions=list(partitions),
            # forgotten when the batch closes
            scan={"key": key.hex(), "columns": columns, "rows": row_fingerprints(frame, columns, key)},
        )
    state.suppressed.add(subjects, batch_id)  # before they leave: from then on nothing may bring them back
    remove_subjects(workspace.dataset_dir, subjects, placement)
    records, people = batch.data["records"], len(batch.tickets)
    after = repo.track_dataset(f"Remove {records} records of {people} subjects ({batch_id})")
    record_dataset(state, after.md5)
    state.batches.advance(
        batch_id,
        BatchStage.REMOVED,
        after={"md5": after.md5, "git_revision": after.git_revision},
        seconds=timer.seconds(batch.data, "removal"),
    )
    log(f"batch {batch_id}: {records} records removed")
    return int(records)
