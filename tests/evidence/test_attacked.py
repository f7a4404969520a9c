"""What the annex lets an auditor check of attacks: alarms follow from figures, and gates from alarms."""

import copy
import json

import pytest

from expunge.evidence.certificate import parse_certificate
from expunge.evidence.realised import verify_realised
from expunge.evidence.scope import scope_of
from expunge.evidence.verify import verify_certificate
from expunge.privacy.truncation import exchanged_delta
from expunge.reports.attacks import attack_lines, attack_rows
from tests.evidence.forging import GOLDEN, golden_figures

GATE = "membership attack"
QUIET = {
    "people": 8,
    "others": 30,
    "auc": 0.55,
    "p_value": 0.3,
    "smallest": 4e-8,
    "highest": 0.9,
    "alarm": False,
}
ATTACKS = {
    "attacked": True,
    "enforced": True,
    "level": 0.0005,
    "margin": 0.1,
    "gates": {GATE: QUIET},
    "parent": {**QUIET, "auc": 1.0},
    "retained": None,
}


@pytest.fixture
def certificate():
    content = json.loads((GOLDEN / "certificate.json").read_text())
    content["validation"]["gates"].append({"name": GATE, "passed": True, "limit": "a coin"})
    return parse_certificate(content)


@pytest.fixture
def newer(certificate):
    """The same as version 2 states it: two gates' level is a false alarm of 0.001, beside delta."""
    content = certificate.to_json() | {"version": 2, "scope": scope_of(certificate.guarantee, 2)}
    content["policy"] = {"digest": "sha256:" + "0" * 64, "pinned_at": content["issued_at"]}
    content["public_parts"] = []
    content["attack_gates"] = {
        "false_alarm": 1e-3,
        "exchanged_delta": exchanged_delta(certificate.delta, 1e-3),
    }
    return content


def stated(newer, **attack_gates):
    newer["attack_gates"].update(attack_gates)
    return parse_certificate(newer)


def test_what_gates_cost_with_the_sides_exchanged_is_added_again(newer):
    def found(content):
        return [line for line in verify_certificate(content).findings if "gates" in line]

    assert found(stated(newer)) == []
    assert "do not agree" in found(stated(newer, false_alarm=0.0))[0]
    assert "add up to" in found(stated(newer, false_alarm=1e-3, exchanged_delta=1e-3))[0]
    newer["validation"]["gates"].pop()  # no attack was a gate
    assert "do not agree" in found(stated(newer))[0]
    none = stated(newer, false_alarm=0.0, exchanged_delta=newer["delta"])
    assert found(none) == []


def test_false_alarms_are_held_against_the_levels_in_the_annex(newer):
    enough, less = stated(newer), stated(newer, false_alarm=1e-4)
    words = "annex: the levels of the attacks add up to"
    assert f"{words} no more false alarms than stated" in verify(enough).checked
    assert f"{words} more false alarms than stated" in verify(less).findings


def test_a_gate_without_an_attack_is_a_finding_from_version_2_on(certificate, newer):
    """Version 1 named gates where nobody of the people was trained on; it may keep saying so."""
    finding = "annex: the certificate names an attack that was not made"
    assert finding in verify(parse_certificate(newer), attacked=False).findings
    assert finding not in verify(certificate, attacked=False).findings


def verify(certificate, **changes):
    attacks = copy.deepcopy(ATTACKS)
    attacks.update({name: value for name, value in changes.items() if name in attacks})
    attacks["gates"][GATE].update({name: value for name, value in changes.items() if name in QUIET})
    return verify_realised(certificate, {**golden_figures(), "attacks": attacks})


def test_what_agrees_is_checked_and_quoted_nowhere(certificate):
    outcome = verify(certificate)
    assert outcome.consistent
    assert "annex: the attacks' alarms follow from what they found" in outcome.checked
    assert "0.55" not in json.dumps(outcome.to_json())


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"auc": 0.9, "p_value": 1e-7}, "does not follow"),
        ({"auc": 0.1, "p_value": 1e-7}, "does not follow"),
        ({"alarm": True}, "does not follow"),
        ({"auc": 0.9, "p_value": 1e-7, "alarm": True}, "says otherwise"),
        ({"enforced": False}, "says otherwise"),
        ({"gates": {GATE: {**QUIET, "contradicts": True}}}, "says otherwise"),
        ({"gates": {"another attack": QUIET, GATE: QUIET}}, "says otherwise"),
        ({"p_value": "0.3"}, "malformed"),
        ({"level": None}, "malformed"),
        ({"gates": {GATE: {"auc": 0.5}}}, "malformed"),
    ],
)
def test_what_does_not_agree_is_a_finding(certificate, changes, finding):
    findings = [line for line in verify(certificate, **changes).findings if "annex" in line]
    assert any(finding in line for line in findings)
    assert "0.9" not in " ".join(findings)


def test_an_annex_without_attacks_says_so(certificate):
    earlier = parse_certificate(json.loads((GOLDEN / "certificate.json").read_text()))
    assert any("no attack is recorded" in line for line in verify_realised(earlier, golden_figures()).missing)
    findings = verify_realised(certificate, golden_figures()).findings
    assert any("names an attack of which it knows nothing" in line for line in findings)
    assert any("no attack was made" in line for line in verify(certificate, attacked=False).missing)


def test_an_auditor_reads_them_in_words():
    (row, parent) = attack_rows(ATTACKS)
    assert row == (GATE, "8", "30", "0.550", "0.3", "no")
    assert parent[3] == "1.000"
    assert "p-value of at most 0.0005" in " ".join(attack_lines(ATTACKS))
    assert attack_rows(None) == []
    assert "earlier version" in attack_lines(None)[0]
    assert attack_lines({"attacked": False, "why": "none"}) == ["No attack was made: none."]
    assert "unlike the others" in " ".join(attack_lines({**ATTACKS, "enforced": False}))
