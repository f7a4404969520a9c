"""Purged versions, checked out through Expunge and through plain git and DVC: nothing comes back, nothing is harmed."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from expunge.datasets.partitions import read_dataset
from expunge.errors import RefusedError, WorkspaceError
from expunge.state import open_state
from tasks.adapters import access, git, guard
from tasks.checkout import checkout
from tests.workspaces import ANN, BOB, copied, erase, make

HOOK = Path(".git") / "hooks" / "post-checkout"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann was removed and purged; before that, a version of everybody's was tagged."""
    root = make(tmp_path_factory.mktemp("made"))
    git.git(root, "tag", "old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_WORKSPACE", str(root))
        erase(root, ANN)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one test."""
    copied(made, tmp_path / "workspace")
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path / "workspace"


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody types it, with `dvc` and `python` of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = git.clean_environment() | {"PATH": path}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "data" / "dataset").iterdir()}


def people(root: Path) -> set[str]:
    return set(read_dataset(root / "data" / "dataset")["subject_id"])


def test_plain_git_and_dvc_do_no_harm(root: Path) -> None:
    current = files(root)
    old = run(root, "git", "checkout", "old")
    assert old.returncode == 0
    told = [line for line in old.stderr.splitlines() if line.startswith("expunge: ")]
    assert len(told) == 1
    assert "purged" in told[0]
    assert "kept as in main" in told[0]
    assert run(root, "dvc", "checkout").returncode == 0
    assert files(root) == current
    back = run(root, "git", "checkout", "main")
    assert back.returncode == 0
    assert "expunge: " not in back.stderr
    assert run(root, "dvc", "checkout").returncode == 0
    assert files(root) == current
    assert run(root, "git", "status", "--porcelain").stdout == ""
    assert access.repository(open_state(root)).is_tracked_clean()


def test_without_the_guard_the_folder_is_emptied(root: Path) -> None:
    (root / HOOK).unlink()
    assert not guard.installed(root)
    assert run(root, "git", "checkout", "old").returncode == 0
    run(root, "dvc", "checkout")
    assert not (root / "data" / "dataset").exists()  # measured with DVC 3: the folder itself is gone
    assert guard.install(root)
    # and the way back
    assert run(root, "git", "checkout", "main").returncode == 0
    checkout(open_state(root), "HEAD")
    assert len(files(root)) == 8


def test_the_guard_runs_before_the_hook_of_dvc(root: Path) -> None:
    """`dvc install` before `expunge init`: DVC's hook checks out at once what it finds."""
    current = files(root)
    (root / HOOK).unlink()
    assert run(root, "dvc", "install").returncode == 0
    assert guard.install(root)
    assert not guard.install(root)
    assert guard.installed(root)
    assert run(root, "git", "checkout", "old").returncode == 0
    assert files(root) == current
    assert run(root, "git", "checkout", "main").returncode == 0
    assert files(root) == current

    (root / "data" / "dataset" / sorted(current)[0]).unlink()
    assert run(root, "git", "checkout", "-b", "side").returncode == 0
    assert files(root) == current  # DVC's own hook still does its work


def test_an_earlier_hook_is_kept_and_gets_its_arguments(root: Path) -> None:
    (root / HOOK).write_text('#!/bin/sh\necho "$3" > "$PWD/ran"\nexit 3\n')
    (root / HOOK).chmod(0o755)
    assert guard.install(root)
    assert run(root, "git", "checkout", "old").returncode != 0  # as before: the hook's own answer
    assert (root / "ran").read_text() == "1\n"
    (root / HOOK).write_text("#!/bin/sh\n")
    with pytest.raises(WorkspaceError, match="another hook"):
        guard.install(root)


@pytest.mark.parametrize(
    "commands", [["checkout", "-b", "side", "old"], ["checkout", "old", "--", "data/dataset.dvc"]]
)
def test_a_new_branch_and_a_single_file_are_guarded_too(root: Path, commands: list[str]) -> None:
    current, pointer = files(root), (root / "data" / "dataset.dvc").read_text()
    done = run(root, "git", *commands)
    assert "expunge: " in done.stderr
    assert (root / "data" / "dataset.dvc").read_text() == pointer
    assert run(root, "dvc", "checkout").returncode == 0
    assert files(root) == current
    assert run(root, "git", "checkout", "main").returncode == 0


def test_a_whole_version_is_left_to_git_and_dvc(root: Path) -> None:
    erase(root, BOB, purge=False)
    assert BOB not in people(root)
    done = run(root, "git", "checkout", "HEAD~1")
    assert "expunge: " not in done.stderr
    assert run(root, "git", "status", "--porcelain").stdout == ""


def test_a_version_with_a_removed_person_is_never_put_there(root: Path) -> None:
    """Bob's removal on main waits for its purge; `side` is whole, and has him."""
    git.git(root, "branch", "side")
    erase(root, BOB, purge=False)
    assert run(root, "git", "checkout", "side").returncode == 0
    assert run(root, "dvc", "checkout").returncode == 0
    assert BOB in people(root)
    pointer = (root / "data" / "dataset.dvc").read_text()
    done = run(root, "git", "checkout", "old")  # left from side, on which he is
    assert "is kept as in main" in done.stderr
    assert (root / "data" / "dataset.dvc").read_text() != pointer
    assert run(root, "dvc", "checkout").returncode == 0
    assert not people(root) & {ANN, BOB}

    assert run(root, "git", "checkout", "--force", "side").returncode == 0
    assert run(root, "git", "branch", "-D", "main").returncode == 0
    done = run(root, "git", "checkout", "old")
    assert "was left as it is" in done.stderr
    assert run(root, "git", "status", "--porcelain").stdout == ""


def test_a_database_that_knows_nobody_chooses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_DATABASE_URL", f"sqlite:///{root}/.expunge/other.db")
    assert "was left as it is" in run(root, "git", "checkout", "old").stderr


def test_a_broken_guard_says_so_and_lets_git_go_on(root: Path) -> None:
    text = (root / HOOK).read_text()
    (root / HOOK).write_text(text.replace(" -P -m", "-gone -P -m"))
    assert not guard.installed(root)
    done = run(root, "git", "checkout", "old")
    assert done.returncode == 0
    assert "expunge data guard" in done.stderr
    assert guard.install(root)
    assert guard.installed(root)


def test_a_purged_version_is_refused_and_nothing_is_touched(root: Path) -> None:
    current, status = files(root), git.git(root, "rev-parse", "HEAD")
    with pytest.raises(RefusedError, match=r"purged and cannot come back.*objects are gone") as refusal:
        checkout(open_state(root), "old")
    assert "\n" not in str(refusal.value)
    assert files(root) == current
    assert git.git(root, "rev-parse", "HEAD") == status
    assert git.git(root, "status", "--porcelain") == ""


def test_a_lost_manifest_counts_as_purged(root: Path) -> None:
    repo = access.repository(open_state(root))
    md5 = repo.md5_of(git.git(root, "show", "old:data/dataset.dvc"))
    for store in repo.stores.values():
        (store / md5[:2] / md5[2:]).unlink()
    with pytest.raises(RefusedError, match="manifest is gone"):
        checkout(open_state(root), "old")


def test_a_whole_version_with_a_removed_person_is_refused(root: Path) -> None:
    erase(root, BOB, purge=False)  # or its objects came back from a backup
    current = files(root)
    with pytest.raises(RefusedError, match="1 of them: p1-") as refusal:
        checkout(open_state(root), "HEAD~1")
    assert BOB not in str(refusal.value)
    assert files(root) == current


def test_a_whole_version_is_taken_out_from_the_remote_and_left_again(root: Path) -> None:
    state, repo = open_state(root), access.repository(open_state(root))
    first = files(root)
    for path in (root / "data" / "dataset").iterdir():  # a version that differs, and removes nobody
        content = path.read_bytes()
        path.unlink()
        pd.read_parquet(io.BytesIO(content)).assign(dose=1.0).to_parquet(path, index=False)
    repo.track_dataset("another version")
    newest = files(root)
    shutil.rmtree(root / ".dvc" / "cache" / "files")
    assert checkout(state, "HEAD~1")["changed"]
    assert files(root) == first
    assert repo.is_tracked_clean()
    assert checkout(state, "HEAD")["changed"]
    assert files(root) == newest
    assert git.git(root, "status", "--porcelain") == ""
    assert not checkout(state, "HEAD")["changed"]


def test_an_emptied_folder_is_filled_again(root: Path) -> None:
    current = files(root)
    for path in (root / "data" / "dataset").iterdir():
        path.unlink()
    assert checkout(open_state(root), "HEAD")["changed"]
    assert files(root) == current


def test_what_no_version_has_is_not_overwritten(root: Path) -> None:
    path = next((root / "data" / "dataset").iterdir())
    path.unlink()
    path.write_bytes(b"work of a whole day")
    with pytest.raises(WorkspaceError, match="1 files"):
        checkout(open_state(root), "HEAD")
    assert path.read_bytes() == b"work of a whole day"


def test_what_is_no_revision_is_refused(root: Path) -> None:
    for name in ("nothing-of-that-name", "--all", "old:data/dataset.dvc"):
        with pytest.raises(WorkspaceError, match="no dataset version"):
            checkout(open_state(root), name)


def test_under_a_batch_only_the_current_version_is_taken_out(root: Path) -> None:
    git.commit(root, ["data/dataset.dvc"], "nothing")
    state = open_state(root)
    state.batches.open_batch([state.tickets.submit(BOB).ticket.ticket_id])
    assert not checkout(state, "HEAD")["changed"]
