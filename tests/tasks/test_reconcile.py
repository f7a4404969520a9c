"""What a killed git leaves is cleared away; a git at work is not disturbed."""

import subprocess
import time

import pytest

from expunge.settings import Workspace
from tasks.adapters import git
from tasks.reconcile import _destroy_git_locks


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
