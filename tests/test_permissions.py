"""Whatever the umask, a workspace is its user's alone; one that others could have changed is refused."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from expunge import permissions
from expunge.errors import WorkspaceError
from expunge.permissions import (
    is_open,
    private_folder,
    private_site_cache,
    require_private,
    tighten,
    tighten_umask,
)
from expunge.settings import Workspace

ROOT = Path(__file__).resolve().parents[1]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def expunge(umask: int, *arguments: str) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "EXPUNGE_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT)},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_private(root: Path) -> None:
    state = root / ".expunge"
    assert [mode(p) for p in (root, state, state / "dvc-site-cache", state / "dvc-site-cache" / "repo")] == [
        0o700
    ] * 4
    paths = [root, *root.rglob("*")]
    assert len(paths) > 50
    assert not [(p, oct(mode(p))) for p in paths if not p.is_symlink() and mode(p) & 0o022]
    require_private(Workspace(root))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_workspace_is_private_whatever_the_umask(tmp_path, umask):
    root = tmp_path / "w"
    if umask == 0o022:  # a repository that was there
        root.mkdir()
        root.chmod(0o755)
        subprocess.run(["git", "init", "-q", str(root)], check=True)
    made = expunge(umask, "init", str(root), "--dataset", "breast-cancer")
    assert made.returncode == 0, made.stderr
    assert ("yours alone now" in made.stdout) == (umask == 0o022)
    assert_private(root)
    if umask:
        return
    # An earlier release left it open: shut at the next use, and what its user must do is said.
    (root / ".expunge").chmod(0o755)
    root.chmod(0o755)
    seen = expunge(umask, "ticket", "list", "--workspace", str(root))
    assert seen.returncode == 0, seen.stderr
    assert "other accounts can enter" in seen.stderr
    assert f"chmod 700 {root}" in " ".join(seen.stderr.split())
    assert (mode(root / ".expunge"), mode(root)) == (0o700, 0o755)
    root.chmod(0o700)
    # A received one, which others could have changed: nothing of it is run.
    (root / "params.yaml").chmod(0o666)
    refused = expunge(umask, "run", "--workspace", str(root))
    assert refused.returncode == 2, refused.stderr
    assert "params.yaml (0666)" in refused.stderr
    assert f"chmod -R go-w {root}" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_training_under_an_open_umask_leaves_nothing_open(tmp_path):
    root = tmp_path / "w"
    for arguments in (("init", str(root), "--dataset", "breast-cancer"), ("train", "--workspace", str(root))):
        done = expunge(0, *arguments)
        assert done.returncode == 0, done.stderr
    assert_private(root)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path / "w")
    for folder in (made.state / "keys", made.dataset_dir, made.root / ".git" / "hooks"):
        folder.mkdir(parents=True)
    for path in (made.root, *made.root.rglob("*")):
        path.chmod(0o755)
    (made.root / "policy.yaml").write_text("")
    return made


@pytest.mark.parametrize(
    "where", [".", ".expunge", ".expunge/keys", "policy.yaml", ".git/hooks", "data/dataset"]
)
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_can_write_to_is_refused(workspace, where, bits):
    require_private(workspace)
    path = workspace.root / where
    path.chmod(mode(path) | bits)
    with pytest.raises(WorkspaceError, match="others can write") as refused:
        require_private(workspace)
    assert f"chmod -R go-w {workspace.root}" in str(refused.value)
    assert where in str(refused.value)


def test_a_link_has_no_mode_of_its_own(workspace):
    (workspace.root / "link").symlink_to("/nowhere")
    require_private(workspace)


@pytest.mark.parametrize("many", [1, 9])
def test_what_belongs_to_another_account_is_refused(workspace, monkeypatch, many):
    names = [f"x{number}" for number in range(many)]
    lstat = os.lstat

    def of_others(path):
        found = lstat(path)
        if os.path.basename(path) in names:
            found = os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]])
        return found

    for name in names:
        (workspace.state / name).write_text("")
    monkeypatch.setattr(permissions.os, "lstat", of_others)
    with pytest.raises(WorkspaceError, match="another account") as refused:
        require_private(workspace)
    assert f"chown -R {os.geteuid()} {workspace.root}" in str(refused.value)
    assert ("6 more" in str(refused.value)) == (many == 9)


def test_the_state_is_shut_quietly_and_the_root_is_left_to_its_user(workspace, capfd):
    assert is_open(workspace)
    tighten(workspace)
    assert (mode(workspace.state), mode(workspace.root)) == (0o700, 0o755)
    assert not "".join(capfd.readouterr())
    tighten(Workspace(workspace.root / "absent"))


@pytest.mark.parametrize("open_one", ["dvc-site-cache", "dvc-site-cache/repo"])
def test_pickles_that_others_could_have_written_are_thrown_away(workspace, open_one):
    cache = workspace.state / "dvc-site-cache"
    (cache / "repo").mkdir(parents=True, mode=0o755)
    (cache / "repo" / "cache.db").write_text("pickle")
    assert private_site_cache(workspace.state) == cache
    assert (cache / "repo" / "cache.db").exists()  # nobody else could write there
    (workspace.state / open_one).chmod(0o777)
    private_site_cache(workspace.state)
    assert not (cache / "repo" / "cache.db").exists()
    assert (mode(cache), mode(cache / "repo")) == (0o700, 0o700)


def test_the_umask_loses_only_what_others_could_write(tmp_path):
    before = os.umask(0)
    try:
        for given, kept in ((0o000, 0o022), (0o002, 0o022), (0o077, 0o077)):
            os.umask(given)
            tighten_umask()
            assert os.umask(given) == kept
        private_folder(tmp_path / "a" / "b")
        assert mode(tmp_path / "a" / "b") == 0o700
    finally:
        os.umask(before)
