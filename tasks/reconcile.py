"""What killed runs left in the way: scratch folders with weights, lock files of git, half a lock file of DVC.

The rest needs nothing here, because the batch itself is continued: rows are removed and pushed again, a version without
its alias is found by its batch, and an MLflow run without a version is destroyed and marked.
"""

import json
import time

import psutil

from expunge.scratch import destroy_abandoned
from expunge.settings import Workspace
from expunge.state import open_state
from tasks.step import log


def reconcile() -> int:
    """Clear away what killed runs left; the caller holds the lineage's lease.

    Returns:
        How many folders and files were destroyed.
    """
    workspace = open_state().workspace
    folders, locks = destroy_abandoned(workspace.scratch_dir), _destroy_git_locks(workspace)
    locks += _destroy_half_dvc_lock(workspace)
    if folders or locks:
        log(f"left by killed runs, destroyed: {folders} scratch folders, {locks} lock files")
    return folders + locks


def _destroy_half_dvc_lock(workspace: Workspace) -> int:
    """DVC writes its list of readers and writers in place: killed in the middle it leaves half a list, and stops."""
    path = workspace.root / ".dvc" / "tmp" / "rwlock"
    for patience_s in (0.5, 0.0):  # whoever is at work completes it meanwhile
        try:
            json.loads(path.read_text(encoding="utf-8"))
            return 0
        except FileNotFoundError:
            return 0
        except ValueError:
            time.sleep(patience_s)
    path.unlink(missing_ok=True)
    return 1


def _destroy_git_locks(workspace: Workspace) -> int:
    """A git that was killed leaves its lock, and every later commit fails; one that is at work keeps it."""
    found = sorted((workspace.root / ".git").rglob("*.lock"))
    if not found or _git_at_work(workspace):
        return 0
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _git_at_work(workspace: Workspace) -> bool:
    for process in psutil.process_iter():
        try:
            if process.name() == "git" and process.cwd().startswith(str(workspace.root)):
                return True
        except psutil.Error:
            continue  # it ended meanwhile, or is another user's
    return False
