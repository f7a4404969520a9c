"""Incidents in the ledger: a suspect mechanism releases nothing until it is cleared, and a verifier sees to that."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge.database import open_database
from expunge.errors import VerificationError
from expunge.evidence.annex import as_text, create_auditor_keys, enclose, open_annex, seal
from expunge.evidence.keyring import load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import LedgerEntry, check_ledger, parse_entries, suspects_of
from expunge.evidence.ledger_file import parse_ledger
from expunge.evidence.store import LedgerStore
from expunge.evidence.verify_ledger import verify_ledger
from tests.evidence.test_ledger import LINEAGE, NOISED

WHY = "an attack found what cannot be"


def suspected(mechanism="convex", draws=1):
    return {"event": "suspected", "mechanism": mechanism, "reason": WHY, "draws": draws, "clears": None}


def cleared(number, mechanism="convex"):
    return {"event": "cleared", "mechanism": mechanism, "reason": "a twin", "draws": None, "clears": number}


@pytest.fixture
def store(tmp_path):
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime.now(UTC))
    made = LedgerStore(open_database(f"sqlite:///{tmp_path}/ledger.db"), keys)
    made.append(LINEAGE, kind="opening", issued_at=now(), mechanism="train", details={"model_version": 1})
    return made


def now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def incident(store, details, batch=None):
    return store.append(LINEAGE, kind="incident", issued_at=now(), batch=batch, details=details)


def release(store, number, **changes):
    about = {"batch": f"b-{number}", "certificate_id": f"c-{number:016x}"}
    return store.append(LINEAGE, kind="release", issued_at=now(), **about, **{**NOISED, **changes})


def test_an_incident_is_chained_and_counted_once(store):
    first = incident(store, suspected(), "b-1")
    assert (first.version, first.sequence) == (3, 1)
    assert incident(store, suspected(), "b-1") == first
    assert suspects_of(store.entries(LINEAGE)) == {"convex": 1}
    assert incident(store, cleared(1)).sequence == 2
    assert suspects_of(store.entries(LINEAGE)) == {}
    again = incident(store, suspected(draws=2), "b-1")  # after another draw it is another incident
    assert again.sequence == 3
    assert incident(store, cleared(3)).sequence == 4
    release(store, 2)
    assert verify_ledger(store.read(LINEAGE)).findings == ()
    assert parse_entries([e.to_json() for e in store.entries(LINEAGE)]) == store.entries(LINEAGE)


def test_a_release_by_a_suspect_mechanism_is_a_finding(store):
    incident(store, suspected(), "b-1")
    release(store, 2, mechanism="output-perturbation", guarantee="unconditional")
    assert check_ledger(store.entries(LINEAGE)) == []
    release(store, 3)
    (finding,) = check_ledger(store.entries(LINEAGE))
    assert finding == "entry 3: a release by convex, which is suspect since entry 1"


@pytest.mark.parametrize("number", [1, 7])
def test_clearing_what_is_not_open_is_a_finding(store, number):
    release(store, 1)
    incident(store, cleared(number))
    assert check_ledger(store.entries(LINEAGE)) == ["entry 2: clears no incident of convex that is open"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": 2},
        {"details": {}},
        {"details": suspected() | {"clears": 3}},
        {"details": cleared(1) | {"clears": None}},
        {"details": suspected() | {"score": 0.9}},
        {"details": suspected() | {"reason": ""}},
        {"kind": "purge"},
        {"kind": "alias"},
    ],
)
def test_a_malformed_incident_is_refused(store, changes):
    entry = incident(store, suspected(), "b-1")
    with pytest.raises(ValidationError):
        LedgerEntry.model_validate({**entry.to_json(), **changes})
    with pytest.raises(VerificationError, match="malformed"):
        parse_entries([{**entry.to_json(), **changes}])


def test_an_annex_grows_without_being_opened(tmp_path):
    create_auditor_keys(tmp_path)
    key = tmp_path / "auditor.key"
    figures, _ = seal({"batch": "b-1", "gradient_norm": 1e-9}, tmp_path)
    assert open_annex(figures, key) == {"batch": "b-1", "gradient_norm": 1e-9}
    first, _ = enclose(figures, {"attacked": True, "alarm": True}, [], tmp_path)
    second, _ = enclose(figures, {"attacked": False}, [as_text(first)], tmp_path)
    assert b"attacked" not in second
    content = open_annex(second, key)
    assert content["gradient_norm"] == 1e-9
    assert content["attacks"] == {"attacked": False}
    (earlier,) = content["discarded"]
    assert earlier["attacks"] == {"attacked": True, "alarm": True}
    other = tmp_path / "other"
    create_auditor_keys(other)
    for changed in (second[:-1] + bytes([second[-1] ^ 1]), b"", figures[:40]):
        with pytest.raises(VerificationError, match="cannot be opened"):
            open_annex(changed, key)
    for enclosed in ("%%%", as_text(figures[:50]), 7, None):
        broken, _ = seal({"enclosed": enclosed, "attacks": {}, "earlier": []}, tmp_path)
        with pytest.raises(VerificationError, match="cannot be opened"):
            open_annex(broken, key)
    with pytest.raises(VerificationError, match="cannot be opened"):
        open_annex(second, other / "auditor.key")


def test_a_ledger_with_an_incident_verifies_for_ever():
    golden = Path(__file__).parents[1] / "golden" / "ledger-v3-incident"
    ledger = parse_ledger(json.loads((golden / "ledger.json").read_text()))
    assert verify_ledger(ledger, keys=load_keyring(golden / "public-keys.json")).findings == ()
    assert [entry.version for entry in ledger.entries] == [1, 2, 3, 1, 2, 3, 1]
    assert suspects_of(ledger.entries[:4]) == {"convex": 2}
    assert suspects_of(ledger.entries) == {}
