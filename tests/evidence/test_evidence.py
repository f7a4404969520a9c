"""Certificates, ledger and annex: what holds, and that every tampering shows."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expunge.database import open_database
from expunge.errors import VerificationError, WorkspaceError
from expunge.evidence.annex import PRIVATE_NAME, create_auditor_keys, open_annex, seal
from expunge.evidence.bundle import Trust, Verifier, find_evidence
from expunge.evidence.canonical import canonical_bytes, digest
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.keyring import load_keyring
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import check_ledger, parse_entries
from expunge.evidence.ledger_file import Ledger, parse_ledger
from expunge.evidence.scope import scope_of
from expunge.evidence.store import LedgerStore
from expunge.evidence.verify import verify_certificate
from expunge.evidence.verify_ledger import verify_ledger
from expunge.privacy.gaussian import gaussian_m
from expunge.privacy.noise import GENERATOR, truncation_delta

LINEAGE = "expunge-test"
SIGMA, EPSILON, DELTA = 0.01, 0.05, 1e-6
BOUND = gaussian_m(EPSILON, DELTA) * SIGMA


def certificate_content(annex_digest="sha256:" + "a" * 64, step=1, accumulated=BOUND):
    return {
        "type": "https://expunge.dev/certificate",
        "version": 1,
        "certificate_id": f"c-{step:016x}",
        "issued_at": "2026-01-01T00:00:00+00:00",
        "batch": f"b-{step}",
        "model": {
            "name": LINEAGE,
            "version": 2,
            "digest": "sha256:" + "b" * 64,
            "parent_version": 1,
            "parent_digest": "sha256:" + "c" * 64,
        },
        "dataset": {
            "before": {"md5": "1.dir", "git_revision": "d" * 40},
            "after": {"md5": "2.dir", "git_revision": "e" * 40},
        },
        "tickets": ["p1-" + "f" * 32],
        "forget": {"records": 3, "subjects": 1},
        "retain": {"records": 400},
        "mechanism": "convex",
        "guarantee": "convex",
        "reference": "training on the retain set",
        "epsilon": EPSILON * (1 + 1e-9),
        "delta": 1.1e-6,
        "gaussian_delta": DELTA,
        "sigma": SIGMA,
        "parameters": 100,
        "noise": GENERATOR,
        "error_bound": {"value": BOUND, "binding": "theorem", "formula": "C1"},
        "constants": [
            {"name": "gradient_tolerance", "value": 5e-8, "provenance": "policy", "method": "enforced"},
            {"name": "rounding_allowance", "value": 1e-9, "provenance": "policy", "method": "checked"},
            {"name": "l2", "value": 1e-3, "provenance": "policy", "method": "objective"},
        ],
        "assumptions": ["rounding"],
        "scope": scope_of("convex", 1),
        "coverage": [{"artefact": "weights", "status": "covered", "reason": "this certificate"}],
        "sequential": {
            "step": step,
            "accumulated_error": accumulated,
            "uniform_error": BOUND,
            "composed_m": BOUND / SIGMA,
            "composed_epsilon": EPSILON * (1 + 1e-9),
            "composed_delta": 1.1e-6,
            "draws": 1,
            "limits": {"accumulated_error": 0.01, "composed_epsilon": 1.0, "releases": 100},
        },
        "vacuous": False,
        "admitted": {"classes": ["exact", "convex"], "epsilon": 1.0, "delta": 1e-5},
        "validation": {"gates": [{"name": "utility", "passed": True, "limit": "2 points"}]},
        "sealed_annex": {"digest": annex_digest, "recipient": "x25519:0"},
        "code": {"version": "0", "commit": None, "lock_digest": None},
    }


@pytest.fixture
def store(tmp_path):
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime.now(UTC))
    return LedgerStore(open_database(f"sqlite:///{tmp_path}/ledger.db"), keys)


def issue(store, content):
    return store.append(
        LINEAGE,
        kind="release",
        issued_at=content["issued_at"],
        batch=content["batch"],
        certificate_id=content["certificate_id"],
        certificate_digest=digest(content),
        model_digest=content["model"]["digest"],
        dataset_md5=content["dataset"]["after"]["md5"],
        records_removed=content["forget"]["records"],
        mechanism="convex",
        guarantee="convex",
        error_bound=BOUND,
        sigma=SIGMA,
        m=BOUND / SIGMA,
        draws=1,
        composed_m=BOUND / SIGMA,
        epsilon=content["epsilon"],
        gaussian_delta=DELTA,
        delta=content["delta"],
    )


@pytest.fixture
def ledger(store):
    store.append(
        LINEAGE,
        kind="opening",
        issued_at="2026-01-01T00:00:00+00:00",
        model_digest="sha256:" + "c" * 64,
    )
    issue(store, certificate_content())
    issue(store, certificate_content(step=2, accumulated=2 * BOUND))
    scan = {"scan": {"clean": True, "hits": []}}
    store.append(LINEAGE, kind="purge", issued_at="2026-01-01T00:00:00+00:00", batch="b-1", details=scan)
    return store.entries(LINEAGE)


def test_an_untouched_certificate_verifies(ledger):
    outcome = verify_certificate(parse_certificate(certificate_content()), ledger=ledger)
    assert outcome.consistent, outcome.findings
    assert any("annex" in line for line in outcome.missing)
    assert not any("purge entry" in line for line in outcome.missing)


def test_a_later_release_tells_offline_that_one_was_undone(ledger):
    first, second = (
        parse_certificate(certificate_content(step=step, accumulated=step * BOUND)) for step in (1, 2)
    )
    undone = {"rolled_back": [{"version": 2, "certificate_id": first.certificate_id, "at": "2026-01-01"}]}
    ledger[2] = ledger[2].model_copy(update={"details": undone})
    ledger[3] = ledger[3].model_copy(update={"previous": ledger[2].digest()})
    told = ("undone: version 2 was rolled back; the version before it served again",)
    assert verify_certificate(first, ledger=ledger).findings == told
    assert verify_certificate(second, ledger=ledger).consistent
    assert verify_certificate(second, ledger=ledger, rolled_back=True).findings == told
    for nonsense in ("c-1", {"certificate_id": first.certificate_id}, [None, 3, {}]):
        ledger[2] = ledger[2].model_copy(update={"details": {"rolled_back": nonsense}})
        ledger[3] = ledger[3].model_copy(update={"previous": ledger[2].digest()})
        assert verify_certificate(first, ledger=ledger).consistent


def _set(path, value):
    def change(content):
        target = content
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value

    return change


def _delta(value):
    def change(content):
        content["delta"] = content["sequential"]["composed_delta"] = value

    return change


TAMPERINGS = {
    "epsilon understated": _set(("epsilon",), 0.01),
    "delta understated": _set(("delta",), 1e-9),
    "generator's share left out": _delta(DELTA),
    "generator's share understated": _delta(DELTA + 0.9 * truncation_delta(100, EPSILON)),
    "gaussian share understated": _set(("gaussian_delta",), 1e-9),
    "sigma overstated": _set(("sigma",), 1.0),
    "error bound halved": _set(("error_bound", "value"), BOUND / 2),
    "tolerance loosened": _set(("constants", 0, "value"), 1e-3),
    "constant left out": _set(("constants",), []),
    "draws hidden": _set(("sequential", "draws"), 0),
    "composed m understated": _set(("sequential", "composed_m"), 1e-6),
    "sequential sum understated": _set(("sequential", "accumulated_error"), 0.0),
    "scope shortened": _set(("scope",), ["all good"]),
    "coverage emptied": _set(("coverage",), []),
    "gate failed": _set(("validation", "gates"), [{"name": "utility", "passed": False, "limit": ""}]),
    "called exact": _set(("guarantee",), "exact"),
    "vacuous hidden": _set(("admitted", "epsilon"), 0.001),
    "records understated": _set(("forget", "records"), 1),
    "another model": _set(("model", "digest"), "sha256:" + "0" * 64),
    "the parent passed off as the release": _set(("model", "digest"), "sha256:" + "c" * 64),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_shows(name, ledger):
    content = certificate_content()
    TAMPERINGS[name](content)
    outcome = verify_certificate(parse_certificate(content), ledger=ledger)
    assert not outcome.consistent, name


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in TAMPERINGS
        if n not in ("records understated", "another model", "sequential sum understated")
    ],
)
def test_arithmetic_shows_without_a_ledger_too(name):
    content = certificate_content()
    TAMPERINGS[name](content)
    assert not verify_certificate(parse_certificate(content)).consistent


def test_an_exact_certificate_of_the_parent_itself():
    """Version 1 had nothing in a model's files that is drawn anew, and people with test rows only change no weight."""
    content = json.loads((GOLDEN / "certificate-v1-signed-exact" / "certificate.json").read_text())
    content["model"]["digest"] = content["model"]["parent_digest"]
    outcome = verify_certificate(parse_certificate(content))
    assert outcome.consistent
    assert any("it is its parent, byte for byte" in line for line in outcome.missing)
    newer = {"version": 2, "policy": {"digest": "sha256:" + "0" * 64, "pinned_at": content["issued_at"]}}
    content |= {**newer, "public_parts": [], "scope": scope_of("exact")}
    content["attack_gates"] = {"false_alarm": 0.0, "exchanged_delta": 0.0}
    findings = verify_certificate(parse_certificate(content)).findings
    assert "the model is its parent: nothing was unlearned" in findings


def test_an_exact_certificate_states_zero():
    content = certificate_content()
    content |= {
        "guarantee": "exact",
        "mechanism": "retrain",
        "epsilon": 0.0,
        "delta": 0.0,
        "gaussian_delta": 0.0,
    }
    content |= {"sigma": 0.0, "scope": scope_of("exact", 1)}
    content["error_bound"] |= {"value": 0.0, "binding": "exact"}
    content["constants"] = []
    assert not verify_certificate(parse_certificate(content)).consistent  # its account has to start anew
    zero = ("step", "accumulated_error", "uniform_error", "composed_m", "composed_epsilon", "composed_delta")
    content["sequential"] |= dict.fromkeys(zero, 0)
    assert verify_certificate(parse_certificate(content)).consistent
    content["epsilon"] = 1e-9
    assert not verify_certificate(parse_certificate(content)).consistent


@pytest.mark.parametrize("content", [None, [], {}, {"type": "https://expunge.dev/certificate", "version": 3}])
def test_unknown_types_are_refused(content):
    with pytest.raises(VerificationError, match="known type"):
        parse_certificate(content)


def test_a_malformed_certificate_lists_its_faults():
    content = certificate_content()
    del content["sigma"], content["forget"]
    content["invented"] = 1
    with pytest.raises(VerificationError) as error:
        parse_certificate(content)
    assert all(word in str(error.value) for word in ("sigma", "forget", "invented"))


def test_ledger_verifies_and_accumulates(ledger):
    assert verify_ledger(Ledger(LINEAGE, tuple(ledger))).consistent
    assert [entry.step for entry in ledger] == [0, 1, 2, 2]
    assert ledger[2].accumulated_error == pytest.approx(2 * BOUND)


def test_retraining_starts_the_account_anew(store, ledger):
    entry = store.append(LINEAGE, kind="retraining", issued_at="2026-01-02T00:00:00+00:00", batch="b-9")
    assert (entry.step, entry.accumulated_error) == (0, 0.0)
    assert verify_ledger(store.read(LINEAGE)).consistent


def _plain(ledger):
    return [entry.to_json() for entry in ledger]


LEDGER_TAMPERINGS = {
    "edit": lambda entries: entries[1].update(error_bound=BOUND / 2),
    "edit of a detail": lambda entries: entries[0].update(details={"x": 1}),
    "epsilon edited in the last entry": lambda entries: entries[2].update(epsilon=0.001),
    "removal inside": lambda entries: entries.pop(1),
    "opening cut off": lambda entries: entries.pop(0),
    "reordering": lambda entries: entries.insert(1, entries.pop(2)),
    "replay": lambda entries: entries.append(copy.deepcopy(entries[1])),
}


@pytest.mark.parametrize("name", LEDGER_TAMPERINGS)
def test_a_tampered_ledger_fails(name, ledger):
    entries = _plain(ledger)
    LEDGER_TAMPERINGS[name](entries)
    assert check_ledger(parse_entries(entries)), name


def test_an_empty_ledger_is_a_finding():
    assert not verify_ledger(Ledger(LINEAGE, ())).consistent


def test_appending_the_same_release_twice_keeps_one(store, ledger):
    again = issue(store, certificate_content())
    assert again.sequence == 1
    assert len(store.entries(LINEAGE)) == len(ledger)


def test_ledger_that_is_no_ledger():
    with pytest.raises(VerificationError):
        parse_ledger({"not": "a list"})


def test_annex_opens_with_the_auditors_key_alone(tmp_path):
    create_auditor_keys(tmp_path / "a")
    create_auditor_keys(tmp_path / "b")
    sealed, _ = seal({"gradient_norm": 1.5e-9}, tmp_path / "a")
    assert b"gradient" not in sealed
    longer, _ = seal({"gradient_norm": 1.5e-9, "points": [[0.25, 0.5]] * 1000}, tmp_path / "a")
    assert len(longer) == len(sealed)  # whose length would tell of the figures
    assert open_annex(sealed, tmp_path / "a" / PRIVATE_NAME) == {"gradient_norm": 1.5e-9}
    with pytest.raises(VerificationError):
        open_annex(sealed, tmp_path / "b" / PRIVATE_NAME)
    with pytest.raises(VerificationError):
        open_annex(sealed[:-1] + bytes([sealed[-1] ^ 1]), tmp_path / "a" / PRIVATE_NAME)
    assert ((tmp_path / "a" / PRIVATE_NAME).stat().st_mode & 0o077) == 0
    with pytest.raises(WorkspaceError):
        seal({}, tmp_path / "nowhere")


def test_canonical_form_is_independent_of_order_and_refuses_nan():
    assert canonical_bytes({"b": [1, 2.5], "a": None}) == b'{"a":null,"b":[1,2.5]}'
    with pytest.raises(VerificationError):
        canonical_bytes({"x": float("nan")})


def test_evidence_survives_json_text(ledger):
    text = json.dumps(certificate_content(), indent=3)
    assert verify_certificate(parse_certificate(json.loads(text)), ledger=ledger).consistent


GOLDEN = Path(__file__).parents[1] / "golden"


def test_golden_evidence_still_verifies():
    """Evidence of every version ever issued, kept for ever; signed evidence with the keys of its auditor."""
    folders = sorted(GOLDEN.glob("certificate-v*"))
    assert len(folders) >= 7
    for folder in folders:
        held = folder / "auditor"
        trust = Trust()
        if held.is_dir():
            trust = Trust(load_keyring(held / "trusted-keys.json"), annex_key=held / "annex.key")
        model = folder / "model"
        outcome = Verifier(trust).verify(find_evidence(folder), model=model if model.is_dir() else None)
        assert outcome.consistent, outcome.findings
        unsigned = "signature (no key given: --key)" in outcome.missing
        assert unsigned is not held.is_dir()
        assert "digest of the sealed annex" in outcome.checked
        if held.is_dir():
            assert any(line.startswith("signature by key") for line in outcome.checked)
            assert "annex: the realised error is within the bound" in outcome.checked
            assert any(line.startswith("model.sig, by key") for line in outcome.checked) is model.is_dir()


def test_golden_evidence_that_nobody_signed_fails_once_a_key_is_given(tmp_path):
    """Otherwise taking the signature away would pass."""
    keys = load_keyring(GOLDEN / "certificate-v1-signed-convex" / "auditor" / "trusted-keys.json")
    outcome = Verifier(Trust(keys)).verify(find_evidence(GOLDEN / "certificate-v1-convex"))
    assert any("nobody signed this" in finding for finding in outcome.findings)
