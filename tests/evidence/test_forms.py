"""An operator with the real keys issues evidence that leaves out what version 2 has to state."""

import copy
import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from expunge.evidence.bundle import Trust, Verifier, find_evidence
from expunge.evidence.scope import scope_of
from tests.evidence import forging

VERSION_2 = forging.GOLDEN.parent / "certificate-v2-signed-convex"


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Issues a certificate, perhaps with another model; the verifier has keys, ledger and model, and no annex key."""
    monkeypatch.setattr(forging, "GOLDEN", VERSION_2)
    operator = forging.Operator(tmp_path / "operator")

    def issue(certificate, model=None):
        folder = operator.issue(tmp_path / "evidence", certificate, model=model)
        trust = Trust(operator.keys.keyring())
        return Verifier(trust).verify(find_evidence(folder), model=folder / "model")

    return issue


@pytest.fixture
def honest(judged):
    return copy.deepcopy(forging.golden_certificate())


def as_version_1(certificate):
    for name in ("policy", "public_parts", "attack_gates"):
        del certificate[name]
    return {**certificate, "version": 1, "scope": scope_of("convex", 1), "assumptions": ["rounding"]}


def changed_model(folder, change):
    shutil.copytree(VERSION_2 / "model", folder)
    content = json.loads((folder / "model.json").read_text())
    change(content, folder)
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def test_what_is_issued_honestly_verifies(judged, honest):
    outcome = judged(honest)
    assert outcome.verified, outcome.findings
    assert any("initial weights come from its seed" in line for line in outcome.missing)


def test_version_1_is_over_once_the_ledger_states_a_policy(judged, honest):
    findings = judged(as_version_1(honest)).findings
    assert any("version 1, and the ledger states a policy" in finding for finding in findings)
    assert any("a later form than its certificate" in finding for finding in findings)


def test_fewer_false_alarms_than_the_policy_admits(judged, honest):
    honest["attack_gates"] = {"false_alarm": 1e-12, "exchanged_delta": 1.000002e-6}
    assert any("fewer false alarms" in finding for finding in judged(honest).findings)


@pytest.mark.parametrize("moment", ["2031-01-01T00:00:00+00:00", "yesterday", "2026-11-30"])
def test_a_policy_is_pinned_before_its_certificate_is_issued(judged, honest, moment):
    honest["policy"]["pinned_at"] = moment
    assert any("policy" in finding for finding in judged(honest).findings)


def test_nothing_is_added_to_what_a_model_tells_of_itself(judged, honest, tmp_path):
    def add(content, folder):
        content["training"] = {"products": 79}

    findings = judged(honest, changed_model(tmp_path / "model", add)).findings
    assert "model: its description has other fields than a release has" in findings


@pytest.mark.parametrize("where", ["model.json", "weights.safetensors"])
def test_a_file_without_a_nonce_is_found(judged, honest, tmp_path, where):
    def strip(content, folder):
        if where == "model.json":
            content["nonce"] = ""
        else:
            save_file(load_file(folder / where), folder / where)

    findings = judged(honest, changed_model(tmp_path / "model", strip)).findings
    assert any("carries no nonce" in finding for finding in findings)
