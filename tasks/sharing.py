"""The dataset's storage moves to a folder that colleagues reach, so that a clone of the workspace can `dvc pull`."""

import filecmp
import os
import shutil
from pathlib import Path
from typing import Any

from expunge.errors import WorkspaceError
from expunge.state import State
from tasks.adapters import access, git
from tasks.ingest import finish_import, require_no_batch
from tasks.leases import lineage_lease

_UNFINISHED = ".expunge-unfinished"  # in the new folder until all is there: names the workspace that copies


def share(state: State, folder: Path) -> dict[str, Any]:
    """Move the default remote's objects to a folder, and let the repository point there; repeating it goes on.

    Every version that is not purged yet moves along, so that a later purge destroys it where it is then.

    Args:
        state: The workspace.
        folder: An absent or empty folder outside the workspace.

    Returns:
        ``{folder, objects, changed, git_revision}``.

    Raises:
        WorkspaceError: If the folder is in use or lies in the workspace, or the remote is no folder.
        RefusedError: If a batch is unfinished.
    """
    root, target = state.workspace.root.resolve(), folder.expanduser().resolve()
    with lineage_lease(state):
        require_no_batch(state)
        finish_import(state)
        repository = access.repository(state)
        name, before = repository.default_remote()
        moved, objects = before.resolve() != target, 0
        if moved:
            _require_free(target, root, before)
            objects = _copy(before, target, root)
            repository.dvc("remote", "modify", "--quiet", name, "url", str(target))
        revision = git.commit(root, [".dvc/config"], "Keep the dataset in a folder that others reach")
        _drop(state.workspace.remote_dir, target)
        (target / _UNFINISHED).unlink(missing_ok=True)
    return {"folder": str(target), "objects": objects, "changed": moved, "git_revision": revision}


def _require_free(target: Path, root: Path, before: Path) -> None:
    if target.is_relative_to(root) or root.is_relative_to(target):
        raise WorkspaceError(
            "the shared folder lies in the workspace, or the workspace in it",
            expected="a folder elsewhere, that colleagues reach",
            got=str(target),
            remedy="name one on a mounted share",
        )
    if target.is_dir() and any(target.iterdir()):
        unfinished = target / _UNFINISHED
        if not unfinished.is_file() or unfinished.read_text(encoding="utf-8") != str(root):
            raise WorkspaceError(
                "the folder is in use",
                expected="an absent or empty folder: a purge destroys what is left over in a remote",
                got=str(target),
                remedy="name a new folder",
            )
    elif target.exists() and not target.is_dir():
        raise WorkspaceError(
            "this is no folder", expected="an absent or empty folder", got=str(target), remedy="name another"
        )
    if not before.is_dir():
        raise WorkspaceError(
            "the present remote is not there",
            expected=str(before),
            got="no such folder",
            remedy="mount it first",
        )


def _copy(before: Path, target: Path, root: Path) -> int:
    """Copy every file and compare it; what an interrupted copy left is kept if it is whole."""
    try:
        target.mkdir(mode=0o750, parents=True, exist_ok=True)  # others stay out; the group may come in
        (target / _UNFINISHED).write_text(str(root), encoding="utf-8")
        files = sorted(path for path in before.rglob("*") if path.is_file())
        for path in files:
            to = target / path.relative_to(before)
            if to.is_file() and filecmp.cmp(path, to, shallow=False):
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            part = to.with_name(f".{to.name}.part")
            shutil.copyfile(path, part)
            if not filecmp.cmp(path, part, shallow=False):
                raise OSError(f"{to} does not hold what was written")
            os.replace(part, to)
    except OSError as error:
        raise WorkspaceError(
            "the shared folder cannot be written",
            expected="room and the right to write there",
            got=str(error),
            remedy="mend it and repeat the command; the workspace still uses its present remote",
        ) from error
    return len(files)


def _drop(embedded: Path, target: Path) -> None:
    """The embedded remote is left by nobody's choice: a second copy of people's rows."""
    if embedded.is_dir() and embedded.resolve() != target:
        shutil.rmtree(embedded)
