"""Importing and restoring in a real workspace: the removed stay out, and a kill leaves all or nothing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from expunge.datasets.partitions import read_dataset
from expunge.errors import RefusedError, WorkspaceError
from expunge.pseudonyms import load_keyring
from expunge.state import open_state
from expunge.tickets.batches import ORDER
from tasks import ingest
from tasks.adapters import access, git
from tasks.ingest import finish_import, import_dump, restore
from tasks.place import fork
from tasks.removal import remove
from tests.conftest import CONTRACT, clinic_rows, make_clinic
from tests.workspaces import ANN, BOB, PEOPLE, erase, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one test."""
    shutil.copytree(made.parent, tmp_path / "copy", symlinks=True)
    fork(open_state(tmp_path / "copy" / "workspace"))
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path / "copy" / "workspace"))
    return tmp_path / "copy" / "workspace"


@pytest.fixture
def grown(tmp_path: Path) -> str:
    """A dump with three people more."""
    return str(make_clinic(tmp_path / "grown", people=PEOPLE + 3))


def people(root: Path) -> set[str]:
    return set(read_dataset(root / "data" / "dataset")["subject_id"])


def test_the_removed_are_dropped_in_another_spelling_too(root: Path, tmp_path: Path) -> None:
    erase(root, ANN)
    (tmp_path / "dump").mkdir()
    rows = clinic_rows(PEOPLE)
    rows = rows[rows.person == ANN]
    # Blanks are nothing by the rules that `init` wrote down; other case is a spelling that they do not join.
    names = (f" {ANN}", ANN.upper(), f"{ANN}\u00a0", "somebody new")
    spelled = pd.concat([rows.assign(person=name) for name in names])
    spelled.to_csv(tmp_path / "dump" / "v.csv", index=False)
    (tmp_path / "dump" / "contract.yaml").write_text(CONTRACT)
    done = import_dump(open_state(root), str(tmp_path / "dump"), dry_run=True)
    assert (done["suppressed"]["subjects"], done["spelled_otherwise"], done["added"]["subjects"]) == (2, 1, 1)
    assert ANN not in str(done)


def test_rows_of_people_who_are_there_are_added_where_that_is_asked_for_and_leave_with_them(
    root: Path, tmp_path: Path
) -> None:
    erase(root, ANN)
    rows, folder = clinic_rows(PEOPLE), tmp_path / "daily"
    folder.mkdir()
    (folder / "contract.yaml").write_text(CONTRACT)
    today = rows[rows.person.isin([ANN, BOB])].assign(age=77.5)
    pd.concat([rows, today]).to_csv(folder / "v.csv", index=False)
    bobs = int((today.person == BOB).sum())
    state, before = open_state(root), read_dataset(root / "data" / "dataset")
    done = import_dump(state, str(folder))
    assert (done["changed"], done["further"]) == (False, {"rows": bobs, "subjects": 1, "added": False})
    assert import_dump(state, str(folder), append=True, dry_run=True)["changed"] is False
    pd.testing.assert_frame_equal(read_dataset(root / "data" / "dataset"), before)
    done = import_dump(state, str(folder), append=True)
    assert (done["changed"], done["further"]["added"], done["added"]["rows"]) == (True, True, 0)
    assert ANN not in people(root)
    assert len(read_dataset(root / "data" / "dataset")) == len(before) + bobs
    assert import_dump(state, str(folder), append=True)["changed"] is False
    erase(root, BOB)
    assert BOB not in people(root)


def test_people_in_both_splits_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a contract whose data name their splits: a hash of the id puts all rows of a person into one."""
    frame = read_dataset(root / "data" / "dataset")
    frame = frame[frame["subject_id"].isin([ANN, BOB])].assign(age=77.5)
    state = open_state(root)
    for flipped, told in (([], 0), ([ANN], 1), ([ANN, BOB], 2)):
        other = frame["split"].map({"train": "test", "test": "train"})
        moved = frame.assign(split=frame["split"].where(~frame["subject_id"].isin(flipped), other))
        monkeypatch.setattr(ingest, "read_dump", lambda path, contract, moved=moved: moved)
        assert import_dump(state, "v", append=True, dry_run=True)["in_both_splits"] == told


def commits(root: Path) -> int:
    return int(git.git(root, "rev-list", "--count", "HEAD"))


def test_the_removed_are_dropped_and_reported(root: Path, grown: str) -> None:
    erase(root, ANN, BOB)
    state, before = open_state(root), read_dataset(root / "data" / "dataset")
    done = import_dump(state, grown)
    pseudonyms = sorted(load_keyring(root / ".expunge" / "keys").of(person) for person in (ANN, BOB))
    assert done["suppressed"] == {"rows": 6, "subjects": 2, "pseudonyms": pseudonyms}
    assert done["added"]["subjects"] == 3
    assert done["changed"]
    assert not people(root) & {ANN, BOB}
    pd.testing.assert_frame_equal(read_dataset(root / "data" / "dataset").iloc[: len(before)], before)
    repo = access.repository(state)
    assert (repo.current().md5, repo.current().git_revision) == (done["dataset_md5"], done["git_revision"])
    assert repo.is_tracked_clean()
    remote = root / ".expunge" / "dvc-remote" / "files" / "md5"
    objects = repo.manifest(done["dataset_md5"]).values()
    assert all((remote / md5[:2] / md5[2:]).is_file() for md5 in objects)
    assert "person-0" not in git.git(root, "log", "-p", "--all")


def test_the_same_dump_again_changes_nothing(root: Path, grown: str) -> None:
    erase(root, ANN)
    first = import_dump(open_state(root), grown)
    count = commits(root)
    again = import_dump(open_state(root), grown)
    assert (again["changed"], again["added"]["subjects"]) == (False, 0)
    assert again["suppressed"]["subjects"] == 1
    assert (again["dataset_md5"], commits(root)) == (first["dataset_md5"], count)


def test_a_dry_run_changes_nothing(root: Path, grown: str) -> None:
    before, count = access.repository(open_state(root)).current(), commits(root)
    done = import_dump(open_state(root), grown, dry_run=True)
    assert (done["added"]["subjects"], done["changed"]) == (3, False)
    assert (access.repository(open_state(root)).current(), commits(root)) == (before, count)
    assert import_dump(open_state(root), grown)["added"] == done["added"]


def test_a_backup_brings_back_who_is_missing_but_not_the_removed(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "data" / "dataset", tmp_path / "backup")
    erase(root, ANN)
    lost = "person-00005-x"
    frame = read_dataset(root / "data" / "dataset")
    for path in (root / "data" / "dataset").glob("part-*"):  # somebody lost a person by accident
        part = pd.read_parquet(path)
        if (part["subject_id"] == lost).any():
            path.unlink()
            part[part["subject_id"] != lost].to_parquet(path, index=False)
    access.repository(open_state(root)).track_dataset("an accident")
    assert lost not in people(root)
    done = restore(open_state(root), tmp_path / "backup")
    assert (done["added"]["subjects"], done["suppressed"]["subjects"]) == (1, 1)
    assert lost in people(root)
    assert ANN not in people(root)
    columns = ["subject_id", "label", "split", "age", "dose", "ward"]
    order = {"by": ["subject_id", "age"], "ignore_index": True}
    pd.testing.assert_frame_equal(
        read_dataset(root / "data" / "dataset").sort_values(**order)[columns],
        frame.sort_values(**order)[columns],
    )


def test_a_batch_at_work_is_left_alone(root: Path, grown: str) -> None:
    state = open_state(root)
    batch = state.batches.open_batch([state.tickets.submit(ANN).ticket.ticket_id])
    assert import_dump(state, grown, dry_run=True)["added"]["subjects"] == 3  # it has not begun
    remove.fn(batch.batch_id)
    for stage in ORDER[1:5]:  # removed, unlearned, validated, certified
        state.batches.advance(batch.batch_id, stage)
        count = commits(root)
        with pytest.raises(RefusedError, match="unfinished"):
            import_dump(state, grown)
        assert commits(root) == count
    state.batches.advance(batch.batch_id, ORDER[5])  # registered: what waits to be purged may wait for long
    assert import_dump(state, grown)["suppressed"]["subjects"] == 1


def test_a_dataset_that_is_not_its_version_is_left_alone(root: Path, grown: str) -> None:
    path = next((root / "data" / "dataset").glob("part-*"))
    path.unlink()
    with pytest.raises(RefusedError, match="not the version"):
        import_dump(open_state(root), grown)
    assert not path.exists()


KILLED_AT = {
    "while it is written aside": "ingest.stage = lambda *given: (stage(*given), die())",
    "once it is written down": "ingest.install = lambda *given: die()",
    "after the first file": "os.replace = lambda *given: (replace(*given), 'data/dataset/' in str(given[1]) and die())",
    "before the commit": "git.commit = lambda *given: die()",
    "after the commit": "versioning.Repository.track_dataset = lambda *given: (track(*given), die())",
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_kill_leaves_all_or_nothing(root: Path, grown: str, moment: str) -> None:
    lines = [
        "import os, signal, sys",
        "from pathlib import Path",
        "from expunge.state import open_state",
        "from tasks import ingest",
        "from tasks.adapters import git, versioning",
        "stage, replace, track = ingest.stage, os.replace, versioning.Repository.track_dataset",
        "def die(): os.kill(os.getpid(), signal.SIGKILL)",
        "def dying():",
        f"    {KILLED_AT[moment]}",
        f"state = open_state(Path({str(root)!r}))",
        "dying()",
        f"ingest.import_dump(state, {grown!r})",
    ]
    before = people(root)
    killed = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, check=False, env=dict(os.environ)
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    state = open_state(root)
    finish_import(state)  # as the next batch does
    assert access.repository(state).is_tracked_clean()
    assert git.git(root, "status", "--porcelain") == ""
    nothing = moment == "while it is written aside"
    assert len(people(root) - before) == (0 if nothing else 3)
    done = import_dump(state, grown)
    assert done["changed"] == nothing
    assert len(people(root) - before) == 3
    assert commits(root) == 3
    assert not (root / ".expunge" / "import").exists()


def test_an_interrupted_import_does_not_go_over_another_version(root: Path, grown: str) -> None:
    state = open_state(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.ingest.install", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_dump(state, grown)
    erase(root, ANN, purge=False)  # this removal did not begin with a plan
    with pytest.raises(WorkspaceError, match="changed since"):
        finish_import(state)
    assert ANN not in people(root)
