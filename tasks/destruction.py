"""What a purge destroys, planned in one place: the journal is written from this plan, and the preview shows it."""

import shutil
from collections.abc import Collection, Iterator
from itertools import takewhile
from pathlib import Path

from expunge.database import vacuum
from expunge.errors import ResidueError, storage_full
from expunge.scratch import abandoned
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.holds import PURGE
from expunge.tickets.purge_journal import FREE_PAGES, PENDING, Entry, Item
from tasks.adapters import access, dvc_objects
from tasks.adapters.registry import PURGED_TAG, QUARANTINE_TAG
from tasks.adapters.versioning import Repository
from tasks.effort import superseded_efforts

WEIGHTS = "weights"
UNNAMED = "unnamed weights"
DESTROYING = "destroying"  # of a batch: weights whose destruction began


def preview(state: State, batch_id: str | None = None) -> list[Item]:
    """What a purge would destroy now; nothing is changed.

    Args:
        state: The workspace.
        batch_id: For this batch; by default for all that have removed their people, or, if there is none, again for
            those that are purged.

    Returns:
        What, where, how many bytes and why, in the order of destruction.
    """
    if batch_id is not None:
        batches: list[Batch | None] = [state.batches.get(batch_id)]
    else:
        batches = [batch for batch in state.batches.unfinished() if batch.data.get("partitions")]
    found: dict[Item, None] = {}
    for batch in batches or [None]:
        found |= dict.fromkeys(plan(state, batch))
        if batch is not None:
            entries = state.purges.entries(batch.batch_id)
            found |= dict.fromkeys(entry.item for entry in entries if entry.state == PENDING)
    return list(found)


def plan(state: State, batch: Batch | None) -> list[Item]:
    """What is to be destroyed for a batch, as things are.

    Args:
        state: The workspace.
        batch: Which; None for what of purged batches has come back.

    Returns:
        In the order of destruction: weights and free pages last.

    Raises:
        ResidueError: If it cannot be told, or may not be destroyed.
    """
    partitions: set[str] = set(batch.data.get("partitions", ())) if batch else set()
    for other in state.batches.every():
        if other.done(BatchStage.PURGED):
            partitions |= set(other.data["partitions"])
    shared = state.policy.purge.shared_remotes
    repo = access.repository(state)
    spare = _of_later_batches(state, repo, batch) if batch and "after" in batch.data else []
    found = dvc_objects.superseded(repo, partitions, shared_remotes=shared, spare=spare)
    return [*found, *_files(state, batch), *_weights(state, batch), *_free_pages(state)]


def _of_later_batches(state: State, repo: Repository, batch: Batch) -> list[str]:
    """The versions that later batches removed people from, until their own purge begins.

    None has people of this batch. Those of a later one may be held, or their purge wait for approval.
    """
    after = batch.data["after"]["md5"]
    later = {after, *takewhile(lambda md5: md5 != after, repo.history())}
    return [
        other.data["before"]["md5"]
        for other in state.batches.every()
        if "before" in other.data
        and other.data["before"]["md5"] in later
        and other.batch_id != batch.batch_id
        and not other.done(BatchStage.PURGED)
        and PURGE not in other.data.get("begun", [])
    ]


def _files(state: State, batch: Batch | None) -> Iterator[Item]:
    workspace = state.workspace
    places: list[tuple[str, str, list[Path]]] = [
        ("scratch", "left by a process that is dead", abandoned(workspace.scratch_dir)),
        (
            "stored results",
            "Prefect keeps results of flows there",
            sorted(path for path in (workspace.prefect_home / "storage").rglob("*") if path.is_file()),
        ),
    ]
    if batch is not None:
        why = "was computed from records that are being removed"
        places.append(("kept curvature", why, sorted(workspace.curvature_dir.glob("*"))))
        if "model_version" in batch.data:  # before it is registered, its parent's is in use
            efforts = superseded_efforts(state, batch.data["model_version"])
            places.append(("figures of a training", why, efforts))
        release = workspace.releases_dir / batch.batch_id
        places.append(("release", "is registered by now", [release] if release.exists() else []))
    for kind, why, paths in places:
        for path in paths:
            yield dvc_objects.file_item(workspace.root, path, kind, why)


def _weights(state: State, batch: Batch | None) -> Iterator[Item]:
    """Of every version before the batch's: each was trained on its people."""
    registry = access.registry(state)
    registry.require_artifacts_seen()
    champion = registry.champion()
    serving = champion.version if champion else 0
    last = batch.data.get("model_version", serving) if batch else serving
    if serving < last:
        raise ResidueError(
            "the model that serves is one to be purged",
            expected=f"version {last} or a later one to serve",
            got=f"version {serving}",
            remedy="move the alias to the version that unlearned, then run `expunge run` again",
        )
    # What a purge that was interrupted has destroyed is not there; that it began to is on record.
    begun = {what for other in state.batches.every() for what in other.data.get(DESTROYING, ())}
    for number in range(1, last):
        if PURGED_TAG not in registry.get(number).tags:
            what, size = f"version {number}", registry.weights_size(number)
            if size is not None and what not in begun:
                registry.require_weights(number)
            yield Item(WEIGHTS, what, "MLflow", size, "superseded: saw removed people")
    for folder in registry.unnamed_weights():
        yield dvc_objects.file_item(state.workspace.root, folder, UNNAMED, "no version names them")


def quarantine(state: State, entries: list[Entry], until: str) -> None:
    """Mark the versions whose weights are to go as out of use.

    Args:
        state: The workspace.
        entries: Of the journal.
        until: The moment they are destroyed.
    """
    registry = access.registry(state)
    for entry in entries:
        if entry.item.kind == WEIGHTS and entry.state == PENDING:
            registry.tag(_version(entry.item), QUARANTINE_TAG, until)


def begin_weights(state: State, batch_id: str, item: Item) -> None:
    """Look once more whether weights are there, and write down that they are being destroyed.

    Args:
        state: The workspace.
        batch_id: Whose purge it is.
        item: Of its plan; one of another kind needs nothing.

    Raises:
        WorkspaceError: If they are gone, and no purge has begun to destroy them.
    """
    begun = state.batches.get(batch_id).data.get(DESTROYING, [])
    if item.kind != WEIGHTS or item.what in begun:
        return
    registry = access.registry(state)
    if (
        registry.weights_size(_version(item)) is not None
        and PURGED_TAG not in registry.get(_version(item)).tags
    ):
        registry.require_weights(_version(item))
    state.batches.record(batch_id, **{DESTROYING: [*begun, item.what]})


def _version(item: Item) -> int:
    return int(item.what.removeprefix("version "))


def _free_pages(state: State) -> Iterator[Item]:
    workspace = state.workspace
    for path in (workspace.state / "mlflow" / "mlflow.db", workspace.prefect_home / "prefect.db"):
        if path.is_file():
            what = path.relative_to(workspace.root).as_posix()
            yield Item(FREE_PAGES, what, "workspace", None, "deleted values linger in free pages")


def destroy(state: State, item: Item, needed: Collection[str]) -> None:
    """Destroy one thing; one that is gone already does no harm.

    Args:
        state: The workspace.
        item: What.
        needed: Digests of data objects in use.

    Raises:
        ResidueError: If it is still there, or in use again.
        StorageFullError: If there is no room to compact a database.
    """
    try:
        if item.kind == dvc_objects.OBJECT:
            dvc_objects.destroy_object(access.repository(state), item, needed)
        elif item.kind == dvc_objects.RUN:
            dvc_objects.destroy_run(access.repository(state), item)
        elif item.kind == dvc_objects.EXPERIMENT:
            dvc_objects.destroy_experiment(access.repository(state), item)
        elif item.kind == WEIGHTS:
            access.registry(state).purge_weights(_version(item))
        elif item.kind == FREE_PAGES:
            vacuum(state.workspace.root / item.what)
        else:
            _remove(state.workspace.root / item.what)
    except OSError as error:
        raise storage_full(error) or ResidueError(
            f"{item.kind} could not be destroyed",
            expected=f"nothing left of {item.what} in {item.where}",
            got=error.strerror or type(error).__name__,
            remedy="make it removable, then run `expunge run` again: it continues the purge",
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
