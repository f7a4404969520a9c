"""`expunge keys`: made with a workspace, rotated, exported; and a workspace of an earlier release that has none."""

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from cli.main import invoke
from expunge.evidence.keyring import KEYRING_FILE, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.statements import CERTIFICATE_PREDICATE, open_statement, sign_statement
from tests.conftest import Expunge, make_clinic
from tests.tasks.test_signing import authority  # noqa: F401


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


@pytest.fixture
def ledger(root):
    """The workspace, with a ledger and no model behind it, and a witness outside."""
    made = Expunge(root)
    witness = root.parent / "elsewhere.json"
    (root / "policy.yaml").write_text(f"evidence: {{witness: {witness}}}\n")
    append(made, "opening")
    assert made("ledger", "witness", str(witness)) == 0
    return made


def append(workspace, kind, **content):
    from tasks.ledger import append as write

    return write(workspace.state(), kind=kind, **content)


def keyids(root):
    return [key.keyid for key in load_keyring(root / ".expunge" / "keys" / KEYRING_FILE).of("evidence")]


def test_a_stolen_key_is_revoked_and_the_ledger_goes_on(ledger, root, tmp_path, capsys):
    """The steps of the runbook."""
    since = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    append(ledger, "purge", batch="b-1")  # with the stolen key: head and witness are of after the theft
    old = keyids(root)[0]
    assert keys(root, "revoke", old, "--since", since, "--reason", "theft") == 2
    assert "expunge keys rotate --use evidence --overlap-days 0" in " ".join(capsys.readouterr().err.split())
    assert keys(root, "rotate", "--overlap-days", "0") == 0
    assert keys(root, "revoke", old[:12], "--since", since, "--reason", "a laptop was stolen") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "has signed the ledger of 2 entries" in told
    assert "No witness" not in told
    assert keys(root, "revoke", old[:12], "--since", since, "--reason", "again") == 0  # nothing is left to do
    assert ledger("ledger", "verify") == 0
    append(ledger, "purge", batch="b-2")
    capsys.readouterr()
    assert ledger("ledger", "verify", "--json") == 0
    assert any(
        "continues witness 1, of 3 entries" in c for c in json.loads(capsys.readouterr().out)["checked"]
    )
    public, exported = tmp_path / "public.json", tmp_path / "ledger.json"
    assert keys(root, "export-public", str(public)) == 0
    assert f"{old}, ends" in capsys.readouterr().out
    assert load_keyring(public).find(old).revoked.reason == "a laptop was stolen"
    assert ledger("ledger", "export", str(exported)) == 0
    assert invoke(["ledger", "verify", str(exported), "--key", str(public)]) == 0
    assert keys(root, "list") == 0
    assert f"{old[:16]} REVOKED since" in capsys.readouterr().out
    invoke(["doctor", "--json", "--workspace", str(root)])
    checks = {check["check"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert f"{old[:16]} revoked since" in checks["signing keys"]["detail"]
    assert checks["ledger"]["ok"]


def test_a_ledger_that_a_thief_changed_is_not_signed_anew(ledger, root, capsys):
    old = keyids(root)[0]
    append(ledger, "purge", batch="b-1")
    with ledger.state().database.transaction() as session:
        session.execute(text("DROP TRIGGER ledger_no_delete"))
        session.execute(text("DROP TRIGGER ledger_heads_no_delete"))
        session.execute(text("DELETE FROM ledger WHERE sequence = 1"))
        session.execute(text("DELETE FROM ledger_heads WHERE sequence = 1"))
    assert keys(root, "rotate", "--overlap-days", "0") == 0
    moment = datetime.now(UTC).isoformat()
    capsys.readouterr()
    assert keys(root, "revoke", old, "--since", moment, "--reason", "theft") == 1  # the witness tells
    assert "is revoked, but the ledger does not hold" in " ".join(capsys.readouterr().err.split())
    assert load_keyring(root / ".expunge" / "keys" / KEYRING_FILE).find(old).revoked is not None
    state = ledger.state()
    signers = [one["keyid"] for one in state.ledger.read(state.lineage).head["signatures"]]
    assert signers == [old]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--since", "yesterday", "--reason", "r"], "ISO 8601"),
        (["--since", "2999-01-01", "--reason", "r"], "in the future"),
        (["--since", "2026-01-01", "--reason", " "], "without a reason"),
    ],
)
def test_a_revocation_that_says_too_little(ledger, root, capsys, arguments, told):
    assert keys(root, "rotate", "--overlap-days", "0") == 0
    before = (root / ".expunge" / "keys" / KEYRING_FILE).read_bytes()
    assert keys(root, "revoke", keyids(root)[0], *arguments) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert (root / ".expunge" / "keys" / KEYRING_FILE).read_bytes() == before


def test_a_rotation_has_its_endorsement_stamped_or_does_nothing(root, authority, capsys):  # noqa: F811
    url, stamps = authority
    folder = root / ".expunge" / "keys"
    (root / "policy.yaml").write_text("evidence: {timestamp_url: 'http://127.0.0.1:9'}\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert keys(root, "rotate") == 3
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (root / "policy.yaml").write_text(f"evidence: {{timestamp_url: '{url}'}}\n")
    assert keys(root, "rotate", "--overlap-days", "0") == 0
    ring = load_keyring(folder / KEYRING_FILE)
    old, new = ring.of("evidence")
    ended = ring.model_copy(update={"keys": [old]})
    assert ended.with_endorsed(ring, [stamps]).find(new.keyid)
    assert ended.with_endorsed(ring).find(new.keyid) is None
    (root / "policy.yaml").write_text("evidence: {timestamp_url: 'http://127.0.0.1:9'}\n")
    assert keys(root, "rotate", "--lost") == 0


def test_a_terminal_is_not_painted_over(root, tmp_path, capsys):
    spoiled = tmp_path / "certificate.json"
    spoiled.write_text(json.dumps({"type": "\x1b[2J\x1b[Hcertificate: VERIFIED", "version": 1}))
    assert invoke(["certificate", "verify", str(spoiled)]) == 1
    told = capsys.readouterr()
    assert "\x1b[2J" not in told.out + told.err
    assert "DOES NOT HOLD" in told.out
