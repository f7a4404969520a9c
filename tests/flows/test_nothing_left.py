"""People leave in batches while somebody keeps bringing them back: in the end no byte of theirs is anywhere.

What the product says of itself is checked by a scanner of the tests' own; both must see the people before the purge.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import invoke
from expunge.datasets.partitions import read_dataset
from tasks.adapters import git
from tests.conftest import Expunge, make_clinic, make_workspace
from tests.flows.killer import KILLED, run
from tests.independent_scanner import hits

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EXPUNGE_DATA") or ROOT.parent / "shared" / "data")
ZIP = DATA / "diabetes130" / "dataset_diabetes.zip"


class Story:
    """Batches of people, and what somebody tries between them."""

    def __init__(self, workspace: Expunge, dump: Path, capsys, postgres: str | None = None) -> None:
        self.workspace, self.dump, self.capsys, self.postgres = workspace, dump, capsys, postgres
        self.first = git.head(workspace.root)
        frame = read_dataset(self.dataset)
        self.records = {who: list(rows) for who, rows in frame.groupby("subject_id")["record_id"]}
        self.erased: list[str] = []

    @property
    def dataset(self) -> Path:
        return self.workspace.root / "data" / "dataset"

    def content(self) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.dataset.iterdir()}

    def search(self, people: list[str]) -> tuple[int, list[str]]:
        """What the product's scan answers, and what the tests' own finds."""
        told = self.workspace("purge", "verify", *(word for who in people for word in ("--subject", who)))
        records = [number for who in people for number in self.records[who]]
        return told, hits(self.workspace.root, people, records, self.postgres)

    def erase(self, people: list[str]) -> None:
        for who in people:
            self.workspace.ticket(who)
        assert self.workspace("run") == 0
        self.erased += people
        assert set(read_dataset(self.dataset)["subject_id"]).isdisjoint(self.erased)

    def see_them_before_the_purge(self, people: list[str]) -> None:
        """Neither scan may be blind: stopped when the model is registered, both find the people."""
        for who in people:
            self.workspace.ticket(who)
        assert run(self.workspace.root, where="tasks.adapters.registry:Registry.promote") == KILLED
        told, found = self.search(people)
        assert told == 1
        places = " ".join(found)
        assert ".dvc/cache" in places
        assert "dvc-remote" in places
        assert "an id" in places
        assert "a row" in places
        self.erased += people
        assert self.workspace("run") == 0

    def import_again(self) -> None:
        """The whole dump once more, everybody in it."""
        before = self.content()
        self.capsys.readouterr()
        assert self.workspace("data", "import", str(self.dump), "--json") == 0
        told = json.loads(self.capsys.readouterr().out)
        assert told["suppressed"]["subjects"] == len(self.erased)
        assert told["suppressed"]["rows"] == sum(len(self.records[who]) for who in self.erased)
        assert told["added"]["rows"] == 0
        assert self.content() == before

    def check_out_the_first_version(self) -> None:
        """Through Expunge, and with git and DVC alone."""
        before, root = self.content(), self.workspace.root
        assert self.workspace("data", "checkout", self.first) == 1
        assert "purged" in self.capsys.readouterr().err
        assert self.content() == before
        git.git(root, "checkout", "--quiet", self.first)
        subprocess.run(
            [sys.executable, "-m", "dvc", "checkout", "--quiet"],
            cwd=root,
            env=git.clean_environment(),
            capture_output=True,
            check=False,
        )
        assert self.content() == before
        git.git(root, "checkout", "--quiet", "main")
        assert self.content() == before
        assert git.git(root, "status", "--porcelain", "--untracked-files=no") == ""

    def end(self) -> None:
        told, found = self.search(self.erased)
        assert (told, found) == (0, [])
        assert {batch.stage for batch in self.workspace.batches()} == {"closed"}
        for certificate in self.workspace.certificates():
            assert self.workspace("certificate", "verify", certificate["certificate_id"]) == 0


def test_nothing_is_left_of_them(url, tmp_path, prefect_api, capsys, monkeypatch):
    postgres = None
    if url.startswith("postgresql"):
        monkeypatch.setenv("EXPUNGE_DATABASE_URL", url)
        postgres = url.replace("+psycopg", "")
    workspace = make_workspace(tmp_path / "workspace", tmp_path)
    story = Story(workspace, make_clinic(tmp_path / "dump"), capsys, postgres)
    people = [f"person-{number:05d}-x" for number in range(4, 12)]
    story.see_them_before_the_purge(people[:2])
    story.import_again()
    story.check_out_the_first_version()
    story.erase(people[2:4])
    story.import_again()
    story.end()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not ZIP.is_file(), reason="dataset_diabetes.zip is not at hand; set EXPUNGE_DATA")
def test_fifty_patients_in_ten_batches(tmp_path, prefect_api, capsys):
    workspace = Expunge(tmp_path / "workspace")
    assert invoke(["init", str(workspace.root), "--dataset", "diabetes130", "--source", str(ZIP)]) == 0
    assert workspace("train") == 0
    story = Story(workspace, ZIP, capsys)
    # the people with most stays, and long numbers: a short one is in any file by chance
    known = sorted((who for who in story.records if len(who) >= 6), key=lambda who: -len(story.records[who]))
    batches = [known[start : start + 5] for start in range(0, 50, 5)]
    story.see_them_before_the_purge(batches[0])
    for number, people in enumerate(batches[1:]):
        (story.import_again, story.check_out_the_first_version)[number % 2]()
        story.erase(people)
    story.import_again()
    story.check_out_the_first_version()
    assert len(story.erased) == 50
    story.end()
