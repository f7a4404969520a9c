"""The dataset that a batch rests on: nothing is released from another one than its certificate names."""

from expunge.errors import RefusedError
from expunge.state import State
from expunge.tickets.batches import Batch
from tasks.adapters import access


def require_dataset(state: State, batch: Batch, *, on_disk: bool = False) -> None:
    """Refuse to go on where the dataset is not the version that a batch's removal left.

    Args:
        state: The workspace.
        batch: That has removed its people.
        on_disk: Whether to compare the files too, which takes longer.

    Raises:
        RefusedError: If it is not.
    """
    repo, expected = access.repository(state), batch.data["after"]
    found = repo.current().md5
    if found != expected["md5"] or (on_disk and not repo.is_tracked_clean()):
        raise RefusedError(
            f"the dataset has changed under batch {batch.batch_id}",
            expected=f"version {expected['md5']}, as its removal left it",
            got="other files on disk" if found == expected["md5"] else f"version {found}",
            remedy=f"take data/dataset.dvc of commit {expected['git_revision'][:12]}, `dvc checkout`, and run again",
        )
