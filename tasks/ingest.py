"""Ingest: a dump or a backup comes into the dataset without whoever was removed; a new DVC version, all or nothing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from expunge.datasets.alike import alike, require_told_apart
from expunge.datasets.ingest import install, read_backup, read_dump, sort_out, stage
from expunge.datasets.partitions import rows_of
from expunge.datasets.placement import Placement
from expunge.datasets.poor import people_in_both_splits
from expunge.errors import RefusedError, WorkspaceError
from expunge.scratch import scratch
from expunge.state import State
from expunge.tickets.batches import BatchStage
from expunge.tickets.suppression import spelled_otherwise
from tasks.adapters import access
from tasks.coverage import record_dataset
from tasks.leases import lineage_lease
from tasks.spellings import alike_in_dataset

_PLAN = "plan.json"


def import_dump(state: State, path: str, *, append: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Add the people of a dump who are new, and further rows of people who are there, where that is asked for.

    Args:
        state: The workspace.
        path: A folder of one's own data, or the source of the workspace's catalogue dataset.
        append: Whether rows of people who are there are added, where the dataset does not hold them yet.
        dry_run: Only say what would be done.

    Returns:
        What was read, dropped, left and added, with the dataset's version.

    Raises:
        DatasetError: If the dump is not as the workspace's contract promises.
        RefusedError: If a batch is unfinished, or the dataset on disk is not its version.
    """
    return _bring_in(state, read_dump(path, state.contract), dry_run, append=append)


def restore(state: State, folder: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Add the people of a backup of data/dataset who are not in it.

    Args:
        state: The workspace.
        folder: Of Parquet partitions.
        dry_run: Only say what would be done.

    Returns:
        As :func:`import_dump`.
    """
    return _bring_in(state, read_backup(folder, state.contract), dry_run)


def finish_import(state: State) -> None:
    """Carry an import to its end that was killed after it was written down; nothing happens where there is none.

    Args:
        state: The workspace, its lineage leased.

    Raises:
        WorkspaceError: If the dataset has become another version since.
    """
    staging, repo = _staging(state), access.repository(state)
    plan = staging / _PLAN
    if plan.is_file():
        content = json.loads(plan.read_text(encoding="utf-8"))
        if any(staging.glob("part-*.parquet")) and repo.current().md5 != content["before"]:
            raise WorkspaceError(
                "an import was interrupted, and the dataset has changed since",
                expected=f"version {content['before']}",
                got=repo.current().md5,
                remedy=f"check that version out with git, or give the import up by removing {staging.name} in .expunge",
            )
        install(staging, state.workspace.dataset_dir)
        record_dataset(state, repo.track_dataset(content["message"]).md5)
        plan.unlink()  # last: what names the work outlives the work
    if staging.is_dir():
        staging.rmdir()


def require_no_batch(state: State, *, at_work: bool = False) -> None:
    """Refuse to change the dataset under a batch that rests on it.

    Args:
        state: The workspace, its lineage leased.
        at_work: Only one that has begun to remove people, and whose model is not registered yet: one that waits to
            begin, or to be purged, may wait for long, and takes the dataset as it is then.

    Raises:
        RefusedError: If there is one.
    """
    unfinished = [
        batch.batch_id
        for batch in state.batches.unfinished()
        if not at_work or ("before" in batch.data and not batch.done(BatchStage.REGISTERED))
    ]
    if unfinished:
        raise RefusedError(
            "a batch is unfinished, and rests on the dataset as it is",
            got=", ".join(unfinished),
            remedy="finish it with `expunge run`, then try again; nothing was changed",
        )


def _staging(state: State) -> Path:
    return state.workspace.state / "import"


def _bring_in(state: State, frame: pd.DataFrame, dry_run: bool, *, append: bool = False) -> dict[str, Any]:
    directory, repo = state.workspace.dataset_dir, access.repository(state)
    placement = state.placement
    with lineage_lease(state):
        require_no_batch(state, at_work=True)
        finish_import(state)
        if not repo.is_tracked_clean():
            raise RefusedError(
                "the dataset on disk is not the version that is checked out",
                remedy="see `dvc diff`; keep it with `dvc commit`, or undo it with `dvc checkout`",
            )
        suppressed = state.suppressed.among(frame["subject_id"].unique())
        _require_told_apart(state, set(frame["subject_id"].unique()) - set(suppressed))
        arrivals = sort_out(frame, directory, placement, suppressed)
        coming = pd.concat([arrivals.frame, arrivals.further]) if append else arrivals.frame
        rows, people = _size(coming)
        if rows and not dry_run:
            with scratch(state.workspace.scratch_dir) as place:
                staging = place / "import"
                staging.mkdir()
                stage(coming, directory, placement.key, staging)
                plan = {"before": repo.current().md5, "message": f"Add {rows} records of {people} subjects"}
                (staging / _PLAN).write_text(json.dumps(plan), encoding="utf-8")
                staging.rename(_staging(state))  # from here on it is done, whoever does it
            finish_import(state)
        version = repo.current()
    return {
        "dry_run": dry_run,
        "changed": bool(rows) and not dry_run,
        "read": _figures(*arrivals.read),
        "suppressed": {**_figures(*arrivals.suppressed), "pseudonyms": sorted(set(suppressed.values()))},
        "spelled_otherwise": spelled_otherwise(suppressed.values()),
        "present": _figures(*arrivals.present),
        "added": _figures(*_size(arrivals.frame)),
        "further": {**_figures(*_size(arrivals.further)), "added": append and not dry_run},
        "in_both_splits": _in_both_splits(directory, coming, placement),
        "dataset_md5": version.md5,
        "git_revision": version.git_revision,
    }


def _require_told_apart(state: State, people: set[str]) -> None:
    """Refuse ids that differ from each other, or from those that are there, in their form only."""
    identity = state.contract.identity
    if identity.settled:
        return
    there = {other for group in alike_in_dataset(state, people).values() for other in group}
    found = alike(people | there, identity.rules or (), parts=identity.parts)
    require_told_apart(found, state.contract.subject_columns, where="data/contract.yaml")


def _size(frame: pd.DataFrame) -> tuple[int, int]:
    return len(frame), int(frame["subject_id"].nunique())


def _in_both_splits(directory: Path, coming: pd.DataFrame, placement: Placement) -> int:
    """Count those of the people whose rows come in who have rows in both splits then."""
    rows, _ = rows_of(directory, set(coming["subject_id"]), placement)
    return people_in_both_splits(pd.concat([frame[["subject_id", "split"]] for frame in (rows, coming)]))


def _figures(rows: int, people: int) -> dict[str, int]:
    return {"rows": rows, "subjects": people}
