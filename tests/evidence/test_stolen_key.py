"""A stolen evidence key: what whoever has it can still make others believe once it was rotated, and once revoked."""

import copy
import hashlib
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cli.main import invoke
from expunge.evidence.bundle import ENVELOPE_FILE, STAMP_FILE
from expunge.evidence.canonical import canonical_bytes, read_json
from expunge.evidence.keys import KEYRING_FILE
from expunge.evidence.statements import RECEIPT_PREDICATE, sign_statement
from tasks.adapters.timestamps import time_stamp
from tests.evidence.forging import Operator, Thief, golden_certificate, write
from tests.tasks.test_signing import authority  # noqa: F401

END = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    made = Operator(tmp_path_factory.mktemp("operator"))
    for use in ("evidence", "model"):
        made.keys.rotate(use, END, timedelta(0))
    return made


@pytest.fixture(scope="module")
def newest(operator, tmp_path_factory):
    path = tmp_path_factory.mktemp("auditor") / "trusted.json"
    shutil.copyfile(operator.place / "keys" / KEYRING_FILE, path)
    return path


@pytest.fixture(scope="module", params=[0, 1], ids=["endorsed", "endorsed by one endorsed"])
def forged(operator, tmp_path_factory, request):
    place = tmp_path_factory.mktemp("thief")
    thief = Thief(place / "keys", operator, more=request.param)
    certificate = copy.deepcopy(golden_certificate())
    certificate["forget"]["records"] = 1000
    assert datetime.fromisoformat(certificate["issued_at"]) > END
    folder = thief.issue(place / "evidence", certificate)
    assert thief.stolen.keyid in (folder / KEYRING_FILE).read_text()  # the thief's keyring lies beside
    receipt = {"ticket_id": "t-1"}
    digest = hashlib.sha256(canonical_bytes(receipt)).hexdigest()
    said = {"receipt": receipt, "signed_at": datetime.now(UTC).isoformat()}
    write(
        folder / "receipt.json",
        sign_statement(thief.keys.signer(), RECEIPT_PREDICATE, {"receipt t-1": digest}, said),
    )
    return folder


def answer(capsys):
    return json.loads(capsys.readouterr().out)


def test_who_an_ended_key_endorses_is_not_trusted(forged, newest, capsys):
    """The attack: a thief's key, endorsed by the stolen one and dated before its end, signs everything."""
    assert invoke(["certificate", "verify", str(forged), "--key", str(newest), "--json"]) == 1
    found = answer(capsys)["findings"]
    assert any(f.startswith("signature: no signature by a trusted key") for f in found)
    assert any("head: no signature by a trusted key" in f for f in found)
    ledger = str(forged / "ledger.json")
    assert invoke(["ledger", "verify", ledger, "--key", str(newest), "--json"]) == 1
    assert any("head: no signature by a trusted key" in f for f in answer(capsys)["findings"])
    receipt = str(forged / "receipt.json")
    assert invoke(["ticket", "verify-receipt", receipt, "--key", str(newest), "--json"]) == 1
    assert "no signature by a trusted key" in answer(capsys)["findings"][0]


def test_time_stamps_do_not_help_the_thief(forged, newest, authority, tmp_path, capsys):  # noqa: F811
    folder, (url, root) = shutil.copytree(forged, tmp_path / "forged"), authority
    (folder / STAMP_FILE).write_bytes(time_stamp(canonical_bytes(read_json(folder / ENVELOPE_FILE)), url))
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    given = ("--key", str(newest), "--tsa-root", str(tmp_path / "root.pem"), "--json")
    assert invoke(["certificate", "verify", str(folder), *given]) == 1
    assert any("no signature by a trusted key" in f for f in answer(capsys)["findings"])


def test_a_model_key_is_trusted_by_the_same_rule(operator, forged, newest, capsys):
    """Signed model files of a thief, whom the model key endorses that was rotated."""
    model = ["--model", str(forged / "model")]
    assert invoke(["certificate", "verify", str(forged), "--key", str(newest), *model, "--json"]) == 1
    assert any(f.startswith("model.sig does not hold") for f in answer(capsys)["findings"])


def test_a_bare_public_key_vouches_for_no_other(operator, forged, tmp_path, capsys):
    pem = tmp_path / "pub.pem"
    pem.write_text(operator.keys.keyring().of("evidence")[0].public)
    assert invoke(["certificate", "verify", str(forged), "--key", str(pem), "--json"]) == 1
    assert any("no signature by a trusted key" in f for f in answer(capsys)["findings"])
