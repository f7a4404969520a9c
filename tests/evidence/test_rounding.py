"""What a certificate may say of rounding: proved in the class convex from version 2 on, else assumed."""

import copy

import pytest

from expunge.evidence.certificate import parse_certificate
from expunge.evidence.realised import verify_realised
from expunge.evidence.scope import scope_of
from expunge.evidence.verify import verify_certificate
from tests.evidence.forging import golden_certificate, golden_figures


def _second(**changes):
    """The golden certificate as version 2 would state it."""
    content = copy.deepcopy(golden_certificate())
    content |= {
        "version": 2,
        "policy": {"digest": "sha256:" + "1" * 64, "pinned_at": "2026-01-01T00:00:00+00:00"},
        "public_parts": [],
        "attack_gates": {"false_alarm": 0.0, "exchanged_delta": content["delta"]},
        "assumptions": [],
        "scope": scope_of("convex", 2),
    }
    return content | changes


def _assumed(content, provenance="assumed"):
    for constant in content["constants"]:
        if constant["name"] == "rounding_allowance":
            constant["provenance"] = provenance
    return content


def _about_rounding(content):
    found = verify_certificate(parse_certificate(content)).findings
    return [line for line in found if "assum" in line or "does not give the class" in line]


def test_of_version_2_the_class_convex_needs_no_assumption():
    assert _about_rounding(_second()) == []
    first = golden_certificate()
    assert first["version"] == 1
    assert _about_rounding(first) == []
    assert any("states what it assumes" in line for line in _about_rounding(first | {"assumptions": []}))


def test_unproved_rounding_is_conditional_and_assumed():
    admitted = {**golden_certificate()["admitted"], "classes": ["conditional"]}
    weaker = _second(
        guarantee="conditional",
        assumptions=["rounding"],
        scope=scope_of("conditional", 2),
        admitted=admitted,
    )
    assert _about_rounding(_assumed(copy.deepcopy(weaker))) == []
    assert any("rounding is assumed" in line for line in _about_rounding(copy.deepcopy(weaker)))
    bare = _assumed(copy.deepcopy(weaker)) | {"assumptions": []}
    assert any("states what it assumes" in line for line in _about_rounding(bare))
    assert any("is assumed, and nothing is" in line for line in _about_rounding(_assumed(_second())))
    # version 1 knew no such class of this mechanism
    first = golden_certificate() | {"guarantee": "conditional", "admitted": admitted}
    assert any("does not give the class" in line for line in _about_rounding(first))


@pytest.mark.parametrize(
    ("named", "value", "holds"),
    [("rounding_bound", 1e-10, True), ("rounding_bound", 1e-3, False), ("rounding_check", 1e-10, False)],
)
def test_the_annex_holds_the_proved_bound(named, value, holds):
    figures = golden_figures()
    figures.pop("rounding_check")
    outcome = verify_realised(parse_certificate(_second()), {**figures, named: value})
    about = [line for line in (*outcome.findings, *outcome.checked) if "rounding" in line]
    assert len(about) == 1
    assert (about[0] in outcome.checked) is holds


def test_a_release_that_was_only_checked_says_so_whoever_certifies_it():
    """Unlearned by an earlier version, certified by this one: its assumption stands in the certificate."""
    outcome = verify_realised(parse_certificate(_second(assumptions=["checked"])), golden_figures())
    assert "annex: the checked rounding of the gradient is within its allowance" in outcome.checked
