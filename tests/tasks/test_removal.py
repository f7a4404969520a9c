"""A row that somebody put into the wrong partition by hand: it leaves with its person, or the batch stops."""

import json

import pandas as pd
import pytest

from expunge.datasets.partitions import find_subjects, partition_index, partition_name, read_dataset
from expunge.errors import GateError
from expunge.state import open_state
from expunge.tickets.batches import BatchStage
from tasks.adapters import access
from tasks.intake import require_known
from tasks.removal import remove
from tasks.validation import validate
from tasks.workspace import create
from tests.conftest import make_clinic

PERSON = "person-00005-x"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A workspace with a batch of one person, one of whose rows lies in another partition."""
    create(tmp_path / "workspace", str(make_clinic(tmp_path / "own" / "clinic")), None)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path / "workspace"))
    state = open_state()
    require_known(state, PERSON)
    ticket = state.tickets.submit(PERSON).ticket
    batch_id = state.batches.open_batch([ticket.ticket_id]).batch_id
    dataset = state.workspace.dataset_dir
    files = sorted(dataset.iterdir())
    looked_at = json.loads(state.placement.known.read_text())["files"]
    assert set(looked_at) == {path.name for path in files}  # by `create`: the first request need not
    place = dataset / partition_name(
        state.placement.key, partition_index(state.placement.key, PERSON, len(files))
    )
    other = next(path for path in files if path != place)
    rows = pd.read_parquet(place).query("subject_id == @PERSON")
    planted = rows.iloc[:1].assign(record_id=1_000_000)
    pd.concat([pd.read_parquet(other), planted]).to_parquet(other, index=False)
    yield state, batch_id, place, other
    state.database.dispose()


def forget_that_it_changed(state, path):
    status = path.stat()
    known = json.loads(state.placement.known.read_text())
    known["files"][path.name] = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    state.placement.known.write_text(json.dumps(known))


def test_it_leaves_with_its_person(planned):
    state, batch_id, place, other = planned
    before = len(read_dataset(state.workspace.dataset_dir))
    assert remove.fn(batch_id) == 7
    data = state.batches.get(batch_id).data
    assert data["partitions"] == sorted([place.name, other.name])
    assert len(data["scan"]["rows"]) == 7
    after = read_dataset(state.workspace.dataset_dir)
    assert len(after) == before - 7
    assert PERSON not in set(after["subject_id"])
    repo = access.repository(state)
    assert repo.is_tracked_clean()
    assert set(repo.manifest(data["after"]["md5"])) == {path.name for path in place.parent.iterdir()}


def test_one_that_removal_missed_is_found_before_anything_is_certified(planned):
    state, batch_id, _, other = planned
    forget_that_it_changed(state, other)
    assert remove.fn(batch_id) == 6
    assert find_subjects(state.workspace.dataset_dir, [PERSON]) == {PERSON: 1}
    state.batches.advance(batch_id, BatchStage.UNLEARNED)
    with pytest.raises(GateError, match=r"not as it must be.*no erased person") as refused:
        validate.fn(batch_id)
    assert PERSON not in str(refused.value)
    assert state.batches.get(batch_id).stage == BatchStage.UNLEARNED
