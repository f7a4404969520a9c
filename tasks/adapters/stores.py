"""Every store of a workspace that may hold a person, in one place: what is not listed here is not searched."""

import os
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from expunge.errors import WorkspaceError
from expunge.residue.stores import Store, database, folder, streams, unreadable
from expunge.state import State
from tasks.adapters import access, git
from tasks.adapters.artifact_folders import folder_of
from tasks.adapters.mlflow_artifacts import artifact_locations, stream_artifacts


def every_store(
    state: State, *, with_tickets: bool = True, skip: Collection[Path] = ()
) -> tuple[list[Store], list[str]]:
    """All places that may hold a person: files, git objects, DVC remotes, MLflow's artifacts, databases.

    Args:
        state: The workspace.
        with_tickets: Whether the tickets database is one of them; open tickets hold their ids there.
        skip: Files to leave out.

    Returns:
        The stores, none of them part of another, and notes on what is out of reach.
    """
    root, repository = state.workspace.root, access.repository(state)
    own = state.database.path
    left_out = {*skip, own} if own is not None and not with_tickets else {*skip}
    nested = partial(git.objects, bare=True)
    stores = [
        folder(root, "workspace", skip=left_out, git=nested, listed=[root / ".git"]),
        streams(git.objects(root), "git objects", "git object"),
    ]
    for name, path in repository.remotes().items():
        if path is None:
            stores.append(unreadable(f"DVC remote {name}"))
        elif not _inside(path, root):
            place = f"DVC remote {name}"
            stores.append(folder(path, place, prefix=place, skip=left_out, git=nested))
    cache = repository.cache.parents[1]
    if not _inside(cache, root) and cache.is_dir():
        stores.append(folder(cache, "DVC cache", prefix="DVC cache", skip=left_out, git=nested))
    local, distant, trusted = [], [], state.policy.purge.artifact_server == "trusted"
    for number, location in enumerate(artifact_locations(access.registry(state).client)):
        try:
            path = folder_of(location, trusted=trusted)
        except WorkspaceError:  # no listing of it shows what is still there
            stores.append(unreadable(f"MLflow artifacts in store {number} ({location.partition(':')[0]})"))
            continue
        if path is None:
            distant.append(location)
        else:
            local.append(path)
    outside = list(_outermost([path for path in local if not _inside(path, root)]))
    there = [path for path in outside if path.is_dir()]
    stores += [
        folder(path, f"MLflow artifacts {number}", prefix=f"MLflow artifacts {number}", git=nested)
        for number, path in enumerate(there)
    ]
    if distant:
        scratch = state.workspace.scratch_dir
        stores.append(streams(stream_artifacts(distant, scratch), "MLflow artifacts", "MLflow artifact"))
    known = _databases(state, with_tickets)
    stores += [database(url, name) for name, url in known.items() if not _is_file_in(url, root)]
    notes = _unseen(state, known, absent=len(outside) - len(there))
    if distant:
        notes.append(
            "MLflow's server was searched by what it lists: its folder was not looked into, by the operator's word"
        )
    return stores, notes


def _unseen(state: State, known: Collection[str], absent: int) -> list[str]:
    """What lies behind servers, at addresses that this process does not know or reach."""
    notes, behind_server = [], state.workspace.tracking_uri.startswith("http")
    if behind_server and "MLflow database" not in known:
        notes.append("MLflow's database was not searched: name it in MLFLOW_BACKEND_STORE_URI")
    if behind_server and absent:
        notes.append(f"{absent} folder(s) of MLflow's artifacts are not on this machine, or hold nothing yet")
    embedded = any(state.workspace.prefect_home.glob("*.db"))
    if os.environ.get("PREFECT_API_URL") and not embedded and "Prefect database" not in known:
        notes.append("Prefect's database was not searched: name it in PREFECT_API_DATABASE_CONNECTION_URL")
    return notes


def _databases(state: State, with_tickets: bool) -> dict[str, str]:
    """Databases that are named, by their names in the report."""
    named = {
        "tickets database": state.workspace.database_url if with_tickets else "",
        "MLflow database": os.environ.get("MLFLOW_BACKEND_STORE_URI") or state.workspace.tracking_uri,
        "Prefect database": os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL", ""),
    }
    return {name: url for name, url in named.items() if url and not url.startswith(("http", "databricks"))}


def _is_file_in(url: str, root: Path) -> bool:
    """Whether a database is a file that is searched with its folder."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return False
    is_file = parsed.get_backend_name() == "sqlite" and bool(parsed.database)
    return is_file and _inside(Path(str(parsed.database)), root)


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _outermost(paths: list[Path]) -> Iterator[Path]:
    """Those that lie in no other of them."""
    last = None
    for path in sorted({path.resolve() for path in paths}):
        if last is None or not path.is_relative_to(last):
            last = path
            yield path
