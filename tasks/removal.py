"""Removal: the people's rows leave the dataset; a new DVC version, a git commit naming batch and counts."""

import json
import os
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from expunge.datasets.partitions import (
    count_rows,
    partition_files,
    remove_subjects,
    rows_of,
    salted,
)
from expunge.datasets.preprocessing import Preprocessing
from expunge.evidence.model_files import MODEL_FILE
from expunge.residue.embedded import embeddings
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.model_parts import row_views
from expunge.stages import MODEL_FOLDER
from expunge.state import State, open_state
from expunge.tickets.batches import BatchStage
from expunge.tickets.holds import REMOVAL
from tasks.adapters import access
from tasks.coverage import record_dataset
from tasks.dataset_head import require_newest
from tasks.policy import require_policy
from tasks.spellings import alike_in_dataset, require_all_spellings, require_no_file
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
        RefusedError: If the dataset that is checked out is not the newest version; likewise.
        ResidueError: If people are in the dataset under other spellings too, or in files beside it; likewise.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.REMOVED):
        return int(batch.data["records"])
    require_policy(state, batch)
    if "before" not in batch.data:
        asked = state.tickets.subject_ids(batch_id)
        require_all_spellings(state, asked)
        require_no_file(state, asked)
    state.holds.begin(batch_id, REMOVAL)
    batch = state.batches.get(batch_id)  # a ticket that was held just before has left it
    workspace, placement, repo = state.workspace, state.placement, access.repository(state)
    subjects = state.tickets.subject_ids(batch_id)
    if "before" not in batch.data:
        require_newest(state, stored=False)
        version = repo.current()
        frame, partitions = rows_of(workspace.dataset_dir, subjects, placement)
        batch = state.batches.record(
            batch_id,
            before={"md5": version.md5, "git_revision": version.git_revision},
            map_mark=state.coverage.last(),  # whatever is on the map by now may have seen them
            rows_before=count_rows(workspace.dataset_dir),
            records=len(frame),
            train_records=int((frame["split"] == "train").sum()),
            partitions=list(partitions),
            salted=state.salted and salted(partition_files(workspace.dataset_dir)),
            scan=_recognisable(state, frame),  # forgotten when the batch closes
        )
    others = alike_in_dataset(state, subjects)
    state.suppressed.add(
        subjects, batch_id, others
    )  # before they leave: nothing may bring them back from then on
    remove_subjects(workspace.dataset_dir, subjects, placement)
    records, people = batch.data["records"], len(batch.tickets)
    said = "Train again" if batch.trains else f"Remove {records} records of {people} subjects"
    after = repo.track_dataset(f"{said} ({batch_id})")
    record_dataset(state, after.md5)
    state.batches.advance(
        batch_id,
        BatchStage.REMOVED,
        after={"md5": after.md5, "git_revision": after.git_revision},
        seconds=timer.seconds(batch.data, "removal"),
    )
    log(f"batch {batch_id}: {records} records removed")
    return int(records)


def _recognisable(state: State, frame: pd.DataFrame) -> dict[str, Any]:
    """How the residue scan recognises the rows without keeping them, as they are and as a model sees them."""
    key = os.urandom(32)
    columns = [name for name in frame.columns if name not in ("subject_id", "split")]
    model, preprocessing = state.workspace.build_dir / MODEL_FOLDER / MODEL_FILE, None
    if model.is_file():
        content = json.loads(model.read_text(encoding="utf-8"))
        preprocessing = Preprocessing.from_json(content["preprocessing"])
    views = row_views(frame, state.contract, preprocessing)
    return {
        "key": key.hex(),
        "columns": columns,
        "texts": [name for name in columns if not is_numeric_dtype(frame[name])],
        "rows": row_fingerprints(frame, columns, key),
        "embedded": embeddings(frame, views, key),
    }
