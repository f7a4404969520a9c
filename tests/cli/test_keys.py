"""`expunge keys`: made with a workspace, rotated, exported; and a workspace of an earlier release that has none."""

import json
import subprocess

import pytest

from cli.main import invoke
from expunge.evidence.keyring import KEYRING_FILE, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.statements import CERTIFICATE_PREDICATE, open_statement, sign_statement
from tests.conftest import make_clinic


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    return root


def keys(root, *arguments):
    return invoke(["keys", *arguments, "--workspace", str(root)])


def test_a_workspace_has_keys_from_its_start(root, capsys):
    capsys.readouterr()
    assert keys(root, "list", "--json") == 0
    ring = json.loads(capsys.readouterr().out)
    assert [key["use"] for key in ring["keys"]] == ["evidence", "model"]
    assert keys(root, "init", "--json") == 0  # again: the same ones
    assert json.loads(capsys.readouterr().out) == ring
    ignored = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    assert ignored.stdout == ""


def test_a_rotation_overlaps_and_is_exported(root, tmp_path, capsys):
    pinned = load_keyring(root / ".expunge" / "keys" / KEYRING_FILE)
    assert keys(root, "rotate", "--overlap-days", "3") == 0
    assert keys(root, "rotate", "--use", "model", "--overlap-days", "0") == 0
    public = tmp_path / "public.json"
    assert keys(root, "export-public", str(public)) == 0
    exported = load_keyring(public)
    assert "PRIVATE" not in public.read_text()
    old, new = exported.of("evidence")
    assert (old.valid_until - new.valid_from).days == 3
    assert new.keyid in capsys.readouterr().out
    signed = sign_statement(
        SigningKeys(root / ".expunge" / "keys").signer(), CERTIFICATE_PREDICATE, {"m": "0" * 64}, {"a": 1}
    )
    trusted = [key.key for key in pinned.with_endorsed(exported).of("evidence")]
    assert open_statement(signed, trusted, CERTIFICATE_PREDICATE).keyids == (new.keyid,)
    assert len(pinned.with_endorsed(exported).of("model")) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rotate", "--signer", "env:NOT_THERE"], "PEM text in NOT_THERE"),
        (["rotate", "--signer", "awskms:alias/x"], "needs its public half"),
        (["rotate", "--signer", "file2:nothing.key"], "private key is missing"),
        (["rotate", "--public", "nothing.pem"], "public key cannot be read"),
        (["export-public", "no/such/folder/file"], "keyring cannot be written"),
    ],
)
def test_bad_input_changes_nothing(root, capsys, arguments, told):
    folder = root / ".expunge" / "keys"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert keys(root, *arguments) == 2
    assert told in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_workspace_of_an_earlier_release_is_told_to_make_keys(root, capsys):
    for path in [
        *(root / ".expunge" / "keys").glob("signing-*"),
        root / ".expunge" / "keys" / KEYRING_FILE,
    ]:
        path.unlink()
    assert keys(root, "list") == 2
    assert "expunge keys init" in capsys.readouterr().err
    assert invoke(["doctor", "--json", "--workspace", str(root)]) == 3
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "expunge keys init" in checks["signing keys"]["detail"]
    assert keys(root, "init") == 0
    assert keys(root, "list") == 0


def test_a_lost_key_is_replaced_and_nobody_vouches_for_the_new_one(root, capsys):
    folder = root / ".expunge" / "keys"
    pinned = load_keyring(folder / KEYRING_FILE)
    next(folder.glob("signing-evidence-*")).unlink()
    assert keys(root, "rotate") == 2
    assert "--lost" in capsys.readouterr().err
    assert keys(root, "rotate", "--lost", "--overlap-days", "0") == 0
    ring = load_keyring(folder / KEYRING_FILE)
    assert ring.of("evidence")[-1].endorsement is None
    assert pinned.with_endorsed(ring) == pinned
    assert SigningKeys(folder).signer().public_key.keyid == ring.of("evidence")[-1].keyid


def test_a_terminal_is_not_painted_over(root, tmp_path, capsys):
    spoiled = tmp_path / "certificate.json"
    spoiled.write_text(json.dumps({"type": "\x1b[2J\x1b[Hcertificate: VERIFIED", "version": 1}))
    assert invoke(["certificate", "verify", str(spoiled)]) == 1
    told = capsys.readouterr()
    assert "\x1b[2J" not in told.out + told.err
    assert "DOES NOT HOLD" in told.out
