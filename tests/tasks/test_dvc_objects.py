"""Objects that somebody else needs: another output of the repository, or another repository in the same remote."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.datasets.partitions import write_partitions
from expunge.errors import ExpungeError, ResidueError
from expunge.state import open_state
from tasks.adapters import git
from tasks.adapters.dvc_objects import left_to_others, superseded
from tasks.adapters.stores import every_store
from tasks.adapters.versioning import DATASET_FILE, Repository
from tests.tasks.test_versioning import KEY, erase, machine, partition_of, purge, repository, root, rows
from tests.workspaces import make

__all__ = ["machine", "repository", "root"]
PERSON = "person-000003"


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "dvc", *arguments, "-q"], cwd=folder, check=True, env=git.clean_environment()
    )


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def whereabouts(items) -> set[tuple[str, str]]:
    return {(item.what, item.where) for item in items}


@pytest.fixture
def second(repository: Repository, machine: Path) -> Path:
    """Another repository, whose dataset began as a copy of the files, in the same remote."""
    folder = machine / "second"
    shutil.copytree(repository.root / "data" / "dataset", folder / "data" / "dataset")
    frame = rows().assign(record_id=range(100, 140), subject_id=[f"other-{i:06d}" for i in range(40)])
    write_partitions(frame, machine / "more", KEY, 1)
    shutil.copy(next((machine / "more").iterdir()), folder / "data" / "dataset" / "more.parquet")
    other = Repository(folder, folder / ".expunge")
    other.init(repository.root / ".expunge" / "dvc-remote")
    other.track_dataset("the second dataset")
    git.commit(folder, [".dvc/config", ".dvc/.gitignore"], "its remote")
    return folder


def test_a_second_dataset_in_a_shared_remote_stays_intact(
    repository: Repository, second: Path, machine: Path
) -> None:
    first, name = repository.manifest(repository.current().md5), partition_of(PERSON)
    expected = checksums(second / "data" / "dataset")
    erase(repository, PERSON)
    with pytest.raises(ResidueError, match=r"purge\.shared_remotes"):
        superseded(repository, [name])

    plan = superseded(repository, [name], shared_remotes=True)
    kept = [item for item in plan if item.kept]
    assert whereabouts(kept) == {(first[name], "remote storage")}
    assert "another repository" in kept[0].why
    assert whereabouts(item for item in plan if not item.kept) == {(first[name], "cache")}
    purge(repository, [item for item in plan if not item.kept])
    assert all(path.is_file() for path in left_to_others(repository, plan))
    assert not (repository.stores["cache"] / first[name][:2] / first[name][2:]).exists()

    git.git(machine, "clone", "--quiet", str(second), "fresh")
    remote = repository.root / ".expunge" / "dvc-remote"
    dvc(machine / "fresh", "remote", "modify", "--local", "storage", "url", str(remote))
    dvc(machine / "fresh", "pull")
    assert checksums(machine / "fresh" / "data" / "dataset") == expected


def test_a_remote_goes_back_to_one_owner_and_is_purged(repository: Repository, second: Path) -> None:
    name = partition_of(PERSON)
    erase(repository, PERSON)
    other = Repository(second, second / ".expunge")
    for md5 in other.history():  # the second dataset has left the remote
        (repository.stores["remote storage"] / md5[:2] / md5[2:]).unlink()
    plan = superseded(repository, [name])
    assert {item.where for item in plan} == {"cache", "remote storage"}
    assert not any(item.kept for item in plan)


@pytest.mark.parametrize("branch", ["main", "side"])
def test_an_object_that_another_output_needs_is_kept(repository: Repository, root: Path, branch: str) -> None:
    name = partition_of(PERSON)
    md5 = repository.manifest(repository.current().md5)[name]
    if branch == "side":
        git.git(root, "checkout", "--quiet", "-b", "side")
    shutil.copytree(root / "data" / "dataset", root / "data" / "copy")
    dvc(root, "add", "data/copy")
    git.commit(root, ["data/copy.dvc", "data/.gitignore"], "another output")
    if branch == "side":
        git.git(root, "checkout", "--quiet", "main")
    erase(repository, PERSON)
    plan = superseded(repository, [name])
    assert {(item.what, item.kept) for item in plan} == {(md5, True)}
    assert all("data/copy" in item.why for item in plan)
    assert left_to_others(repository, plan) == []  # it is searched: the rows are still in this repository
    with pytest.raises(ResidueError, match="cannot be purged"):
        purge(repository, plan)


def test_every_remote_is_purged(repository: Repository, root: Path, machine: Path) -> None:
    dvc(root, "remote", "add", "backup", str(machine / "backup"))
    with pytest.raises(ResidueError, match="none of remote backup"):
        superseded(Repository(root, root / ".expunge"), [])
    dvc(root, "push", "-r", "backup", DATASET_FILE)
    first, name = repository.manifest(repository.current().md5), partition_of(PERSON)
    erase(repository, PERSON)
    again = Repository(root, root / ".expunge")
    plan = superseded(again, [name])
    assert whereabouts(plan) == {(first[name], w) for w in ("cache", "remote storage", "remote backup")}
    purge(again, plan)
    assert not (machine / "backup" / "files" / "md5" / first[name][:2] / first[name][2:]).exists()
    assert superseded(again, [name]) == []


def test_a_remote_that_is_no_folder_is_refused(repository: Repository, root: Path) -> None:
    dvc(root, "remote", "add", "web", "https://localhost/data")
    with pytest.raises(ExpungeError, match="a DVC remote that is a folder"):
        superseded(Repository(root, root / ".expunge"), [])


def test_what_experiments_left_is_destroyed(repository: Repository, root: Path) -> None:
    name = partition_of(PERSON)
    first = repository.manifest(repository.current().md5)
    git.git(root, "update-ref", "refs/exps/ab/cd/lucky-name", "HEAD")
    copy = root / ".dvc" / "tmp" / "exps" / "standalone" / "data"
    copy.parent.mkdir(parents=True)
    copy.write_text("rows")
    erase(repository, PERSON)
    plan = superseded(repository, [name])
    assert [item.kind for item in plan] == ["data object", "data object", "experiments", "experiment"]
    purge(repository, plan)
    assert not (root / ".dvc" / "tmp" / "exps").exists()
    assert git.git(root, "for-each-ref", "refs/exps") == ""
    assert first[name] not in {item.what for item in superseded(repository, [name])}
    assert superseded(repository, [name]) == []


def run_entry(folder: Path, text: str) -> Path:
    path = folder / "runs" / "ab" / ("ab" + "c" * 62) / ("d" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_run_cache_of_a_remote_is_destroyed_with_its_outputs(repository: Repository, root: Path) -> None:
    """Somebody ran `dvc push --run-cache`; the cache is another one by now."""
    remote, md5 = root / ".expunge" / "dvc-remote", "ab" * 16
    weights = remote / "files" / "md5" / md5[:2] / md5[2:]
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"weights")
    entry = run_entry(remote, f"cmd: train\nouts:\n- path: weights\n  hash: md5\n  md5: {md5}\n")
    shared = superseded(repository, [], shared_remotes=True)
    assert [(item.kind, item.where, item.kept) for item in shared] == [("run-cache", "remote storage", True)]
    plan = superseded(repository, [])
    assert [(item.kind, item.where) for item in plan] == [
        ("data object", "remote storage"),
        ("run-cache", "remote storage"),
    ]
    purge(repository, plan)
    purge(repository, plan)  # again, as after a kill
    assert not weights.exists()
    assert not entry.exists()
    for text in ("{", "text", "outs: 3", "outs: [3]"):
        run_entry(root / ".dvc" / "cache", text)
        with pytest.raises(ResidueError, match="run-cache cannot be read"):
            superseded(repository, [])


def test_a_cache_outside_the_workspace_is_purged(repository: Repository, root: Path, machine: Path) -> None:
    first, name = repository.manifest(repository.current().md5), partition_of(PERSON)
    dvc(root, "cache", "dir", str(machine / "cache"))
    shutil.move(root / ".dvc" / "cache", machine / "cache")
    again = Repository(root, root / ".expunge")
    erase(again, PERSON)
    path = machine / "cache" / "files" / "md5" / first[name][:2] / first[name][2:]
    assert path.is_file()
    plan = superseded(again, [name])
    assert whereabouts(plan) == {(first[name], where) for where in ("cache", "remote storage")}
    other = machine / "cache" / "files" / "md5" / "ab" / ("c" * 30 + ".dir")  # of another repository
    other.parent.mkdir(exist_ok=True)
    other.write_text(f'[{{"relpath": "x", "md5": "{first[name]}"}}]')
    with pytest.raises(ResidueError, match=r"purge\.shared_remotes"):
        superseded(again, [name])
    other.unlink()
    purge(again, plan)
    assert not path.exists()


def test_a_cache_outside_the_workspace_is_searched(tmp_path: Path) -> None:
    root = make(tmp_path, people=4)
    state = open_state(root)
    names = [store.name for store in every_store(state)[0]]
    dvc(root, "cache", "dir", str(tmp_path / "elsewhere"))
    shutil.move(root / ".dvc" / "cache", tmp_path / "elsewhere")
    assert sorted(store.name for store in every_store(state)[0]) == sorted([*names, "DVC cache"])
