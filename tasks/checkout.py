"""Going back to an earlier version of the dataset: to a whole one only, and never to one that holds the removed."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.errors import RefusedError
from expunge.state import State
from tasks.adapters import access
from tasks.adapters.checkouts import lacking, objects_of, pointer_at, take_out
from tasks.adapters.versioning import Repository
from tasks.dataset_head import newest, record_head
from tasks.ingest import require_no_batch
from tasks.leases import lineage_lease


def checkout(state: State, revision: str) -> dict[str, Any]:
    """Take a version of the dataset out; nothing is touched before it is known that it may and can be.

    Args:
        state: The workspace.
        revision: Any name of a commit.

    Returns:
        ``{revision, dataset_md5, changed}``.

    Raises:
        WorkspaceError: If there is no such revision, or the folder holds what would be lost.
        RefusedError: If the version was purged or holds somebody who was removed, or a batch is unfinished.
    """
    repo = access.repository(state)
    with lineage_lease(state):
        text = pointer_at(state.workspace.root, revision)
        md5, before = repo.md5_of(text), repo.current().md5
        if gone := lacking(repo, md5):
            raise RefusedError(
                "this dataset version was purged and cannot come back",
                expected="all of its objects, in cache or remote",
                got=gone,
                remedy="`expunge data checkout` takes out the current version; nothing was changed",
            )
        if md5 not in newest(state, repo):
            require_no_batch(state)
        require_nobody_removed(state, repo, md5)
        changed = md5 != before or not repo.is_tracked_clean()
        take_out(repo, text, md5)
        record_head(state, md5, revision)
    return {"revision": revision, "dataset_md5": md5, "changed": changed}


def require_nobody_removed(state: State, repo: Repository, md5: str) -> None:
    """Refuse a version that holds somebody who was removed, or of which that is not known.

    Args:
        state: The workspace.
        repo: Its repository.
        md5: Digest of a version that is whole.

    Raises:
        RefusedError: If it does.
    """
    removed: set[str] = set()
    for path in objects_of(repo, md5):
        try:
            people = pq.read_table(path, columns=["subject_id"])["subject_id"].cast(pa.string()).unique()
        except (OSError, pa.ArrowException) as error:
            raise RefusedError(
                "an object of this version cannot be read: whom it holds is not known",
                got=type(error).__name__,
                remedy="see `dvc status --cloud`; nothing was changed",
            ) from error
        removed |= set(state.suppressed.among(people.to_pylist()).values())
    if removed:
        raise RefusedError(
            "this dataset version holds people who were removed",
            expected="nobody on the suppression list",
            got=f"{len(removed)} of them: {', '.join(sorted(removed)[:5])}",
            remedy="`expunge data restore FOLDER` brings a backup in without them; nothing was changed",
        )
