"""What a killed git or DVC leaves is cleared away; one at work is not disturbed."""

import subprocess
import time

import pytest

from expunge.settings import Workspace
from tasks.adapters import git
from tasks.reconcile import _destroy_git_locks, _destroy_half_dvc_lock


@pytest.fixture
def workspace(tmp_path):
    git.git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("x")
    return Workspace(tmp_path)


def test_a_killed_gits_lock_goes(workspace):
    (workspace.root / ".git" / "index.lock").touch()
    with pytest.raises(Exception, match="git"):
        git.commit(workspace.root, ["file"], "one")
    assert _destroy_git_locks(workspace) == 1
    git.commit(workspace.root, ["file"], "one")
    assert _destroy_git_locks(workspace) == 0


def test_a_git_at_work_keeps_its_lock(workspace):
    (workspace.root / ".git" / "index.lock").touch()
    at_work = subprocess.Popen(["git", "hash-object", "--stdin"], cwd=workspace.root, stdin=subprocess.PIPE)
    try:
        time.sleep(0.2)
        assert _destroy_git_locks(workspace) == 0
    finally:
        at_work.communicate(b"")
    assert _destroy_git_locks(workspace) == 1


def test_half_a_lock_file_of_a_killed_dvc_goes(workspace):
    from dvc.repo import Repo

    with Repo.init(str(workspace.root)) as repo:
        lock = workspace.root / ".dvc" / "tmp" / "rwlock"
        for whole in ("{}", None):
            if whole is not None:
                lock.write_text(whole, encoding="utf-8")
            assert _destroy_half_dvc_lock(workspace) == 0
            lock.unlink(missing_ok=True)
        lock.write_text('{"data": {"wri', encoding="utf-8")
        with pytest.raises(Exception, match="corrupted"):
            repo.add(str(workspace.root / "file"))
        assert _destroy_half_dvc_lock(workspace) == 1
        repo.add(str(workspace.root / "file"))
