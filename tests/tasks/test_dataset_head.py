"""A purge keeps the newest dataset version, whatever version plain git and DVC have checked out meanwhile."""

from pathlib import Path

import pytest

from expunge.datasets.partitions import read_dataset
from expunge.errors import BatchWaitsError, RefusedError, ResidueError
from expunge.state import State, open_state
from expunge.tickets.batches import ORDER
from expunge.tickets.holds import PURGE, Holds
from tasks.adapters import access, git
from tasks.checkout import checkout
from tasks.ingest import import_dump
from tasks.purge import purge
from tasks.removal import remove
from tests.conftest import CONTRACT, clinic_rows
from tests.tasks.test_dvc_objects import dvc
from tests.workspaces import ANN, BOB, copied, make


class Begun(Exception):
    """The purge went on."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann's rows are removed on main, the purge waits; `earlier` is the branch before, `imported` a later one."""
    root = make(tmp_path_factory.mktemp("made"))
    git.git(root, "branch", "earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_WORKSPACE", str(root))
        start(open_state(root), ANN)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one test, in which a purge ends where it would begin."""
    copied(made, tmp_path / "workspace")
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path / "workspace"))

    begin = Holds.begin

    def begun(holds: Holds, batch_id: str, act: str) -> None:
        if act == PURGE:
            raise Begun
        begin(holds, batch_id, act)

    monkeypatch.setattr(Holds, "begin", begun)
    return tmp_path / "workspace"


def start(state: State, person: str) -> str:
    batch_id = state.batches.open_batch([state.tickets.submit(person).ticket.ticket_id]).batch_id
    remove.fn(batch_id)
    for stage in ORDER[2:6]:
        state.batches.advance(batch_id, stage)
    return batch_id


def refused(root: Path, words: str, error: type[Exception] = RefusedError) -> str:
    state = open_state(root)
    batch = state.batches.every()[0]
    with pytest.raises(error, match=words) as refusal:
        purge.fn(batch.batch_id)
    assert state.purges.entries(batch.batch_id) == []
    return str(refusal.value)


def goes_on(root: Path) -> None:
    with pytest.raises(Begun):
        purge.fn(open_state(root).batches.every()[0].batch_id)


def bring(root: Path, folder: Path) -> None:
    """Import people who are new."""
    folder.mkdir()
    rows = clinic_rows(8)
    rows.assign(person=["new-" + person for person in rows.person]).to_csv(folder / "v.csv", index=False)
    (folder / "contract.yaml").write_text(CONTRACT)
    assert import_dump(open_state(root), str(folder))["changed"]


def test_the_version_with_the_person_is_not_what_a_purge_keeps(root: Path) -> None:
    goes_on(root)
    git.git(root, "checkout", "--quiet", "earlier")
    dvc(root, "checkout", "--force")
    assert ANN in set(read_dataset(root / "data" / "dataset")["subject_id"])
    assert "expunge data checkout main" in refused(root, "not the newest version")
    with pytest.raises(RefusedError):
        checkout(open_state(root), "HEAD")  # no way around it
    assert checkout(open_state(root), "main")["changed"]
    assert ANN not in set(read_dataset(root / "data" / "dataset")["subject_id"])
    goes_on(root)


def test_an_import_is_not_what_a_purge_destroys(root: Path, tmp_path: Path) -> None:
    git.git(root, "branch", "before-import")
    bring(root, tmp_path / "dump")
    goes_on(root)
    git.git(root, "checkout", "--quiet", "before-import")
    dvc(root, "checkout", "--force")
    refused(root, "not the newest version")
    with pytest.raises(RefusedError, match="a batch is unfinished"):
        checkout(open_state(root), "HEAD")
    git.git(root, "checkout", "--quiet", "main")
    refused(root, "on disk is not the version")  # the pointer alone is not the data
    checkout(open_state(root), "HEAD")
    goes_on(root)


def test_what_plain_dvc_made_of_the_branch_is_taken_out_first(root: Path) -> None:
    repo = access.repository(open_state(root))
    first = git.git(root, "rev-parse", "HEAD")
    path = sorted((root / "data" / "dataset").iterdir())[0]
    path.unlink()
    repo.track_dataset("a partition less")
    newest = repo.current().md5
    assert newest in refused(root, "made without Expunge")
    git.git(root, "checkout", "--quiet", first)  # as it was recorded, but main has gone on
    dvc(root, "checkout", "--force")
    assert newest in refused(root, "not the newest version")
    checkout(open_state(root), "main")
    goes_on(root)


def test_a_version_that_is_not_whole_everywhere_is_not_enough(root: Path) -> None:
    repo = access.repository(open_state(root))
    one = sorted(repo.manifest(repo.current().md5).values())[0]
    (repo.stores["remote storage"] / one[:2] / one[2:]).unlink()
    refused(root, "1 of its 8 objects are not in remote storage", ResidueError)


def test_a_purge_waits_for_a_removal_that_was_interrupted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_state(root)
    second = state.batches.open_batch([state.tickets.submit(BOB).ticket.ticket_id]).batch_id
    with monkeypatch.context() as patch:
        patch.setattr("tasks.removal.record_dataset", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove.fn(second)
    refused(root, "another batch is removing people", BatchWaitsError)
    remove.fn(second)
    goes_on(root)


def test_a_removal_begins_on_the_newest_version(root: Path) -> None:
    git.git(root, "checkout", "--quiet", "earlier")
    dvc(root, "checkout", "--force")
    state = open_state(root)
    second = state.batches.open_batch([state.tickets.submit(BOB).ticket.ticket_id]).batch_id
    with pytest.raises(RefusedError, match="not the newest version"):
        remove.fn(second)
    assert "before" not in state.batches.get(second).data
    assert state.suppressed.among([BOB]) == {}


def test_a_workspace_of_an_earlier_release_goes_by_its_last_removal(root: Path) -> None:
    state = open_state(root)
    with state.database.transaction() as session:
        session.connection().exec_driver_sql("DELETE FROM dataset_heads")
    goes_on(root)
    git.git(root, "checkout", "--quiet", "earlier")
    dvc(root, "checkout", "--force")
    refused(root, "not the newest version")
