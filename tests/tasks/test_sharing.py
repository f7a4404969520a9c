"""A shared folder holds the dataset: clones pull from it, a stopped move goes on, no fork lives on the original's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import invoke
from expunge.state import open_state
from tasks import sharing
from tasks.adapters import access
from tests import workspaces


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspaces.make(tmp_path_factory.mktemp("sharing"))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    moved = tmp_path / "workspace"
    shutil.copytree(made, moved, symlinks=True)
    assert invoke(["workspace", "fork", "--workspace", str(moved)]) == 0
    return moved


def share(root: Path, folder: Path) -> int:
    return invoke(["data", "share", str(folder), "--workspace", str(root)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pull(clone: Path) -> int:
    return subprocess.run(
        [sys.executable, "-m", "dvc", "pull"], cwd=clone, check=False, capture_output=True
    ).returncode


def test_a_clone_pulls_from_the_shared_folder_and_no_earlier(root, tmp_path, capsys):
    embedded = root / ".expunge" / "dvc-remote"
    objects, data = files(embedded), files(root / "data" / "dataset")
    assert objects
    subprocess.run(["git", "clone", "-q", root, tmp_path / "early"], check=True)
    assert pull(tmp_path / "early") != 0
    assert share(root, tmp_path / "team") == 0
    assert not embedded.exists()
    assert files(tmp_path / "team") == objects
    assert (tmp_path / "team").stat().st_mode & 0o007 == 0
    subprocess.run(["git", "clone", "-q", root, tmp_path / "clone"], check=True)
    assert pull(tmp_path / "clone") == 0
    assert files(tmp_path / "clone" / "data" / "dataset") == data
    repository = access.repository(open_state(root))
    assert (
        repository.stores["remote storage"] == tmp_path / "team" / "files" / "md5"
    )  # where a purge will look
    assert repository.is_tracked_clean()
    capsys.readouterr()
    assert invoke(["status", "--workspace", str(tmp_path / "clone")]) == 2
    assert "expunge data share" in capsys.readouterr().err
    assert share(root, tmp_path / "team") == 0
    assert "nothing to move" in capsys.readouterr().out


@pytest.mark.parametrize("stop", ["copy", "config", "drop"])
def test_a_stopped_move_loses_nothing_and_goes_on(root, tmp_path, monkeypatch, stop):
    objects = files(root / ".expunge" / "dvc-remote")

    def stopped(*_arguments, **_settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        target = {
            "copy": (sharing.os, "replace"),
            "config": (sharing.git, "commit"),
            "drop": (sharing, "_drop"),
        }[stop]
        patched.setattr(*target, stopped)
        with pytest.raises(KeyboardInterrupt):
            sharing.share(open_state(root), tmp_path / "team")
    access.repository(open_state(root)).require_stored(access.repository(open_state(root)).current().md5)
    assert share(root, tmp_path / "team") == 0
    assert files(tmp_path / "team") == objects
    assert not (root / ".expunge" / "dvc-remote").exists()


def test_a_folder_in_use_a_file_and_one_inside_are_refused(root, tmp_path, capsys):
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / "theirs.txt").write_text("theirs")
    file.write_text("a file")
    before = files(root)
    for folder, said in (
        (used, "in use"),
        (file, "no folder"),
        (root / "inside", "lies in"),
        (tmp_path, "lies in"),
    ):
        assert share(root, folder) == 2
        assert said in capsys.readouterr().err
    assert files(used) == {"theirs.txt": b"theirs"}
    config = ".dvc/config"
    assert (root / config).read_bytes() == before[config]


def test_no_fork_lives_on_the_data_of_the_original(root, tmp_path, capsys):
    assert share(root, tmp_path / "team") == 0
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    capsys.readouterr()
    assert invoke(["workspace", "fork", "--workspace", str(copy)]) == 2
    assert "would destroy the original's" in capsys.readouterr().err
    for words in (["pull"], ["remote", "modify", "storage", "url", ".expunge/dvc-remote"], ["push"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=copy, check=True, capture_output=True)
    assert invoke(["workspace", "fork", "--workspace", str(copy)]) == 0
