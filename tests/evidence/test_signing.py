"""Keys and signed statements: what opens, what does not, and whom a rotation lets in."""

import base64
import copy
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner

from expunge.errors import InputError, VerificationError, WorkspaceError
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import KEYRING_FILE, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.statements import (
    CERTIFICATE_PREDICATE,
    HEAD_PREDICATE,
    open_statement,
    read_statement,
    sign_statement,
)

NOW = datetime.now(UTC).replace(microsecond=0)
SUBJECTS, PREDICATE = {"model.json": "0" * 64}, {"epsilon": 0.05, "records": 3, "who": ["p1-a"]}


@pytest.fixture
def keys(tmp_path):
    made = SigningKeys(tmp_path / "keys")
    made.create(NOW)
    return made


def signed(keys):
    return sign_statement(keys.signer(), CERTIFICATE_PREDICATE, SUBJECTS, PREDICATE)


def opened(envelope, keyring):
    return open_statement(envelope, [one.key for one in keyring.of("evidence")], CERTIFICATE_PREDICATE)


def test_what_is_signed_comes_back_with_its_key(keys):
    statement = opened(signed(keys), keys.keyring())
    assert (statement.subjects, statement.predicate) == (SUBJECTS, PREDICATE)
    assert statement.keyids == (keys.keyring().of("evidence")[0].keyid,)
    assert read_statement(signed(keys)).keyids == ()


def test_private_keys_are_for_nobody_else(keys, tmp_path):
    files = {path.name.split("-")[1]: path for path in (tmp_path / "keys").glob("signing-*.key")}
    assert set(files) == {"evidence", "model"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert "PRIVATE" not in (tmp_path / "keys" / KEYRING_FILE).read_text()


@pytest.mark.parametrize("field", ["_type", "subject", "predicateType", "predicate"])
def test_a_changed_payload_is_found(keys, field):
    envelope = signed(keys)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    if field == "subject":
        payload[field][0]["digest"]["sha256"] = "1" * 64
    elif field == "predicate":
        payload[field]["epsilon"] = 0.04
    else:
        payload[field] += "x"
    envelope["payload"] = base64.b64encode(canonical_bytes(payload)).decode()
    with pytest.raises(VerificationError, match="signature does not match"):
        opened(envelope, keys.keyring())


def test_swapped_signatures_wrong_keys_and_other_types_are_found(keys, tmp_path):
    first, second = signed(keys), sign_statement(keys.signer(), CERTIFICATE_PREDICATE, SUBJECTS, {"other": 1})
    first["signatures"] = second["signatures"]
    with pytest.raises(VerificationError, match="signature does not match"):
        opened(first, keys.keyring())
    stranger = SigningKeys(tmp_path / "stranger")
    with pytest.raises(VerificationError, match="no signature by a trusted key"):
        opened(second, stranger.create(NOW))
    with pytest.raises(VerificationError, match="another type"):
        open_statement(second, [k.key for k in keys.keyring().of("evidence")], HEAD_PREDICATE)
    with pytest.raises(VerificationError, match="no signature by a trusted key"):
        opened({**second, "signatures": []}, keys.keyring())


@pytest.mark.parametrize(
    "content", [None, [], {}, {"payload": "e30=", "payloadType": "text", "signatures": []}]
)
def test_what_is_no_envelope_is_refused(keys, content):
    with pytest.raises(VerificationError, match="not a DSSE envelope"):
        opened(content, keys.keyring())


def test_a_payload_that_is_not_canonical_is_refused(keys):
    envelope = signed(keys)
    loose = json.dumps(json.loads(base64.b64decode(envelope["payload"])), indent=1).encode()
    with pytest.raises(VerificationError, match="not canonical"):
        read_statement({**envelope, "payload": base64.b64encode(loose).decode()})


def test_a_rotation_lets_whoever_trusts_the_old_key_trust_the_new_one(keys, tmp_path):
    pinned = keys.keyring()
    new = keys.rotate("evidence", NOW, timedelta(days=30))
    assert keys.signer().public_key.keyid == new.keyid
    with pytest.raises(VerificationError, match="no signature by a trusted key"):
        opened(signed(keys), pinned)
    assert opened(signed(keys), pinned.with_endorsed(keys.keyring())).keyids == (new.keyid,)
    old = keys.keyring().of("evidence")[0]
    assert old.fault_at(NOW + timedelta(days=29)) is None
    assert "expired" in old.fault_at(NOW + timedelta(days=31))
    assert "not valid before" in new.fault_at(NOW - timedelta(days=1))
    newest = keys.rotate("evidence", NOW, timedelta(0))
    assert pinned.with_endorsed(keys.keyring()).find(newest.keyid)  # by way of the second


def test_what_nobody_endorsed_is_not_trusted(keys, tmp_path):
    pinned, stranger = keys.keyring(), SigningKeys(tmp_path / "stranger")
    stranger.create(NOW)
    stranger.rotate("evidence", NOW, timedelta(0))
    assert pinned.with_endorsed(stranger.keyring()) == pinned
    keys.rotate("evidence", NOW, timedelta(0))
    ring = keys.keyring()
    new = ring.of("evidence")[-1]
    moved = new.model_copy(update={"valid_from": NOW - timedelta(days=9)})  # endorsed for another time
    assert pinned.with_endorsed(ring.model_copy(update={"keys": [moved]})) == pinned
    late = pinned.keys[0].model_copy(
        update={"valid_until": NOW - timedelta(days=1)}
    )  # by a key that had expired
    assert pinned.model_copy(update={"keys": [late]}).with_endorsed(ring).find(new.keyid) is None


def test_a_bare_public_key_will_do(keys, tmp_path):
    (tmp_path / "pub.pem").write_text(keys.keyring().of("evidence")[0].public)
    assert opened(signed(keys), load_keyring(tmp_path / "pub.pem"))
    (tmp_path / "model.pem").write_text(keys.keyring().of("model")[0].public)
    assert load_keyring(tmp_path / "model.pem").keys[0].use == "model"
    ring = json.loads((tmp_path / "keys" / KEYRING_FILE).read_text())
    for spoiled in ("x", json.dumps({**ring, "version": 3}), json.dumps({**ring, "keys": ring["keys"] * 2})):
        (tmp_path / "bad").write_text(spoiled)
        with pytest.raises(InputError, match="public key cannot be read"):
            load_keyring(tmp_path / "bad")
    swapped = copy.deepcopy(ring)
    swapped["keys"][0]["keyid"] = ring["keys"][1]["keyid"]
    (tmp_path / "bad").write_text(json.dumps(swapped))
    with pytest.raises(InputError, match="id is not its own"):
        load_keyring(tmp_path / "bad")


def test_a_private_key_may_come_from_the_environment(keys, tmp_path, monkeypatch):
    other = SigningKeys(tmp_path / "other")
    pem = next((tmp_path / "keys").glob("signing-evidence-*.key")).read_text()
    with pytest.raises(WorkspaceError, match="no signing keys"):
        other.signer()
    monkeypatch.setenv("SIGNING", pem)
    other.create(NOW, {"evidence": "env:SIGNING"})
    assert opened(signed(other), keys.keyring())
    monkeypatch.delenv("SIGNING")
    with pytest.raises(WorkspaceError, match="PEM text in SIGNING"):
        other.signer()


def test_a_key_whose_time_is_over_signs_nothing_more(keys):
    ring = keys.keyring()
    over = [key.model_copy(update={"valid_until": NOW - timedelta(days=1)}) for key in ring.keys]
    keys._write(over, keys._uris())
    with pytest.raises(WorkspaceError, match="expired"):
        keys.signer()


class _Vault(CryptoSigner):
    """A service that holds a key and gives signatures, as a KMS or a token does."""

    held: CryptoSigner
    sealed = False

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        if cls.sealed:
            raise OSError("the service is sealed")
        return cls.held


def test_a_key_in_a_service_signs_and_never_lies_here(tmp_path, monkeypatch):
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "testvault", _Vault)
    monkeypatch.setattr(_Vault, "held", CryptoSigner.generate_ed25519(), raising=False)
    keys = SigningKeys(tmp_path / "keys")
    keys.create(NOW, {"evidence": "testvault:one"}, {"evidence": _public_pem(_Vault.held)})
    assert opened(signed(keys), keys.keyring()).keyids == (_Vault.held.public_key.keyid,)
    assert not list((tmp_path / "keys").glob("signing-evidence-*"))
    monkeypatch.setattr(_Vault, "sealed", True)
    with pytest.raises(WorkspaceError, match="OSError: the service is sealed"):
        keys.signer()


def _public_pem(signer):
    key = load_pem_private_key(signer.private_bytes, None).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
