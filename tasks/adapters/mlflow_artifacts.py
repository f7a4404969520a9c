"""MLflow's artifact stores: what lies in them, streamed, measured and destroyed; and its errors in one line."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from expunge.errors import (
    ExpungeError,
    ResidueError,
    ServiceUnavailableError,
    StorageFullError,
    storage_full_text,
)
from expunge.scratch import scratch
from tasks.adapters.artifact_folders import folder_of, require_same

if TYPE_CHECKING:
    from mlflow import MlflowClient


def translated(method: Callable[..., Any]) -> Callable[..., Any]:
    """MLflow's own exceptions quote addresses and stack traces: its user gets one line.

    Args:
        method: Calls MLflow; its name says what was asked for.

    Returns:
        The same, with MLflow's exceptions translated.
    """

    @functools.wraps(method)
    def called(*arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except Exception as error:
            if not type(error).__module__.startswith("mlflow"):
                raise
            reason = " ".join(str(error).split())
            full = storage_full_text(reason) is not None
            # What MLflow refuses it refuses again: no outage, and nothing to be tried once more.
            status = error.get_http_status_code() if hasattr(error, "get_http_status_code") else 500
            kind = StorageFullError if full else ServiceUnavailableError if status >= 500 else ExpungeError
            raise kind(
                "the disk is full" if full else "MLflow did not do what it was asked",
                expected=f"it to {method.__name__.replace('_', ' ')}",
                got=reason[:200],
                remedy=f"{'make room' if full else 'look at MLflow'}, then run `expunge run`: it continues the batch",
            ) from error

    return called


@translated
def experiment_locations(client: "MlflowClient") -> list[str]:
    """Where artifacts of new runs will lie: of every experiment, deleted ones too.

    Args:
        client: Of the tracking store.

    Returns:
        Addresses.
    """
    from mlflow.entities import ViewType

    found = pages(client.search_experiments, view_type=ViewType.ALL)
    return [experiment.artifact_location for experiment in found if experiment.artifact_location]


@translated
def artifact_locations(client: "MlflowClient") -> list[str]:
    """Where artifacts lie: of every experiment, run and logged model, deleted ones too.

    Args:
        client: Of the tracking store.

    Returns:
        Addresses, each once; none below another's of the same store.
    """
    from mlflow.entities import ViewType

    found: set[str] = set()
    for experiment in pages(client.search_experiments, view_type=ViewType.ALL):
        found.add(experiment.artifact_location)
        ids = [experiment.experiment_id]
        for run in pages(client.search_runs, experiment_ids=ids, run_view_type=ViewType.ALL):
            found.add(run.info.artifact_uri)
        for model in pages(client.search_logged_models, experiment_ids=ids):
            found.add(model.artifact_location)
    outer: list[str] = []
    for location in sorted(one.rstrip("/") for one in found if one):
        if not any(location.startswith(f"{one}/") for one in outer):
            outer.append(location)
    return outer


def stream_artifacts(locations: Iterable[str], scratch_dir: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Every artifact at some addresses, streamed through MLflow, one at a time.

    Args:
        locations: From :func:`artifact_locations`, whose client has set the addresses that a store looks up.
        scratch_dir: The workspace's folder of scratch folders.

    Yields:
        A name and a stream of a file that has no name any more; it is closed when the next one is asked for.
    """
    for number, location in enumerate(locations):
        store = _store(location)
        for index, (path, _) in enumerate(_files(store)):
            with scratch(scratch_dir) as folder:
                stream = _downloaded(store, path, folder).open("rb")
            with stream:
                yield f"MLflow location {number} artifact {index}", stream


def artifact_bytes(location: str) -> int:
    """How many bytes lie at an address.

    Args:
        location: Of a run or a logged model.

    Returns:
        Bytes.
    """
    return sum(size for _, size in _files(_store(location)))


def require_seen(location: str, *, trusted: bool) -> None:
    """Refuse an address whose artifacts a purge could not vouch for; nothing is changed.

    Args:
        location: Of a logged model.
        trusted: Whether the operator vouches for a server's folder.

    Raises:
        WorkspaceError: If its files do not lie in a folder that we can look into.
    """
    folder = folder_of(location, trusted=trusted)
    if folder is not None:
        require_same(folder, [path for path, _ in _files(_store(location))])


def destroy_artifacts(location: str, *, trusted: bool = False) -> None:
    """Destroy what lies at an address, and look whether it is gone.

    Args:
        location: Of a logged model.
        trusted: Whether the operator vouches for a server's folder: then the server's listing is all there is.

    Raises:
        WorkspaceError: If it lies where we cannot look; nothing is changed then.
        ResidueError: If files are still there.
    """
    require_seen(location, trusted=trusted)
    folder, store = folder_of(location, trusted=trusted), _store(location)
    if store.list_artifacts():
        store.delete_artifacts()
    left = store.list_artifacts()
    if left or (folder is not None and folder.exists() and any(folder.rglob("*"))):
        raise ResidueError(
            "weights of a superseded version are still there",
            expected="no file after the artifacts were deleted",
            got=f"{len(left)} artifacts" if left else "files that MLflow does not list",
            remedy="run `expunge run` again",
        )


@translated
def _store(location: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location)


@translated
def _files(store: Any) -> list[tuple[str, int]]:
    """Paths and sizes of all files of a store."""
    found, folders = list[tuple[str, int]](), [""]
    while folders:
        for item in store.list_artifacts(folders.pop() or None):
            if item.is_dir:
                folders.append(item.path)
            else:
                found.append((item.path, item.file_size or 0))
    return found


@translated
def _downloaded(store: Any, path: str, folder: Path) -> Path:
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    return Path(store.download_artifacts(path, str(folder)))


def pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """Everything that a search of MLflow's finds: it answers in pages.

    Args:
        search: Of the client.
        **arguments: Of the search.

    Yields:
        What it finds.
    """
    token = None
    while True:
        page = search(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
