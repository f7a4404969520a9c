"""What killed runs left in the way: scratch folders with weights, lock files of git.

The rest needs nothing here, because the batch itself is continued: rows are removed and pushed again, a version without
its alias is found by its batch, and an MLflow run without a version is destroyed and marked.
"""

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
    if folders or locks:
        log(f"left by killed runs, destroyed: {folders} scratch folders, {locks} lock files of git")
    return folders + locks


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
