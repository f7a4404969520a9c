"""`expunge ledger`: export, witness and verify, with a workspace and without one."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from cli.main import invoke
from cli.output import out
from tests.cli.http_clients import make_root
from tests.conftest import Expunge

AT = "2026-01-01T00:00:00+00:00"
RING = Path(".expunge") / "keys" / "public-keys.json"


@pytest.fixture
def workspace(tmp_path: Path) -> Expunge:
    """With a ledger, and no model behind it."""
    made = Expunge(make_root(tmp_path / "root"))
    state = made.state()
    state.ledger.append(state.lineage, kind="opening", issued_at=AT)
    move = {"alias": "champion", "from_version": None, "to_version": 1}
    state.ledger.append(state.lineage, kind="alias", issued_at=AT, details=move)
    return made


def append(workspace: Expunge, batch: str) -> None:
    state = workspace.state()
    state.ledger.append(state.lineage, kind="purge", batch=batch, issued_at=AT)


def tamper(workspace: Expunge, *statements: str) -> None:
    """As the owner of the database can."""
    with workspace.state().database.transaction() as session:
        for name in ("ledger_no_update", "ledger_no_delete", "ledger_heads_no_delete"):
            session.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            session.execute(text(statement))


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one document that was printed."""
    return json.loads(capsys.readouterr().out)


def test_show_names_the_move(workspace, capsys, monkeypatch):
    monkeypatch.setattr(out, "_width", 200)  # a terminal may be of any width
    assert workspace("ledger", "show") == 0
    assert "champion: none to 1" in capsys.readouterr().out


def test_an_export_verifies_without_a_workspace(workspace, tmp_path, monkeypatch, capsys):
    file, ring = tmp_path / "ledger.json", tmp_path / "trusted.json"
    ring.write_bytes((workspace.root / RING).read_bytes())
    assert workspace("ledger", "export", str(file)) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPUNGE_WORKSPACE", raising=False)
    capsys.readouterr()
    assert invoke(["ledger", "verify", str(file), "--key", str(ring), "--json"]) == 0
    outcome = answer(capsys)
    assert outcome["verified"]
    assert "the head is signed by a trusted key, and is of these entries" in outcome["checked"]
    # anybody can have written what nobody's signature was checked on: that is no success
    assert invoke(["ledger", "verify", str(file), "--json"]) == 4
    assert "signature of the head: no key was given" in answer(capsys)["missing"]
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content["entries"]))  # what earlier releases wrote
    assert invoke(["ledger", "verify", str(file), "--json"]) == 4
    assert answer(capsys)["missing"][0].startswith("signed head: this ledger has none")
    assert invoke(["ledger", "verify", str(file), "--key", str(ring), "--json"]) == 1
    assert "though a key was given" in answer(capsys)["findings"][0]
    file.write_text(json.dumps({**content, "entries": content["entries"][:1]}))
    assert invoke(["ledger", "verify", str(file), "--key", str(ring)]) == 1
    assert "WRONG: head: 1 entries where the head signs 2: cut off" in capsys.readouterr().out


def test_the_own_keyring_is_trusted_and_that_is_told(workspace, tmp_path, capsys):
    assert workspace("ledger", "verify", "--json") == 0
    told = answer(capsys)
    assert "a key from elsewhere: the workspace's own keyring was trusted" in told["missing"]
    assert (told["verified"], told["own_keys"]) == (True, True)
    assert workspace("ledger", "verify") == 0
    assert "ledger: VERIFIED with this workspace's own keys" in capsys.readouterr().out
    given = str(workspace.root / RING)
    assert workspace("ledger", "verify", "--key", given, "--json") == 0
    assert not any("own keyring" in line for line in answer(capsys)["missing"])
    other = make_root(tmp_path / "other") / RING
    assert workspace("ledger", "verify", "--key", str(other)) == 1
    assert "no signature by a trusted key" in capsys.readouterr().err


def test_a_witness_finds_an_old_copy_and_a_new_signature(workspace, tmp_path, capsys):
    early, late, copy = (tmp_path / name for name in ("early.json", "late.json", "ledger.json"))
    assert workspace("ledger", "witness", str(early)) == 0
    assert "cannot change it" in " ".join(capsys.readouterr().out.split())
    assert workspace("ledger", "export", str(copy)) == 0
    append(workspace, "b-1")
    assert workspace("ledger", "witness", str(late)) == 0
    capsys.readouterr()
    both = ("--witness", str(early), "--witness", str(late))
    assert workspace("ledger", "verify", *both, "--json") == 0
    assert sum("continues witness" in line for line in answer(capsys)["checked"]) == 2
    assert workspace("ledger", "verify", str(copy), "--key", str(workspace.root / RING), *both, "--json") == 1
    assert answer(capsys)["findings"] == [
        "witness 2: 2 entries where the head signs 3: cut off, or an old copy"
    ]
    assert (
        workspace("ledger", "verify", "--witness", str(copy), "--json") == 0
    )  # an old export serves as well
    capsys.readouterr()

    before = late.read_text()
    tamper(workspace, "DELETE FROM ledger WHERE sequence = 2", "DELETE FROM ledger_heads WHERE sequence = 2")
    append(workspace, "b-2")  # by whoever holds the key: chain and head hold
    assert workspace("ledger", "verify", "--json") == 0
    capsys.readouterr()
    assert workspace("ledger", "verify", *both, "--json") == 1
    assert answer(capsys)["findings"] == ["witness 2: entry 2 is not the one that the head signs: rewritten"]
    assert workspace("ledger", "witness", str(late)) == 1
    assert "does not continue the witness that is there" in capsys.readouterr().err
    assert late.read_text() == before


def test_policy_names_a_witness(workspace, tmp_path, capsys):
    place = tmp_path / "elsewhere"
    policy = workspace.root / "policy.yaml"
    policy.write_text(f"evidence: {{witness: {place / 'w.json'}}}\n")
    assert workspace("ledger", "verify", "--json") == 0
    assert any(line.endswith("w.json is not there") for line in answer(capsys)["missing"])
    place.mkdir()
    assert workspace("ledger", "witness", str(place / "w.json")) == 0
    capsys.readouterr()
    assert workspace("ledger", "verify", "--json") == 0
    assert any("continues witness 1, of 2 entries" in line for line in answer(capsys)["checked"])
    for inside in ("w.json", str(workspace.root / "w.json"), f"{place}/../root/w/w.json"):
        policy.write_text(f"evidence: {{witness: {inside}}}\n")
        assert workspace("ledger", "verify") == 2
        assert "an absolute path outside the workspace" in capsys.readouterr().err


def test_a_workspace_without_keys_signs_nothing(workspace, tmp_path, capsys):
    tamper(workspace, "DELETE FROM ledger_heads")  # as of an earlier release
    keys = workspace.root / ".expunge" / "keys"
    for file in [*keys.glob("signing-*"), keys / "public-keys.json", keys / "signers.json"]:
        file.unlink()
    assert workspace("ledger", "verify", "--json") == 4  # consistent; nobody signed it
    assert answer(capsys)["missing"][0].startswith("signed head: this ledger has none")
    for command in ("export", "witness"):
        assert workspace("ledger", command, str(tmp_path / "file.json")) == 2
        assert "expunge keys init" in capsys.readouterr().err
    assert not (tmp_path / "file.json").exists()
    assert workspace("keys", "init") == 0  # signs what is there
    assert workspace("ledger", "verify", "--key", str(workspace.root / RING)) == 0
    assert workspace("ledger", "witness", str(tmp_path / "file.json")) == 0


BAD = {
    "verify, no witness": (["verify", "--witness", "absent.json"], "witness cannot be read"),
    "verify, witness is none": (["verify", "--witness", "POLICY"], "witness cannot be read"),
    "verify, no key": (["verify", "--key", "absent.json"], "public key cannot be read"),
    "verify, key is none": (["verify", "--key", "POLICY"], "public key cannot be read"),
    "verify, file is none": (["verify", "POLICY"], "ledger cannot be read"),
    "export, nowhere": (["export", "absent/ledger.json"], "cannot be written"),
    "export, a folder": (["export", "."], "cannot be written"),
    "witness, nowhere": (["witness", "absent/w.json"], "cannot be written"),
    "witness, over something else": (["witness", "POLICY"], "witness cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, workspace, monkeypatch, capsys):
    arguments, told = BAD[name]
    monkeypatch.chdir(workspace.root)
    before = sorted(workspace.root.rglob("*"))
    policy = (workspace.root / "policy.yaml").read_bytes()
    assert workspace("ledger", *(word.replace("POLICY", "policy.yaml") for word in arguments)) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert sorted(workspace.root.rglob("*")) == before
    assert (workspace.root / "policy.yaml").read_bytes() == policy


def test_an_empty_ledger_is_not_exported(tmp_path, capsys):
    empty = Expunge(make_root(tmp_path / "root"))
    for command in ("export", "witness"):
        assert empty("ledger", command, str(tmp_path / "file.json")) == 1
        assert "the ledger is empty" in capsys.readouterr().err
    assert not (tmp_path / "file.json").exists()
