"""Filing a ticket where the dataset is known."""

from pathlib import Path

import pytest

from expunge.datasets.partitions import read_dataset
from expunge.errors import TicketConflictError
from expunge.state import open_state
from tasks.adapters import access
from tasks.intake import file_keyed, require_known
from tasks.removal import remove
from tests.workspaces import ANN, erase, make


def test_whoever_was_erased_and_is_back_by_plain_dvc_is_erased_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    dataset = root / "data" / "dataset"
    backup = {path: path.read_bytes() for path in dataset.iterdir()}
    erase(root, ANN)
    state = open_state(root)
    with pytest.raises(TicketConflictError, match="erased already"):
        require_known(state, ANN)
    for path, content in backup.items():
        path.unlink()
        path.write_bytes(content)
    access.repository(state).track_dataset("a backup, by plain DVC")

    assert require_known(state, ANN)
    done = file_keyed(state, ANN, "gdpr", "mail-1")
    assert done.created
    again = state.tickets.submit(ANN)  # its ticket is open, whatever is closed
    assert (again.created, again.ticket) == (False, done.ticket)
    assert not require_known(state, ANN)
    remove.fn(state.batches.open_batch([done.ticket.ticket_id]).batch_id)
    assert ANN not in set(read_dataset(dataset)["subject_id"])
