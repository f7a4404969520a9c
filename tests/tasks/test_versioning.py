"""Real git and DVC in a temporary workspace, on a machine without any git identity."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from expunge.datasets.partitions import partition_index, partition_name, remove_subjects, write_partitions
from expunge.errors import ExpungeError, ResidueError, StorageFullError, WorkspaceError
from expunge.settings import Workspace
from expunge.tickets.purge_journal import Item
from tasks.adapters import git
from tasks.adapters.dvc_objects import superseded
from tasks.adapters.versioning import DATASET_FILE, Repository
from tasks.destruction import destroy

KEY = b"k" * 32
PROJECT = Path(__file__).resolve().parents[2]
STAGES = """stages:
  prepare:
    cmd: mkdir -p build && echo constants > build/preprocessing.json
    deps: [data/dataset]
    outs:
      - build/preprocessing.json: {cache: false}
  train:
    cmd: mkdir -p build/model && cat data/dataset/* | md5sum > build/model/weights
    deps: [data/dataset]
    outs:
      - build/model: {cache: false}
  evaluate:
    cmd: cp build/model/weights build/metrics.json
    deps: [build/model]
    metrics:
      - build/metrics.json: {cache: false}
"""


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "record_id": range(40),
            "subject_id": [f"person-{i // 2:06d}" for i in range(40)],
            "label": ["yes", "no"] * 20,
            "split": ["train"] * 40,
            "value": [i / 7 for i in range(40)],
        }
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No global git or DVC configuration, and a hook's variables that point at another repository."""
    home = tmp_path / "home"
    home.mkdir()
    other = tmp_path / "other"
    subprocess.run(["git", "init", "--quiet", str(other)], check=True, env={**os.environ, "HOME": str(home)})
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_DIR": str(other / ".git"),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("DVC_NO_ANALYTICS", "DVC_SITE_CACHE_DIR"):  # set by Repository: restored after the test
        monkeypatch.setenv(name, "")
    return tmp_path


@pytest.fixture
def root(machine: Path) -> Path:
    workspace = machine / "workspace"
    write_partitions(rows(), workspace / "data" / "dataset", KEY, 4)
    return workspace


@pytest.fixture
def repository(root: Path) -> Repository:
    made = Repository(root, root / ".expunge")
    made.init(root / ".expunge" / "dvc-remote")
    made.track_dataset("first version")
    return made


def stored(root: Path) -> set[str]:
    """md5s of all objects, in cache and remote."""
    places = (root / ".dvc" / "cache" / "files" / "md5", root / ".expunge" / "dvc-remote" / "files" / "md5")
    return {path.parent.name + path.name for place in places for path in place.rglob("*") if path.is_file()}


def partition_of(subject: str) -> str:
    return partition_name(KEY, partition_index(KEY, subject, 4))


def erase(repository: Repository, subject: str) -> str:
    name = partition_of(subject)
    before = (repository.root / "data" / "dataset" / name).read_bytes()
    remove_subjects(repository.root / "data" / "dataset", [subject])
    assert (repository.root / "data" / "dataset" / name).read_bytes() != before
    repository.track_dataset("a removal")
    return name


def size_of(root: Path) -> int:
    """Bytes of all objects, in cache and remote."""
    places = (root / ".dvc" / "cache" / "files" / "md5", root / ".expunge" / "dvc-remote" / "files" / "md5")
    return sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())


def purge(repository: Repository, plan: list[Item]) -> int:
    """Destroy everything planned; what that made the stores smaller."""
    before, needed = size_of(repository.root), repository.needed()
    for item in plan:
        destroy(SimpleNamespace(workspace=Workspace(repository.root)), item, needed)
    return before - size_of(repository.root)


def test_tracking_commits_only_the_pointer_under_our_name(repository: Repository, root: Path) -> None:
    (root / "note").write_text("the user's own work")
    git.git(root, "add", "note")
    first = repository.current()
    erase(repository, "person-000003")
    assert git.git(root, "diff", "--cached", "--name-only", "HEAD", "--", "note") == "note"
    assert git.git(root, "log", "-1", "--format=%an <%ae>") == "Expunge <expunge@localhost>"
    assert git.git(root, "symbolic-ref", "--short", "HEAD") == "main"
    assert repository.history() == [repository.current().md5, first.md5]


def test_the_surrounding_repository_and_the_home_stay_as_they_were(
    repository: Repository, machine: Path
) -> None:
    assert not (machine / "home" / ".gitconfig").exists()
    assert not any((machine / "other" / ".git" / "refs" / "heads").iterdir())
    assert not (machine / "other" / ".git" / "index").exists()


def test_a_full_disk_under_dvcs_own_cache_is_said_in_one_line(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diskcache

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(diskcache.Cache, "_sql_retry", property(full))
    with pytest.raises(StorageFullError, match="the disk is full"):
        repository.is_tracked_clean()


def test_tracking_again_changes_nothing(repository: Repository) -> None:
    before, commits = repository.current(), git.git(repository.root, "rev-list", "--count", "HEAD")
    assert repository.track_dataset("again") == before
    assert git.git(repository.root, "rev-list", "--count", "HEAD") == commits


def test_a_removal_stores_one_partition_more(repository: Repository, root: Path) -> None:
    before, manifest = stored(root), repository.manifest(repository.current().md5)
    name = erase(repository, "person-000003")
    after = repository.manifest(repository.current().md5)
    assert {key for key in manifest if manifest[key] != after[key]} == {name}
    assert stored(root) - before == {after[name], repository.current().md5}


def test_purge_destroys_every_superseded_object_and_no_current_one(
    repository: Repository, root: Path
) -> None:
    first = repository.manifest(repository.current().md5)
    name = partition_of("person-000003")
    shared = next(s for s in rows()["subject_id"].unique()[4:] if partition_of(s) == name)
    erase(repository, "person-000003")
    second = repository.manifest(repository.current().md5)
    erase(repository, shared)  # two superseded versions of one partition
    current = set(repository.manifest(repository.current().md5).values())

    found = superseded(repository, [name])
    assert {(item.what, item.where) for item in found} == {
        (md5, where) for md5 in (first[name], second[name]) for where in ("cache", "remote storage")
    }
    assert purge(repository, found) == sum(item.bytes for item in found) > 0
    assert not {first[name], second[name]} & stored(root)
    assert current <= stored(root)
    assert superseded(repository, [name]) == []
    assert purge(repository, found) == 0  # again: nothing left to do


def test_a_partition_that_returned_to_earlier_bytes_is_never_superseded(
    repository: Repository, root: Path
) -> None:
    name = partition_of("person-000003")
    original = (root / "data" / "dataset" / name).read_bytes()
    erase(repository, "person-000003")
    (root / "data" / "dataset" / name).unlink()
    (root / "data" / "dataset" / name).write_bytes(original)
    repository.track_dataset("back again")
    first = repository.manifest(repository.current().md5)
    assert first[name] not in {item.what for item in superseded(repository, [name])}


def test_versions_on_another_branch_are_found(repository: Repository, root: Path) -> None:
    first = repository.manifest(repository.current().md5)
    name = partition_of("person-000003")
    git.git(root, "branch", "side")
    git.git(root, "checkout", "--quiet", "--orphan", "fresh")
    erase(repository, "person-000003")
    assert first[name] in {item.what for item in superseded(repository, [name])}


def test_a_shallow_history_is_refused(repository: Repository, machine: Path) -> None:
    erase(repository, "person-000003")
    git.git(machine, "clone", "--quiet", "--depth=1", f"file://{repository.root}", "shallow")
    with pytest.raises(WorkspaceError, match="full clone"):
        git.file_history(machine / "shallow", DATASET_FILE)


@pytest.mark.parametrize("step", ["add", "push"])
def test_a_kill_between_two_steps_is_healed_by_calling_again(
    repository: Repository, root: Path, step: str
) -> None:
    """The child dies by SIGKILL after `dvc add`, or after `dvc push`, before anything is committed."""
    remove_subjects(root / "data" / "dataset", ["person-000003"])
    lines = [
        "import os, signal, sys",
        "from dvc.repo import Repo",
        f"repo = Repo({str(root)!r})",
        f"repo.add({str(root / 'data' / 'dataset')!r})",
        f"repo.push(targets=[{str(root / DATASET_FILE)!r}])" if step == "push" else "",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ]
    killed = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    before = repository.history()
    version = repository.track_dataset("healed")
    assert version.md5 not in before
    assert repository.history() == [version.md5, *before]
    objects = set(repository.manifest(version.md5).values())
    remote = root / ".expunge" / "dvc-remote" / "files" / "md5"
    assert all((remote / md5[:2] / md5[2:]).is_file() for md5 in objects)


def test_git_objects_come_unpacked_even_when_nothing_refers_to_them(
    repository: Repository, root: Path
) -> None:
    (root / "secret").write_text("person-000003 was here")
    lost = git.git(root, "hash-object", "-w", "secret")
    found = {name: content.read() for name, content in git.objects(root)}
    assert found[f"git blob {lost}"] == b"person-000003 was here"
    git.git(root, "gc", "--quiet")
    assert any(
        content.read().startswith(b"tree ")
        for name, content in git.objects(root)
        if name.startswith("git commit")
    )


def loose_object(root: Path, name: str) -> Path:
    return root / ".git" / "objects" / name[:2] / name[2:]


def test_a_version_that_git_has_lost_is_not_left_out_of_the_history(
    repository: Repository, root: Path
) -> None:
    first = git.git(root, "rev-parse", f"HEAD:{DATASET_FILE}")
    erase(repository, "person-000003")
    assert len(repository.history()) == 2
    loose_object(root, first).unlink()
    with pytest.raises(WorkspaceError, match=f"list all.*{first} missing"):
        repository.history()


def test_a_damaged_git_repository_is_not_searched_in_part(repository: Repository, root: Path) -> None:
    path = loose_object(root, git.git(root, "hash-object", "-w", DATASET_FILE))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(WorkspaceError, match="list all"):
        list(git.objects(root))


def test_calls_print_nothing(repository: Repository, capfd: pytest.CaptureFixture[str]) -> None:
    erase(repository, "person-000003")
    purge(repository, superseded(repository, [partition_of("person-000003")]))
    assert capfd.readouterr() == ("", "")


def test_stages_run_and_take_replaced_outputs(repository: Repository, root: Path) -> None:
    (root / "dvc.yaml").write_text(STAGES)
    repository.reproduce()
    trained = (root / "build" / "model" / "weights").read_bytes()
    git.commit(root, ["dvc.yaml", "dvc.lock"], "stages")
    (root / "build" / "model" / "weights").write_bytes(b"unlearned")
    repository.commit_stages("unlearned model")
    assert git.git(root, "show", "--stat", "--format=%s", "HEAD").startswith("unlearned model")
    repository.reproduce()  # up to date: nothing is trained again over the unlearned model
    assert (root / "build" / "model" / "weights").read_bytes() == b"unlearned" != trained


def test_a_failing_stage_is_an_error(repository: Repository, root: Path) -> None:
    (root / "dvc.yaml").write_text("stages:\n  train:\n    cmd: exit 3\n    deps: [data/dataset]\n")
    with pytest.raises(ExpungeError, match="dvc repro"):
        repository.reproduce()


def test_outputs_of_stages_stay_out_of_the_cache(repository: Repository, root: Path) -> None:
    """`cache: false` must hold: DVC's own commit, and a repro of metrics only, store outputs all the same."""
    (root / "dvc.yaml").write_text(STAGES)
    before = stored(root)
    repository.reproduce()
    assert stored(root) == before
    (root / "build" / "model" / "weights").write_bytes(b"unlearned")
    repository.commit_stages("unlearned model")
    assert stored(root) == before
    assert not (root / ".dvc" / "cache" / "runs").exists()


def test_outputs_that_got_into_the_run_cache_are_destroyed(repository: Repository, root: Path) -> None:
    """Somebody ran `dvc repro` and `dvc commit` by hand."""
    (root / "dvc.yaml").write_text(STAGES)
    before = stored(root)
    for command in ("repro", "commit"):
        subprocess.run(
            [sys.executable, "-m", "dvc", command, "-f", "-q"],
            cwd=root,
            check=True,
            env=git.clean_environment(),
        )
    assert stored(root) > before
    purge(repository, superseded(repository, []))
    assert stored(root) == before
    assert not [path for path in (root / ".dvc" / "cache" / "runs").rglob("*") if path.is_file()]


def test_a_lost_manifest_is_refused_until_it_is_accepted(repository: Repository, root: Path) -> None:
    lost = repository.current().md5
    erase(repository, "person-000003")
    for place in (root / ".dvc" / "cache", root / ".expunge" / "dvc-remote"):
        (place / "files" / "md5" / lost[:2] / lost[2:]).unlink()
    name = partition_of("person-000003")
    with pytest.raises(ResidueError, match=lost):
        superseded(repository, [name])
    assert superseded(repository, [name], accept_missing=[lost]) == []


def test_a_remote_that_is_not_mounted_is_not_an_empty_one(repository: Repository, root: Path) -> None:
    erase(repository, "person-000003")
    (root / ".expunge" / "dvc-remote").rename(root / ".expunge" / "elsewhere")
    with pytest.raises(ResidueError, match="none in remote"):
        superseded(repository, [partition_of("person-000003")])


def test_a_version_that_was_never_committed_is_superseded_too(repository: Repository, root: Path) -> None:
    name = partition_of("person-000003")
    others = [s for s in rows()["subject_id"].unique() if partition_of(s) == name and s != "person-000003"]
    remove_subjects(root / "data" / "dataset", [others[0]])
    with repository._repo() as repo:  # a run that was killed before its commit
        repo.add(str(root / "data" / "dataset"))
    uncommitted = repository.manifest(repository.current().md5)[name]
    erase(repository, "person-000003")
    assert uncommitted in {item.what for item in superseded(repository, [name])}


def test_current_objects_are_never_purged(repository: Repository, root: Path) -> None:
    name = partition_of("person-000003")
    original = (root / "data" / "dataset" / name).read_bytes()
    erase(repository, "person-000003")
    found = superseded(repository, [name])
    (root / "data" / "dataset" / name).unlink()
    (root / "data" / "dataset" / name).write_bytes(original)
    repository.track_dataset("in use again")
    before = stored(root)
    with pytest.raises(ResidueError, match="current version"):
        purge(repository, found)
    assert stored(root) == before


def test_unfinished_copies_are_swept(repository: Repository, root: Path) -> None:
    half_written = root / "data" / "dataset" / ".part-0.parquet.tmp"
    half_pushed = root / ".expunge" / "dvc-remote" / "files" / "md5" / "ab" / ".Zm9vYmFyZm9vYmFyZm9v.tmp"
    half_pushed.parent.mkdir(exist_ok=True)
    for path in (half_written, half_pushed):
        path.write_bytes(b"rows")
    version = repository.track_dataset("nothing new")
    assert not half_written.exists()
    assert all(name.startswith("part-") for name in repository.manifest(version.md5))
    purge(repository, superseded(repository, []))
    assert not half_pushed.exists()


def test_another_commit_does_not_make_another_version(repository: Repository, root: Path) -> None:
    before = repository.current()
    (root / "note").write_text("x")
    git.commit(root, ["note"], "something else")
    assert repository.current() == before


def test_an_own_remote_survives_init(repository: Repository, root: Path, tmp_path: Path) -> None:
    config = root / ".dvc" / "config"
    config.write_text(config.read_text().replace("../.expunge/dvc-remote", str(tmp_path / "theirs")))
    before = config.read_text()
    repository.init(root / ".expunge" / "dvc-remote")
    assert config.read_text() == before


def test_sizes_stay_out_of_git_and_a_parameter_of_that_name_stays_in(repository, root):
    """The size of compressed rows depends on each of them; git's history is for ever."""
    (root / "dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: mkdir -p build && cp size.yaml build/model\n    deps: [data/dataset, size.yaml]\n"
        "    params: [model]\n    outs:\n      - build/model: {cache: false}\n"
    )
    (root / "size.yaml").write_text("size: 1\n")
    (root / "params.yaml").write_text("model:\n  hyperparameters:\n    md5: 0\n    size: 12\n")
    (root / ".gitignore").write_text("/build\n")
    repository.reproduce()
    first = (root / "dvc.lock").read_text()
    repository.commit_stages("stages")
    for text in (first, (root / "dvc.lock").read_text()):
        lock = yaml.safe_load(text)["stages"]["train"]
        assert lock["params"]["params.yaml"]["model"]["hyperparameters"]["size"] == 12
        assert [sorted(entry) for entry in lock["deps"]] == [
            ["hash", "md5", "nfiles", "path"],
            ["hash", "md5", "path"],
        ]
        assert [sorted(entry) for entry in lock["outs"]] == [["hash", "md5", "path"]]
    assert sorted(yaml.safe_load((root / "data" / "dataset.dvc").read_text())["outs"][0]) == [
        "hash",
        "md5",
        "nfiles",
        "path",
    ]
    (root / "build" / "model").write_text("released since")
    repository.commit_stages("a release")
    repository.reproduce()
    assert (root / "build" / "model").read_text() == "released since"


def test_git_is_told_of_no_size_and_dvc_misses_none(repository):
    """The attack: of a guessed row, the bytes that the dataset would take with it are compared with those in git."""
    (repository.root / "dvc.yaml").write_text(STAGES)
    repository.reproduce()
    git.commit(repository.root, ["dvc.lock"], "stages")
    repository.commit_stages("again")
    for path in ("data/dataset.dvc", "dvc.lock"):
        for text in git.file_history(repository.root, path):
            assert "md5:" in text
            assert "size:" not in text
    assert repository.is_tracked_clean()
    status = [sys.executable, "-m", "dvc", "status", "--json"]
    done = subprocess.run(status, cwd=repository.root, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "{}"
