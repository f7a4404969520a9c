"""The model that a batch starts from, held against the ledger: one wrong byte of it would lock the batch for ever."""

from collections.abc import Sequence
from pathlib import Path

from expunge.errors import VerificationError
from expunge.evidence.ledger import LedgerEntry
from expunge.evidence.model_files import model_digest
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.registry import Version


def recorded_digest(entries: Sequence[LedgerEntry], version: int) -> str | None:
    """What the ledger says of a version's files.

    Args:
        entries: Of the ledger, in order.
        version: Its number.

    Returns:
        Their digest; None in a ledger of an earlier release, which names no versions.
    """
    for entry in entries:
        move = entry.move
        if move is None or move.to_version != version:
            continue
        if move.from_version is not None and move.to_version < move.from_version:
            continue  # back to it: the certificate named is that of the version that was left
        for released in entries:
            if released.model_digest and released.certificate_id == entry.certificate_id:
                return released.model_digest
    return None


def from_recorded_parent(state: State, batch: Batch) -> Batch:
    """Let a release be made anew that an earlier Expunge made from damaged files: no certificate of it ever holds.

    Args:
        state: The workspace.
        batch: Any.

    Returns:
        The batch, back at removed if its release was such a one; the draw stays charged.
    """
    if batch.stage not in (BatchStage.UNLEARNED, BatchStage.VALIDATED):
        return batch
    expected = recorded_digest(state.ledger.entries(state.lineage), batch.data["parent_version"])
    if expected in (None, batch.data["parent_digest"]):
        return batch
    return state.batches.step_back(batch.batch_id, "its release was made from files that were damaged")


def fetch(state: State, version: Version, place: Path) -> Path:
    """Fetch a version's saved model, if its files are those that the ledger speaks of.

    Args:
        state: The workspace.
        version: Which.
        place: A folder; emptied first.

    Returns:
        Folder of the saved model.

    Raises:
        VerificationError: If a file is missing or is another one.
        WorkspaceError: If there are none.
    """
    folder = access.registry(state).download(version, place)
    expected = recorded_digest(state.ledger.entries(state.lineage), version.version)
    expected = expected or version.tags.get("model_digest")
    try:
        found = model_digest(folder)
    except OSError as error:
        found = f"{Path(error.filename or '').name}: {error.strerror}"
    if expected is not None and found != expected:
        raise VerificationError(
            f"the files of version {version.version} are not those that were registered",
            expected=expected,
            got=found,
            remedy="nothing was changed; restore them from a backup into MLflow's artifacts, then run again",
        )
    return folder
