"""A stolen evidence key: what whoever has it can still make others believe once it was rotated, and once revoked."""

import copy
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cli.main import invoke
from expunge.errors import InputError
from expunge.evidence.bundle import ENVELOPE_FILE, STAMP_FILE
from expunge.evidence.canonical import canonical_bytes, read_json
from expunge.evidence.keyring import KEYRING_FILE, Keyring, Revocation, load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger_file import parse_ledger, sign_head
from tasks.adapters.timestamps import time_stamp
from tests.evidence.forging import GOLDEN, Operator, Thief, chained, golden_certificate, signed_receipt, write
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
    write(folder / "receipt.json", signed_receipt(thief.keys, {"ticket_id": "t-1"}))
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


def verify(capsys, *arguments):
    """The same trust for both commands, which have to agree on the key of what they both look at."""
    code = invoke(["certificate", "verify", *map(str, arguments), "--json"])
    outcome = answer(capsys)
    folder, *given = map(str, arguments)
    of_ledger = given[given.index("--ledger") + 1] if "--ledger" in given else f"{folder}/ledger.json"
    rest = [*given]
    for name in ("--ledger", "--model"):
        if name in rest:
            at = rest.index(name)
            del rest[at : at + 2]
    alone = invoke(["ledger", "verify", of_ledger, *rest, "--json"])
    findings = answer(capsys)["findings"]
    assert [f for f in outcome["findings"] if f.startswith("ledger: ")] == [f"ledger: {f}" for f in findings]
    assert alone == (1 if findings else 0)
    assert code == (1 if outcome["findings"] else 0)
    return outcome


def test_the_newest_keyring_accepts_no_endorsement_by_a_key_that_ended(forged, newest, capsys):
    beside = ("--accept-endorsed", forged / KEYRING_FILE)
    outcome = verify(capsys, forged, "--key", newest, *beside)
    assert any("signature: no signature by a trusted key" in f for f in outcome["findings"])
    receipt = ["ticket", "verify-receipt", str(forged / "receipt.json"), "--key", str(newest)]
    assert invoke([*receipt, *map(str, beside), "--json"]) == 1
    capsys.readouterr()
    assert invoke(["certificate", "verify", str(forged), *map(str, beside)]) == 2  # nobody to endorse
    assert "--key with --accept-endorsed" in " ".join(capsys.readouterr().err.split())


def test_an_old_keyring_that_accepts_endorsements_cannot_know(operator, forged, tmp_path, capsys):
    """Honesty: whoever asks for endorsements with a keyring of before the end trusts the thief; the docs say it."""
    old = tmp_path / "old.json"
    keys = [key.model_copy(update={"valid_until": None}) for key in operator.keys.keyring().keys[:2]]
    write(old, Keyring(keys=keys).to_json())
    outcome = verify(capsys, forged, "--key", old, "--accept-endorsed", forged / KEYRING_FILE)
    assert outcome["verified"]
    assert any("nobody signs when a key ends" in line for line in outcome["missing"])
    docs = (GOLDEN.parents[2] / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert "--accept-endorsed" in docs


def test_a_stamped_endorsement_of_before_the_end_counts(tmp_path, authority, capsys):  # noqa: F811
    url, root = authority
    operator, roots = Operator(tmp_path / "operator"), tmp_path / "root.pem"
    roots.write_bytes(root.public_bytes(Encoding.PEM))
    pinned, held = operator.keys.keyring(), tmp_path / "held.json"
    now = datetime.now(UTC)
    operator.keys.rotate("evidence", now, timedelta(0), stamp=lambda message: time_stamp(message, url))
    ring = operator.keys.keyring()
    old, new = ring.of("evidence")
    assert new.endorsement_stamp is not None
    assert now <= old.valid_until < now + timedelta(minutes=1)
    kept = Keyring(keys=[old, *pinned.of("model")])  # an auditor who knows of the end, not of the new key
    assert kept.with_endorsed(ring, [root]).find(new.keyid)
    assert kept.with_endorsed(ring).find(new.keyid) is None  # no authority is trusted
    for change in (
        {"valid_until": now - timedelta(days=1)},
        {"revoked": Revocation(since=now - timedelta(hours=1), reason="theft")},
    ):
        ended = Keyring(keys=[old.model_copy(update=change)])
        assert ended.with_endorsed(ring, [root]).find(new.keyid) is None
    for spoiled in ("", "!", "AAAA", new.endorsement_stamp[:-8]):
        others = Keyring(keys=[new.model_copy(update={"endorsement_stamp": spoiled})])
        assert kept.with_endorsed(others, [root]).find(new.keyid) is None
    folder = operator.issue(tmp_path / "evidence", {**golden_certificate(), "issued_at": later(new)})
    write(held, kept.to_json())
    write(folder / "ring.json", ring.to_json())
    given = ("--key", held, "--accept-endorsed", folder / "ring.json")
    assert not verify(capsys, folder, *given)["verified"]
    (folder / STAMP_FILE).write_bytes(time_stamp(canonical_bytes(read_json(folder / ENVELOPE_FILE)), url))
    findings = verify(capsys, folder, *given, "--tsa-root", roots)["findings"]
    assert not [f for f in findings if "signature" in f or "head" in f], findings


def later(key):
    return (key.valid_from + timedelta(seconds=1)).isoformat()


@dataclass
class Revoked:
    """An operator whose first key was stolen after honest evidence, found out, and revoked.

    Args:
        operator: With the new key and the revocation.
        evidence: Of before the theft, with its own old ledger.
        forged: By the thief with the stolen key itself, dated before the theft.
        ledger: The operator's, its head signed anew.
        ring: The keyring that auditors get.
    """

    operator: Operator
    evidence: Path
    forged: Path
    ledger: Path
    ring: Path


@pytest.fixture(scope="module")
def revoked(tmp_path_factory):
    place = tmp_path_factory.mktemp("revoked")
    operator = Operator(place / "operator")
    evidence = operator.issue(place / "evidence")
    shutil.copytree(place / "operator", place / "stolen")
    certificate = copy.deepcopy(golden_certificate())
    certificate["forget"]["records"] = 1000
    forged = place / "forged"
    stolen = Operator.__new__(Operator)
    stolen.place, stolen.keys = place / "stolen", SigningKeys(place / "stolen" / "keys")
    stolen.issue(forged, certificate)
    since = datetime.fromisoformat(certificate["issued_at"]) + timedelta(hours=1)
    entries = parse_ledger(read_json(forged / "ledger.json")).entries
    head = sign_head(stolen.keys.signer(), entries, datetime.fromisoformat(entries[-1].issued_at))
    write(forged / "ledger.json", {**read_json(forged / "ledger.json"), "head": head})
    old = operator.keys.keyring().of("evidence")[0]
    for use in ("evidence", "model"):
        operator.keys.rotate(use, datetime.now(UTC), timedelta(0))
    operator.keys.revoke(old.keyid[:12], since, "a laptop was stolen", datetime.now(UTC))
    operator.keys.revoke(
        operator.keys.keyring().of("model")[0].keyid, since, "the same laptop", datetime.now(UTC)
    )
    operator.write_ledger(place / "ledger.json", parse_ledger(read_json(evidence / "ledger.json")).entries)
    write(place / "ring.json", operator.keys.keyring().to_json())
    return Revoked(operator, evidence, forged, place / "ledger.json", place / "ring.json")


def test_of_a_revoked_key_nothing_counts_that_is_not_proved_older(revoked, capsys):
    """Back-dated by the stolen key itself, certificate and ledger agree: without proof of age both are refused."""
    told = "neither a time stamp nor a ledger that another key signs proves this older"
    findings = verify(capsys, revoked.forged, "--key", revoked.ring)["findings"]
    assert [f.split(":")[0] for f in findings if told in f] == ["signature", "ledger"], findings
    findings = verify(capsys, revoked.evidence, "--key", revoked.ring)["findings"]
    assert any(told in f for f in findings)  # nothing tells the honest one from it
    outcome = verify(capsys, revoked.forged, "--key", revoked.ring, "--ledger", revoked.ledger)
    assert any(f.startswith("signature: not by a key that was valid then") for f in outcome["findings"])
    witness = ("--witness", revoked.forged / "ledger.json")  # signed by the stolen key: it counts for nothing
    assert not verify(capsys, revoked.forged, "--key", revoked.ring, *witness)["verified"]


def test_a_ledger_that_the_new_key_signs_vouches_for_what_is_older(revoked, capsys):
    given = ("--key", revoked.ring, "--ledger", revoked.ledger, "--model", revoked.evidence / "model")
    outcome = verify(capsys, revoked.evidence, *given)
    assert outcome["verified"], outcome["findings"]
    assert any("which is revoked" in line for line in outcome["missing"])
    assert any(line.startswith("model.sig, by key") for line in outcome["checked"])
    witness = ("--witness", revoked.evidence / "ledger.json")  # by the old key, dated now: after the theft
    outcome = verify(capsys, revoked.evidence, *given, *witness)
    assert any("ledger: witness 1: signed by a key that was not valid then" in f for f in outcome["findings"])


def test_model_sig_by_a_key_that_was_revoked_before_adds_nothing(revoked, tmp_path, capsys):
    early = Revocation(since=datetime(2026, 1, 2, tzinfo=UTC), reason="theft")
    files = ("--model", revoked.evidence / "model", "--ledger", revoked.ledger)
    ring = load_keyring(revoked.ring)
    for uses in (("model",), ("model", "evidence")):
        keys = [
            k.model_copy(update={"revoked": early}) if k.revoked and k.use in uses else k for k in ring.keys
        ]
        write(tmp_path / "ring.json", Keyring(keys=keys).to_json())
        outcome = verify(capsys, revoked.evidence, "--key", tmp_path / "ring.json", *files)
        if len(uses) == 1:  # the signed certificate names the same files
            assert outcome["verified"], outcome["findings"]
            assert any(line.startswith("model.sig does not count: key") for line in outcome["missing"])
        else:
            assert any(f.startswith("model.sig does not hold: key") for f in outcome["findings"])
        assert not any(line.startswith("model.sig, by key") for line in outcome["checked"])


def test_a_witness_of_before_the_theft_still_binds(revoked, capsys, tmp_path):
    stolen = SigningKeys(revoked.operator.place.parent / "stolen" / "keys")
    entries = parse_ledger(read_json(revoked.evidence / "ledger.json")).entries[:4]
    early = tmp_path / "witness.json"
    write(early, sign_head(stolen.signer(), entries, datetime.fromisoformat(entries[-1].issued_at)))
    given = ("--key", revoked.ring, "--ledger", revoked.ledger, "--witness", early)
    outcome = verify(capsys, revoked.evidence, *given)
    assert outcome["verified"], outcome["findings"]
    assert any("ledger: witness 1: date of the signature" in line for line in outcome["missing"])
    other = parse_ledger(read_json(revoked.forged / "ledger.json")).entries
    changed = chained([entries[0].model_copy(update={"records_removed": 5}), *other[1:4]])
    write(early, sign_head(stolen.signer(), changed, datetime.fromisoformat(changed[-1].issued_at)))
    assert any("rewritten" in f for f in verify(capsys, revoked.evidence, *given)["findings"])


def test_of_a_revoked_key_a_time_stamp_of_before_counts(revoked, tmp_path, authority, capsys):  # noqa: F811
    url, root = authority
    folder = shutil.copytree(revoked.evidence, tmp_path / "evidence")
    (folder / STAMP_FILE).write_bytes(time_stamp(canonical_bytes(read_json(folder / ENVELOPE_FILE)), url))
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    ring = load_keyring(revoked.ring)
    stamped = ("--tsa-root", tmp_path / "root.pem")
    # stamped after the theft: what is dated before does not help, and the ledger neither
    outcome = verify(capsys, folder, "--key", revoked.ring, "--ledger", revoked.ledger, *stamped)
    assert any(f.startswith("signature: ") and "is revoked since" in f for f in outcome["findings"])
    soon = datetime.now(UTC) + timedelta(hours=1)
    later = [
        key.model_copy(update={"valid_until": None, "revoked": Revocation(since=soon, reason="r")})
        if key.revoked
        else key
        for key in ring.keys
    ]
    write(tmp_path / "ring.json", Keyring(keys=later).to_json())
    outcome = verify(capsys, folder, "--key", tmp_path / "ring.json", *stamped)
    assert not any(f.startswith("signature: ") for f in outcome["findings"])  # the stamp proves it
    assert any(f.startswith("ledger: head: ") for f in outcome["findings"])  # its old ledger has none
    given = ("--key", tmp_path / "ring.json", *stamped, "--ledger", revoked.ledger)
    assert verify(capsys, folder, *given)["verified"]


def test_a_back_dated_certificate_shows_against_a_time_stamp(operator, newest, tmp_path, authority, capsys):  # noqa: F811
    """By the stolen key itself, dated before its end: without a stamp nothing tells, and the docs say so."""
    url, root = authority
    stolen = Operator.__new__(Operator)
    stolen.place, stolen.keys = operator.place, _As(operator.keys, 0)
    place = tmp_path / "forged"
    ring = load_keyring(newest)
    late = [
        key.model_copy(update={"valid_until": datetime.now(UTC)}) if key.valid_until else key
        for key in ring.keys
    ]
    write(tmp_path / "ring.json", Keyring(keys=late).to_json())
    stolen.issue(place)
    outcome = verify(capsys, place, "--key", tmp_path / "ring.json")
    assert not any(f.startswith("signature: ") for f in outcome["findings"])  # honesty: nothing tells
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    given = ("--key", tmp_path / "ring.json", "--tsa-root", tmp_path / "root.pem")
    assert any("there is no certificate.tsr" in f for f in verify(capsys, place, *given)["findings"])
    ended = [key.model_copy(update={"valid_until": END}) if key.valid_until else key for key in ring.keys]
    write(tmp_path / "ring.json", Keyring(keys=ended).to_json())
    (place / STAMP_FILE).write_bytes(time_stamp(canonical_bytes(read_json(place / ENVELOPE_FILE)), url))
    assert any("expired at" in f for f in verify(capsys, place, *given)["findings"])


class _As:
    """Keys of which an old one signs."""

    def __init__(self, keys, index):
        self._keys, self._index = keys, index

    def signer(self):
        return self._keys._signer(self._keys.keyring().of("evidence")[self._index])


def test_a_keyring_of_before_is_read_and_one_that_needs_no_more_is_written_alike(operator, revoked):
    content = operator.keys.keyring().to_json()
    assert content["version"] == 1
    assert not {"revoked", "endorsement_stamp"} & {name for key in content["keys"] for name in key}
    assert Keyring.model_validate(content) == operator.keys.keyring()
    assert read_json(revoked.ring)["version"] == 2
    assert load_keyring(revoked.ring).of("evidence")[0].revoked.reason == "a laptop was stolen"


def test_what_cannot_be_revoked_is_told(tmp_path):
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime(2026, 1, 1, tzinfo=UTC))
    now = datetime.now(UTC)
    old = keys.keyring().of("evidence")[0]
    with pytest.raises(InputError, match="this key signs now"):
        keys.revoke(old.keyid, now, "r", now)
    keys.rotate("evidence", now, timedelta(0))
    before = keys.keyring()
    for keyid, since, told in (
        ("", now, "no such key"),
        ("zz", now, "no such key"),
        (old.keyid, now + timedelta(days=1), "in the future"),
    ):
        with pytest.raises(InputError, match=told):
            keys.revoke(keyid, since, "r", now)
    assert keys.keyring() == before
    keys.revoke(old.keyid, now - timedelta(days=1), "r", now)
    done = keys.keyring()
    keys.revoke(old.keyid, now - timedelta(days=1), "again", now)
    assert keys.keyring() == done
    with pytest.raises(InputError, match="since an earlier moment"):
        keys.revoke(old.keyid, now, "r", now)
    keys.revoke(old.keyid, now - timedelta(days=2), "earlier still", now)
    assert keys.keyring().find(old.keyid).revoked.since == now - timedelta(days=2)
