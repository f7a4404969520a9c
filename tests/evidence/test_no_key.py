"""Evidence without a key is never more than consistent: words, JSON and exit code say so, for every kind of it."""

import json
import shutil

import pytest

from cli.main import invoke
from expunge.evidence.canonical import read_json
from expunge.evidence.result import VerificationResult, least
from tests.evidence.forging import GOLDEN, Operator, golden_certificate, signed_receipt, write

KEYS = GOLDEN / "auditor" / "trusted-keys.json"
PLAIN = GOLDEN.parent / "certificate-v1-convex"
WORDS = "CONSISTENT, SIGNATURE NOT CHECKED"


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture
def evidence(tmp_path, operator):
    shutil.copytree(GOLDEN, tmp_path / "e")
    write(tmp_path / "receipt.json", signed_receipt(operator.keys, {"ticket_id": "t-1"}))
    write(tmp_path / "entries.json", read_json(GOLDEN / "ledger.json")["entries"])
    (tmp_path / "alone").mkdir()
    write(tmp_path / "alone" / "certificate.json", golden_certificate())
    return tmp_path


KINDS = {
    "folder": ["certificate", "verify", "e"],
    "bare certificate": ["certificate", "verify", "alone/certificate.json"],
    "envelope": ["certificate", "verify", "e/certificate.dsse.json"],
    "never signed": ["certificate", "verify", str(PLAIN)],
    "several": ["certificate", "verify", "e", str(PLAIN)],
    "with its model": ["certificate", "verify", "e", "--model", "e/model"],
    "ledger": ["ledger", "verify", "e/ledger.json"],
    "bare entries": ["ledger", "verify", "entries.json"],
    "ledger with a witness": ["ledger", "verify", "e/ledger.json", "--witness", "e/ledger.json"],
    "receipt": ["ticket", "verify-receipt", "receipt.json"],
}


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS.keys())
def test_without_a_key_nothing_is_verified(evidence, monkeypatch, capsys, arguments):
    monkeypatch.chdir(evidence)
    assert invoke(arguments) == 4
    told = capsys.readouterr()
    assert WORDS in told.out
    assert "VERIFIED" not in told.out
    assert "--key" in told.err
    assert invoke([*arguments, "--json"]) == 4
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verified"], answer["consistent"], answer["signature_checked"]) == (False, True, False)
    assert answer["findings"] == []


def test_what_was_forged_without_a_signature_does_not_pass_as_verified(evidence, monkeypatch, capsys):
    """Whoever writes certificate and ledger alone is consistent; that is all that anybody can say without a key."""
    monkeypatch.chdir(evidence)
    for name in ("certificate.dsse.json", "public-keys.json", "model.sig"):
        (evidence / "e" / name).unlink()
    assert invoke(["certificate", "verify", "e", "--json"]) == 4
    assert invoke(["certificate", "verify", "e", "--key", str(KEYS), "--json"]) == 1


def test_with_the_key_it_is_verified(evidence, operator, monkeypatch, capsys):
    monkeypatch.chdir(evidence)
    for arguments in (KINDS["folder"], KINDS["envelope"], KINDS["ledger"]):
        capsys.readouterr()
        assert invoke([*arguments, "--key", str(KEYS), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["verified"], answer["signature_checked"], answer["own_keys"]) == (True, True, False)
    public = operator.place / "keys" / "public-keys.json"
    assert invoke([*KINDS["receipt"], "--key", str(public)]) == 0
    assert "receipt t-1: VERIFIED\n" in capsys.readouterr().out


def test_a_wrong_receipt_is_a_finding_without_a_key_too(evidence, monkeypatch, capsys):
    monkeypatch.chdir(evidence)
    shutil.copyfile(evidence / "e" / "certificate.dsse.json", evidence / "receipt.json")
    assert invoke(KINDS["receipt"]) == 1
    assert "DOES NOT HOLD" in capsys.readouterr().out


def test_of_several_the_weakest_counts():
    assert least(["given keys", "nobody", "own keys"]) == "nobody"
    assert least([]) == "nobody"
    assert VerificationResult(("wrong",), vouched="given keys").verdict == "DOES NOT HOLD"
    assert not VerificationResult(("wrong",), vouched="given keys").verified
