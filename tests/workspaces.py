"""Workspaces without a model: enough for whatever happens to the dataset."""

import shutil
from pathlib import Path

from expunge.state import open_state
from expunge.tickets.batches import ORDER
from tasks.adapters import access
from tasks.adapters.dvc_objects import destroy_object, superseded
from tasks.place import fork
from tasks.removal import remove
from tasks.workspace import create
from tests.conftest import make_clinic

PEOPLE = 24
ANN, BOB = "person-00001-x", "person-00003-x"


def make(folder: Path, people: int = PEOPLE) -> Path:
    """A workspace of the clinic."""
    create(folder / "workspace", str(make_clinic(folder / "dump", people=people)), None)
    return folder / "workspace"


def erase(root: Path, *people: str, purge: bool = True) -> None:
    """Remove people as a batch does, and destroy the superseded data as its purge does."""
    state = open_state(root)
    batch = state.batches.open_batch([state.tickets.submit(person).ticket.ticket_id for person in people])
    remove.fn(batch.batch_id)
    for stage in ORDER[2:-1]:
        state.batches.advance(batch.batch_id, stage)
    if purge:
        repo = access.repository(state)
        partitions = state.batches.get(batch.batch_id).data["partitions"]
        for item in superseded(repo, partitions):
            destroy_object(repo, item, repo.needed())
    state.batches.close(batch.batch_id)


def copied(root: Path, to: Path) -> Path:
    """A copy that is a workspace of its own."""
    shutil.copytree(root, to, symlinks=True)
    fork(open_state(to))
    return to
