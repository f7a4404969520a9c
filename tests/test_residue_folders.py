"""A folder is searched with all that is in it and behind its links, names included, and none is passed over."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from expunge.residue import walk
from expunge.residue.scan import Target, scan
from expunge.residue.stores import folder
from tasks.adapters.git import objects

PERSON = "person-000313"
ABOUT = f"about {PERSON}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "w").mkdir()
    return tmp_path / "w"


def search(root: Path, listed: tuple[Path, ...] = ()) -> list[tuple[str, str]]:
    store = folder(root, "here", git=lambda path: objects(path, bare=True), listed=listed)
    report = scan([store], Target(frozenset({PERSON})))
    assert PERSON not in json.dumps(report.to_json())
    return [(hit["where"], hit["kind"]) for hit in report.hits]


def git(root: Path, *arguments: str) -> str:
    root.mkdir(exist_ok=True)
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_a_folder_s_name_is_searched_and_repeated_nowhere_below_it(root: Path) -> None:
    (root / f"letters-{PERSON}" / "2024").mkdir(parents=True)
    (root / f"letters-{PERSON}" / "2024" / "visit.txt").write_text(ABOUT)
    (root / "empty" / PERSON).mkdir(parents=True)
    masked = "(a name with an id)"
    assert sorted(search(root)) == [
        (masked, "subject-id"),
        (f"{masked}/2024/visit.txt", "subject-id"),
        (f"empty/{masked}", "subject-id"),
    ]


def test_a_folder_behind_a_link_is_searched_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "a").write_text(ABOUT)
    (tmp_path / "disk" / "deep" / "again").symlink_to(tmp_path / "disk")
    for name in ("cache", "other"):
        (root / name).symlink_to(tmp_path / "disk")
    assert search(root) == [("cache/deep/a", "subject-id")]


def test_a_file_behind_a_link_is_searched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(ABOUT)
    (root / "link").symlink_to(tmp_path / "a")
    assert search(root) == [("link", "subject-id")]


def test_links_within_the_folder_and_to_what_it_lies_in_lead_nowhere_new(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(ABOUT)
    (root / "a").write_text(ABOUT)
    (root / "up").symlink_to("..")
    (root / "itself").symlink_to(".")
    (root / "b").symlink_to("c")
    (root / "c").mkdir()
    (root / "c" / "d").write_text(ABOUT)
    (root / PERSON).symlink_to("a")
    os.mkfifo(root / "pipe")
    assert sorted(search(root)) == [
        ("(a name with an id)", "subject-id"),
        ("a", "subject-id"),
        ("c/d", "subject-id"),
    ]


def test_a_link_that_leads_nowhere_is_not_clean(root: Path) -> None:
    (root / "cache").symlink_to("/nowhere/at/all")
    (root / "loop").symlink_to("loop")
    assert search(root) == [("cache", "unreadable"), ("loop", "unreadable")]


def test_a_folder_that_may_not_be_entered_is_not_clean(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "closed").mkdir()
    listdir = os.listdir

    def refuse(path: Path) -> list[str]:
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "denied")
        return listdir(path)

    monkeypatch.setattr(walk.os, "listdir", refuse)  # a super-user may enter anything
    assert search(root) == [("closed", "unreadable")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [Path("sub/.git"), Path(".git/modules/sub"), Path("bare")])
def test_objects_of_a_repository_inside_another(
    root: Path, tmp_path: Path, place: Path, packed: bool
) -> None:
    git(root, "init", "-q")
    inner = tmp_path / "inner"
    git(inner, "init", "-q")
    (inner / "a").write_text(ABOUT)
    git(inner, "add", "a")
    git(inner, "commit", "-q", "-m", "x")
    blob = git(inner, "rev-parse", "HEAD:a")
    if packed:
        git(inner, "gc", "-q")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (inner / ".git").rename(root / place)
    assert search(root, (root / ".git",)) == [(f"{place} git blob {blob}", "subject-id")]


def test_a_damaged_repository_inside_another_is_not_clean(root: Path) -> None:
    git(root / "sub", "init", "-q")
    (root / "sub" / ".git" / "HEAD").write_text("damaged")
    assert search(root) == [("sub/.git", "unreadable")]


def test_other_files_of_git_are_searched_whatever_they_begin_with(root: Path) -> None:
    git(root, "init", "-q")
    for name in ("lfs/objects/ab/cd/" + "0" * 64, "x-notes"):
        path = root / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"x {PERSON}")
    assert [where for where, _ in search(root, (root / ".git",))] == [
        ".git/x-notes",
        ".git/lfs/objects/ab/cd/" + "0" * 64,
    ]
