"""Evidence that is no evidence: one clear answer each, and never a traceback, nor work without end."""

import base64
import hashlib
import json
import shutil
from datetime import UTC, datetime

import pytest

from expunge.errors import InputError, VerificationError, WorkspaceError
from expunge.evidence.annex import open_annex
from expunge.evidence.bundle import Trust, Verifier, differing, find_evidence
from expunge.evidence.canonical import canonical_bytes, parse_json
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.keyring import UNDATED_KEY, Keyring, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.model_files import WEIGHTS_FILE, read_weights
from expunge.evidence.realised import verify_realised
from expunge.evidence.signed_receipt import verify_receipt
from expunge.evidence.statements import PAYLOAD_TYPE, RECEIPT_PREDICATE, read_statement, sign_statement
from tests.evidence.forging import GOLDEN, golden_certificate, golden_figures, write


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "evidence")


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


@pytest.mark.parametrize("version", [[], {}, True, "1", None, 3])
def test_a_version_that_nobody_issued(version):
    with pytest.raises(VerificationError, match="known type"):
        parse_certificate({**golden_certificate(), "version": version})


@pytest.mark.parametrize("depth", [70, 300, 450])
def test_nesting_without_end(depth, folder):
    ledger = json.loads((folder / "ledger.json").read_text())
    ledger["entries"][2]["details"]["x"] = nested(depth)
    write(folder / "ledger.json", ledger)
    found = Verifier(Trust()).verify(find_evidence(folder)).findings
    assert any("ledger.json is not JSON" in f and "deeper than 64" in f for f in found)
    certificate = golden_certificate()
    certificate["admitted"]["x"] = nested(depth)
    write(folder / "certificate.json", certificate)
    with pytest.raises(InputError, match="the certificate is not JSON"):
        find_evidence(folder)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"[" * 400 + b"]" * 400, b"\xef\xbb\xbf{}", "{}".encode("utf-16")]
)
def test_a_payload_and_a_file_are_read_alike(text):
    envelope = {"payload": base64.b64encode(text).decode(), "payloadType": PAYLOAD_TYPE, "signatures": []}
    for read in (lambda: parse_json(text, "x"), lambda: read_statement(envelope)):
        with pytest.raises(VerificationError, match="is not JSON"):
            read()
    assert parse_json(b"[" * 64 + b"]" * 64, "x")


def test_what_is_equal_in_python_and_not_in_json_differs(folder):
    content = golden_certificate()
    content["vacuous"], content["sequential"]["draws"] = 0, True
    write(folder / "certificate.json", content)
    found = (
        Verifier(Trust(load_keyring(GOLDEN / "auditor" / "trusted-keys.json")))
        .verify(find_evidence(folder))
        .findings
    )
    assert any("differs from what was signed in sequential.draws, vacuous" in f for f in found), found
    assert differing({"a": 1.0, "b": True, "c": [2]}, {"a": 1, "b": 1, "c": [2.0]}) == ["b"]


def test_a_folder_is_no_key(tmp_path):
    with pytest.raises(WorkspaceError, match="cannot be read"):
        open_annex(b"", tmp_path)


def test_figures_beyond_arithmetic_are_findings():
    figures, certificate = golden_figures(), golden_certificate()
    found = verify_realised(
        parse_certificate(certificate), {**figures, "realised_error_bound": 10**400}
    ).findings
    assert any("missing or no number" in f for f in found)
    next(c for c in certificate["constants"] if c["name"] == "l2")["value"] = 0
    found = verify_realised(parse_certificate(certificate), figures).findings
    assert any("missing or no number" in f for f in found)


@pytest.mark.parametrize("count", [2**40, 10**30, 1.5, True])
def test_a_header_that_claims_more_weights_than_there_are(count, tmp_path):
    tensor = {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}
    header = json.dumps({"weights": tensor}).encode()
    (tmp_path / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VerificationError, match="cannot be read"):
        list(read_weights(tmp_path))


def test_model_sig_without_the_model_is_said_to_be_unchecked(folder):
    assert "model.sig was not checked (no --model)" in Verifier(Trust()).verify(find_evidence(folder)).missing


@pytest.mark.parametrize(
    ("signed_at", "told"),
    [("2026-05-01T00:00:00", "no time zone"), ("2999-05-01T00:00:00+00:00", "signed in the future")],
)
def test_dates_of_receipts(signed_at, told, tmp_path):
    keys = SigningKeys(tmp_path / "keys")
    ring = keys.create(datetime(2026, 1, 1, tzinfo=UTC))
    receipt = {"ticket_id": "t-1"}
    named = {"receipt t-1": hashlib.sha256(canonical_bytes(receipt)).hexdigest()}

    def verified(at, known):
        said = {"receipt": receipt, "signed_at": at}
        return verify_receipt(sign_statement(keys.signer(), RECEIPT_PREDICATE, named, said), known)[0]

    assert any(told in finding for finding in verified(signed_at, ring).findings)
    honest = datetime.now(UTC).isoformat()
    assert verified(honest, ring).consistent
    assert UNDATED_KEY not in verified(honest, ring).missing
    bare = Keyring(keys=[key.model_copy(update={"valid_from": None}) for key in ring.keys])
    assert UNDATED_KEY in verified(honest, bare).missing
