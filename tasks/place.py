"""The workspace's place: MLflow's database holds whole paths, so work in a copy would destroy the original's files.

``workspace.json`` says which workspace this is and where it lies. Whatever writes looks there first; at another place
it is refused until somebody says what happened: *moved* (:func:`relocate`) or *copied* (:func:`fork`).
"""

import json
import secrets
from pathlib import Path
from typing import Any

from expunge.errors import RefusedError, WorkspaceError
from expunge.files import write_json
from expunge.state import WORKSPACE_FILE, State
from tasks.adapters import access, guard
from tasks.adapters.mlflow_places import own_database, rewrite, stated_root
from tasks.adapters.versioning import Repository


def identity(root: Path) -> dict[str, Any]:
    """What a new workspace says of itself.

    Args:
        root: Its top folder.

    Returns:
        Fields of ``workspace.json``.
    """
    return {"id": secrets.token_hex(16), "place": str(root.resolve())}


def place_fault(state: State) -> str | None:
    """Whether the workspace lies elsewhere than it says.

    Args:
        state: The workspace.

    Returns:
        Where it should lie; None if it lies there.

    Raises:
        WorkspaceError: If MLflow's database cannot be read.
    """
    stated = _stated(state, _content(state.workspace.root))
    return None if stated == state.workspace.root.resolve() else str(stated)


def require_place(state: State) -> None:
    """Refuse to write in a workspace that was copied or moved; one of an earlier release records its place now.

    Args:
        state: The workspace.

    Raises:
        WorkspaceError: If it lies elsewhere than it says; nothing is changed then.
    """
    root = state.workspace.root.resolve()
    if (elsewhere := place_fault(state)) is not None:
        raise WorkspaceError(
            "this workspace was copied or moved, and MLflow's paths lead to where it was",
            expected=elsewhere,
            got=str(root),
            remedy="nothing was touched; say what happened: `expunge workspace relocate` if this is the workspace, "
            "moved; `expunge workspace fork` if it is a copy",
        )
    content = _content(root)
    if "place" not in content or "id" not in content:
        _write(root, {**identity(root), **content})


def relocate(state: State) -> dict[str, Any]:
    """Take the workspace as it lies here for the one that lay elsewhere; repeating it changes nothing.

    Args:
        state: The workspace; the caller holds the lineage's lease.

    Returns:
        Where it was, where it is, and how many of MLflow's paths were changed.

    Raises:
        RefusedError: If the workspace is still where it was: then this is a copy.
    """
    root = state.workspace.root.resolve()
    content = _content(root)
    before = _stated(state, content)
    if _lies_at(before, content, root):
        raise RefusedError(
            "the workspace is still where it was, so this is a copy of it",
            expected=f"no workspace of this identity at {before}",
            got="one",
            remedy="run `expunge workspace fork` here; or remove the one there, if this one is to go on in its stead",
        )
    changed = _settle(state, before)
    _write(root, {**identity(root), **content, "place": str(root)})  # last: until then it is refused
    return {"was": str(before), "is": str(root), "paths": changed}


def fork(state: State) -> dict[str, Any]:
    """Let a copy be a workspace of its own: a new identity, and an entry of its ledger that says so.

    Args:
        state: The workspace; the caller holds the lineage's lease.

    Returns:
        Where the original lies, where this one does, its identity, and how many of MLflow's paths were changed.

    Raises:
        WorkspaceError: If it is no copy, or shares its database, its MLflow or its data with the original.
    """
    from tasks.ledger import append

    root = state.workspace.root.resolve()
    content = _content(root)
    before = _stated(state, content)
    if before == root:
        raise WorkspaceError(
            "this is no copy", expected="a workspace that lies elsewhere than it says", got=str(root)
        )
    database = state.database.path
    inside = database is not None and database.is_relative_to(root)
    if not inside or own_database(state.workspace.state, state.workspace.tracking_uri) is None:
        raise WorkspaceError(
            "a copy that shares its database or its MLflow with the original cannot be another workspace",
            expected="both in the workspace's own folder",
            got="one of them elsewhere",
            remedy="work in the original; or run `expunge workspace relocate`, if this is the workspace, moved",
        )
    _require_own_storage(access.repository(state), root)
    changed = _settle(state, before)
    of = str(content.get("id", content.get("created_at", "unknown")))
    made = str(content.get("forking") or secrets.token_hex(16))
    _write(root, {**content, "forking": made})  # killed after this, it goes on with the same identity
    if state.ledger.entries(state.lineage):
        append(state, kind="fork", details={"workspace": made, "of": of})
    kept = {name: value for name, value in content.items() if name != "forking"}
    _write(root, {**kept, "id": made, "fork_of": of, "place": str(root)})  # last: until then it is refused
    return {"was": str(before), "is": str(root), "id": made, "paths": changed}


def _content(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / ".expunge" / WORKSPACE_FILE).read_text(encoding="utf-8"))
    return content


def _write(root: Path, content: dict[str, Any]) -> None:
    write_json(root / ".expunge" / WORKSPACE_FILE, content)


def _mlflow_root(state: State) -> Path | None:
    database = own_database(state.workspace.state, state.workspace.tracking_uri)
    return stated_root(database) if database is not None else None


def _stated(state: State, content: dict[str, Any]) -> Path:
    """Where it says that it lies; one of an earlier release says so by MLflow's paths alone."""
    root = state.workspace.root.resolve()
    if "place" in content:
        return Path(content["place"])
    of_mlflow = _mlflow_root(state)
    same = of_mlflow is None or of_mlflow.resolve() == root  # a path through a link leads here, too
    return root if of_mlflow is None or same else of_mlflow


def _lies_at(place: Path, content: dict[str, Any], root: Path) -> bool:
    """Whether another folder with the same identity lies at a place; a second way to this one is no other."""
    try:
        file = place / ".expunge" / WORKSPACE_FILE
        if file.samefile(root / ".expunge" / WORKSPACE_FILE):
            return False
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = ("id",) if "id" in content and "id" in there else ("lineage", "created_at")
    return all(there.get(name) == content.get(name) for name in names)


def _settle(state: State, before: Path) -> int:
    """Whatever holds whole paths of the old place."""
    root, changed = state.workspace.root.resolve(), 0
    database = own_database(state.workspace.state, state.workspace.tracking_uri)
    if database is not None:
        # MLflow's own say counts too: an interrupted move, or a folder that was moved twice.
        for old in {before, _mlflow_root(state) or before}:
            changed += rewrite(database, old, root)
    guard.install(root)
    return changed


def _require_own_storage(repository: Repository, root: Path) -> None:
    """Refuse a fork whose remotes or cache are the original's: its purge would destroy the original's data."""
    outside = [
        f"remote {name}"
        for name, path in repository.remotes().items()
        if path is None or not path.resolve().is_relative_to(root)
    ]
    outside += [] if repository.own_cache else ["the cache"]
    if outside:
        raise WorkspaceError(
            "this copy keeps its data where the original does, and its purge would destroy the original's",
            expected="remotes and cache in the copy's own folder",
            got=", ".join(outside),
            remedy="`dvc pull`, point each to a folder of the copy (`dvc remote modify storage url "
            ".expunge/dvc-remote`), `dvc push`, and fork then",
        )
