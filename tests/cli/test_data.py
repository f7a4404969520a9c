"""`expunge data` and `expunge suppression`: one document with --json, clear lines without, the right exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from cli.checks import run_checks
from cli.main import invoke
from expunge.datasets.partitions import read_dataset
from expunge.pseudonyms import key_epochs, load_keyring
from expunge.state import open_state
from tasks.adapters import git
from tasks.place import fork
from tests.conftest import Expunge, make_clinic
from tests.workspaces import ANN, PEOPLE, erase, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ann was removed and purged."""
    root = make(tmp_path_factory.mktemp("made"))
    shutil.copytree(root / "data" / "dataset", root.parent / "backup")
    git.git(root, "tag", "old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPUNGE_WORKSPACE", str(root))
        erase(root, ANN)
    return root.parent


@pytest.fixture
def expunge(made: Path, tmp_path: Path) -> Expunge:
    """The command line on a copy."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    fork(open_state(tmp_path / "copy" / "workspace"))
    return Expunge(tmp_path / "copy" / "workspace")


def answer(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def people(expunge: Expunge) -> set[str]:
    return set(read_dataset(expunge.root / "data" / "dataset")["subject_id"])


def test_importing_and_restoring(
    expunge: Expunge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pseudonym = load_keyring(expunge.root / ".expunge" / "keys").of(ANN)
    dump, backup = (
        make_clinic(tmp_path / "grown", people=PEOPLE + 3),
        expunge.root.parent / "backup",
    )
    assert expunge("data", "import", str(dump), "--dry-run") == 0
    told = capsys.readouterr().out
    assert "would be added" in told
    assert "stays version" in told
    assert expunge("data", "import", str(dump)) == 0
    told = capsys.readouterr().out
    assert f"suppressed {pseudonym}" in told
    assert "person-" not in told
    assert len(people(expunge)) == PEOPLE + 3
    for command in (["import", str(dump)], ["restore", str(backup)]):
        assert expunge("data", *command, "--json") == 0
        done = answer(capsys)
        assert not done["changed"]
        assert done["suppressed"] == {"rows": 2, "subjects": 1, "pseudonyms": [pseudonym]}
    assert ANN not in people(expunge)


def test_what_cannot_be_imported_is_one_line(
    expunge: Expunge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_clinic(tmp_path / "other")
    text = (other / "contract.yaml").read_text()
    (other / "contract.yaml").write_text(text.replace("seed: 1", "seed: 2"))
    before = git.git(expunge.root, "rev-parse", "HEAD")
    for command in (["import", str(other)], ["import", "absent"], ["restore", str(tmp_path)]):
        assert expunge("data", *command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert git.git(expunge.root, "rev-parse", "HEAD") == before


def test_a_purged_version_is_one_line(expunge: Expunge, capsys: pytest.CaptureFixture[str]) -> None:
    assert expunge("data", "checkout", "old", "--json") == 1
    assert "purged" in answer(capsys)["error"]
    assert expunge("data", "checkout", "nothing") == 2
    capsys.readouterr()
    assert expunge("data", "checkout", "--json") == 0
    assert answer(capsys)["changed"] is False
    assert len(people(expunge)) == PEOPLE


def test_a_missing_guard_is_noticed_and_made(expunge: Expunge, capsys: pytest.CaptureFixture[str]) -> None:
    def check() -> dict:
        (found,) = [c for c in run_checks(expunge.root) if c["check"] == "guard against purged versions"]
        return found

    assert check()["ok"]
    (expunge.root / ".git" / "hooks" / "post-checkout").unlink()
    assert not check()["ok"]
    assert "expunge data guard" in check()["detail"]
    assert expunge("data", "guard", "--json") == 0
    assert answer(capsys) == {"installed": True, "changed": True}
    assert check()["ok"]


def test_an_epoch_ends(
    expunge: Expunge, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = make_clinic(tmp_path / "grown", people=PEOPLE)
    keys = expunge.root / ".expunge" / "keys"
    assert expunge("suppression", "destroy", "--epoch", "1", "--yes") == 1
    assert expunge("suppression", "rotate", "--json") == 0
    capsys.readouterr()
    assert expunge("suppression", "list", "--json") == 0
    first, second = answer(capsys)
    assert (first["state"], first["suppressed"], first["closed_tickets"]) == ("living", 1, 1)
    assert (second["state"], second["suppressed"]) == ("current", 0)
    assert expunge("suppression", "list") == 0
    assert expunge("data", "import", str(dump), "--json") == 0
    capsys.readouterr()
    assert ANN not in people(expunge)

    assert expunge("suppression", "destroy", "--epoch", "1") == 2  # nobody to ask
    said = capsys.readouterr()
    for effect in ("come back in", "erased already", "cannot search", "linked to nobody", "stay verifiable"):
        assert effect in said.out
    assert "--yes" in said.err
    assert expunge("suppression", "destroy", "--epoch", "1", "--json") == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert expunge("suppression", "destroy", "--epoch", "1") == 130
    assert key_epochs(keys) == (1, 2)
    capsys.readouterr()

    assert expunge("suppression", "destroy", "--epoch", "1", "--yes", "--json") == 0
    assert answer(capsys) == {"epoch": 1, "destroyed": True}
    assert key_epochs(keys) == (2,)
    expunge("purge", "verify", "--json")
    (note,) = [note for note in answer(capsys)["notes"] if "epoch 1" in note]
    assert note.startswith("1 person erased under key epoch 1")
    assert expunge("data", "import", str(dump), "--json") == 0
    assert answer(capsys)["added"]["subjects"] == 1
    assert ANN in people(expunge)  # as the explanation says
    assert open_state(expunge.root).tickets.submit(ANN).created


def test_an_empty_group_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("data", "suppression"):
        assert invoke([group]) == 2
        assert "Usage" in capsys.readouterr().out
