"""The newest dataset version: what a removal starts from and a purge keeps, whatever plain git has checked out."""

from expunge.errors import BatchWaitsError, RefusedError, WorkspaceError
from expunge.state import State
from expunge.tickets.dataset_head import Head
from tasks.adapters import access, git
from tasks.adapters.checkouts import pointer_at
from tasks.adapters.versioning import Repository

_BRANCHES = "refs/heads/"


def record_head(state: State, md5: str, revision: str = "HEAD") -> None:
    """Record the version that was made or taken out.

    Args:
        state: The workspace.
        md5: DVC's digest of the folder.
        revision: Where it was taken from. Of a branch it is the newest; of anything else, of the one checked out.
    """
    root = state.workspace.root
    names = (git.git(root, "rev-parse", "--symbolic-full-name", name) for name in (revision, "HEAD"))
    branches = (name.removeprefix(_BRANCHES) for name in names if name.startswith(_BRANCHES))
    state.head.record(Head(md5, next(branches, "")))


def newest(state: State, repo: Repository) -> dict[str, str]:
    """The versions that may be worked on: the one recorded, and what its branch has become since by plain DVC.

    Args:
        state: The workspace.
        repo: Its repository.

    Returns:
        Digest of the one recorded, then that of its branch if it differs, each with how it is taken out.
    """
    head = state.head.latest()
    if head is None:  # of an earlier release: what the last removal made
        made = [batch.data["after"]["md5"] for batch in state.batches.every() if "after" in batch.data]
        head = Head(made[-1] if made else repo.current().md5, "")
    found = {head.md5: "`expunge data checkout COMMIT` with a commit of that version"}
    try:
        tip = repo.md5_of(pointer_at(state.workspace.root, f"{_BRANCHES}{head.branch}"))
    except WorkspaceError:  # there is no such branch any more
        return found
    return found | {tip: f"`expunge data checkout {head.branch}`"}


def require_newest(state: State, *, stored: bool) -> None:
    """Refuse to go on from another version than the newest: what only that one has would be taken for superseded.

    Args:
        state: The workspace, its lineage leased.
        stored: Whether everything else is about to be destroyed: then the newest version must have been recorded, lie
            in the folder, and be whole in cache and remote.

    Raises:
        RefusedError: If it is another one; nothing is changed then.
        BatchWaitsError: If a batch has removed people and not made its version yet.
        ResidueError: If a store lacks a part of it.
    """
    repo = access.repository(state)
    if stored and any(
        "before" in batch.data and "after" not in batch.data for batch in state.batches.unfinished()
    ):
        raise BatchWaitsError("another batch is removing people from the dataset")
    found, current = newest(state, repo), repo.current().md5
    *_, (tip, way) = found.items()
    if current not in found or (stored and len(found) > 1):
        raise RefusedError(
            "the dataset that is checked out is not the newest version that Expunge knows",
            expected=tip,
            got=current if current != tip else "one that was made without Expunge",
            remedy=f"take it out with {way}, then run `expunge run` again; nothing was changed",
        )
    if stored and not repo.is_tracked_clean():
        raise RefusedError(
            "the dataset on disk is not the version that is checked out",
            remedy="`expunge data checkout` takes it out, then run `expunge run` again; nothing was changed",
        )
    if stored:
        repo.require_stored(current)
