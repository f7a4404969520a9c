"""An operator who signs an overstated certificate, and a ledger that agrees: what is found, and what is not."""

import copy
import json
import math
import shutil
from datetime import datetime

import numpy as np
import pytest

from expunge.evidence.bundle import ENVELOPE_FILE, STAMP_FILE, Trust, Verifier, find_evidence
from expunge.evidence.canonical import canonical_bytes, read_json
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.keyring import Keyring
from expunge.evidence.verify import EARLIER_GENERATORS, verify_certificate
from expunge.privacy.accountant import compose_m
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import truncation_delta
from tasks.adapters.timestamps import time_stamp
from tests.evidence.forging import GOLDEN, Operator, golden_certificate
from tests.tasks.test_signing import authority  # noqa: F401

HONEST = golden_certificate()


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    return Operator(tmp_path_factory.mktemp("operator"))


def constant(content, name):
    return next(c for c in content["constants"] if c["name"] == name)


def consistent(content):
    """Figures that follow from others are made to follow."""
    s, bound = content["sequential"], content["error_bound"]["value"]
    s["composed_m"] = compose_m([bound / content["sigma"]]) * math.sqrt(s["draws"])
    s["composed_epsilon"], s["composed_delta"] = content["epsilon"], content["delta"]
    s["uniform_error"], s["accumulated_error"] = bound, s["step"] * bound
    constant(content, "sigma")["value"] = content["sigma"]
    constant(content, "error_bound")["value"] = bound
    return content


def lie(change):
    content = copy.deepcopy(HONEST)
    change(content)
    return consistent(content)


def setting(path, value):
    def change(content):
        for name in path[:-1]:
            content = content[name]
        old = content[path[-1]]
        content[path[-1]] = value(old) if callable(value) else value

    return change


def weaker(name, factor):
    """A constant that the proof rests on, as it truly was, behind figures that it does not give."""
    return lambda content: setting(("value",), lambda v: v * factor)(constant(content, name))


def many_draws(content):
    content["sequential"]["draws"] = 4


FOUND_BY_ARITHMETIC = {
    **{f"epsilon times {f}": (setting(("epsilon",), lambda v, f=f: v * f), "epsilon is below") for f in (0.99, 0.5, 0)},
    **{f"both deltas times {f}": (lambda c, f=f: (setting(("delta",), lambda v: v * f)(c),
                                                  setting(("gaussian_delta",), lambda v: v * f)(c)), "epsilon is below")
       for f in (0.9, 0.1)},
    "delta without the generator's share": (setting(("delta",), HONEST["gaussian_delta"]), "delta is below"),
    "error bound halved": (setting(("error_bound", "value"), lambda v: v / 2), "the constants give an error bound"),
    "error bound zero": (setting(("error_bound", "value"), 0.0), "the constants give an error bound"),
    "error bound doubled": (setting(("error_bound", "value"), lambda v: v * 2), "epsilon is below"),
    "sigma halved": (setting(("sigma",), lambda v: v / 2), "epsilon is below"),
    "more draws than epsilon has room for": (many_draws, "epsilon is below"),
    "tolerance ten times as loose": (weaker("gradient_tolerance", 10), "the constants give an error bound"),
    "rounding a thousand times as large": (weaker("rounding_allowance", 1000), "the constants give an error bound"),
    "convexity a tenth": (weaker("l2", 0.1), "the constants give an error bound"),
    "a constant left out": (lambda c: c["constants"].remove(constant(c, "l2")), "cannot be recomputed"),
    "a constant stated twice": (lambda c: c["constants"].append(dict(constant(c, "l2"))), "stated twice"),
    "called unconditional": (setting(("guarantee",), "unconditional"), "does not give the class"),
    "called exact": (setting(("guarantee",), "exact"), "does not give the class"),
    "called retraining": (setting(("mechanism",), "retrain"), "does not give the class"),
    "scope cut": (setting(("scope",), lambda v: v[1:]), "the scope leaves out"),
    "assumptions cut": (setting(("assumptions",), []), "states what it assumes"),
    "coverage cut": (setting(("coverage",), []), "coverage map is empty"),
    "another generator": (setting(("noise",), "a generator"), "nobody has accounted for"),
    "a gate failed": (lambda c: c["validation"]["gates"][0].update(passed=False), "gate was not passed"),
    "vacuous, and not said": (setting(("admitted", "epsilon"), 0.01), "whether it is vacuous"),
    "past the sequential limits": (setting(("sequential", "limits", "accumulated_error"), 1e-9), "limits are exceeded"),
    "before its own parent": (setting(("issued_at",), "2026-01-01T00:00:00+00:00"), "before the model that it starts"),
    "of the future": (setting(("issued_at",), "2126-01-01T00:00:00+00:00"), "in the future"),
    "on a parent that never was": (setting(("model", "parent_digest"), "sha256:" + "0" * 64), "no earlier model"),
    "more people than tickets": (setting(("forget", "subjects"), 99), "99 people are said to have asked"),
    "a ticket stated twice": (lambda c: (c["tickets"].extend(c["tickets"]), c["forget"].update(subjects=2)),
                              "a ticket is stated twice"),
    "a dataset that stayed the same": (lambda c: c["dataset"].update(before=c["dataset"]["after"]),
                                       "the dataset is the same"),
    "no gates": (setting(("validation", "gates"), []), "no validation gate"),
    "a blank assumption": (setting(("assumptions",), [" "]), "an assumption is blank"),
    "an assumed constant": (lambda c: constant(c, "l2").update(provenance="assumed"), "the constant l2 is assumed"),
    "a policy of truths": (setting(("admitted", "delta"), True), "whether it is vacuous"),
    "numbers in words": (setting(("retain", "records"), "400"), "the certificate is malformed"),
    "truths for numbers": (setting(("sequential", "limits", "releases"), True), "the certificate is malformed"),
    "a generator of before signing": (setting(("noise",), EARLIER_GENERATORS[1]), "no signed certificate ever named"),
    "a version below its parent's": (setting(("model", "version"), 1), "not above its parent's"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND_BY_ARITHMETIC)
def test_arithmetic_finds(name, operator, tmp_path):
    change, told = FOUND_BY_ARITHMETIC[name]
    folder = operator.issue(tmp_path / "e", lie(change))
    outcome = Verifier(Trust(operator.keys.keyring())).verify(find_evidence(folder))
    assert any(line.startswith("signature by key") for line in outcome.checked)  # signed it is
    assert any(told in finding for finding in outcome.findings), outcome.findings


@pytest.mark.parametrize(
    "part", ["step", "accumulated_error", "uniform_error", "composed_m", "composed_epsilon"]
)
def test_sequential_figures_stated_too_small_are_found(part, operator, tmp_path):
    content = copy.deepcopy(HONEST)
    content["sequential"][part] = type(content["sequential"][part])(0)
    folder = operator.issue(tmp_path / "e", content)
    outcome = Verifier(Trust(operator.keys.keyring())).verify(find_evidence(folder))
    assert outcome.findings


def more_noise_than_there_was(content):
    """Sigma tenfold, and everything else as it follows from that."""
    content["sigma"] *= 10
    m = content["error_bound"]["value"] / content["sigma"]
    content["epsilon"] = gaussian_epsilon(content["gaussian_delta"], m)
    content["delta"] = content["gaussian_delta"] + truncation_delta(content["parameters"], content["epsilon"])
    constant(content, "generator_delta")["value"] = truncation_delta(
        content["parameters"], content["epsilon"]
    )


def fewer_weights(content):
    content["parameters"] -= 1


FOUND_IN_THE_MODEL = {
    "more noise than there was": (more_noise_than_there_was, "not on the grid of the noise"),
    "fewer weights than there are": (fewer_weights, "number of weights"),
    "a tighter tolerance than was trained to": (
        weaker("gradient_tolerance", 0.5),
        "gradient_tolerance is another",
    ),
    "a larger l2 than was trained with": (weaker("l2", 2), "l2 is another"),
}


@pytest.mark.parametrize("name", FOUND_IN_THE_MODEL)
def test_the_models_files_find_what_arithmetic_does_not(name, operator, tmp_path):
    change, told = FOUND_IN_THE_MODEL[name]
    folder = operator.issue(tmp_path / "e", lie(change))
    alone = Verifier(Trust(operator.keys.keyring()))
    assert alone.verify(find_evidence(folder)).consistent
    found = alone.verify(find_evidence(folder), model=folder / "model").findings
    assert any(told in finding for finding in found), found


def invented_people(content):
    content["tickets"].append("p1-" + "0" * 32)
    content["forget"]["subjects"] += 1


NOT_FOUND = {
    "fewer records than were removed": setting(("forget", "records"), 1),
    "more people than asked": invented_people,
    "pseudonyms of others": setting(("tickets",), ["p1-" + "0" * 32]),
    "a larger retain set": setting(("retain", "records"), 10**6),
    "another reference in words": setting(("reference",), "whatever you like"),
    "a status of the coverage map": lambda c: c["coverage"][-1].update(status="purged", reason="trust us"),
    "other dataset versions": lambda c: c["dataset"]["before"].update(md5="0" * 32 + ".dir"),
    "other code": setting(("code", "commit"), "0" * 40),
}


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_nothing_finds_is_in_the_docs(name, operator, tmp_path):
    """Honesty about the verifier: statements of fact that no number depends on are the operator's word."""
    folder = operator.issue(tmp_path / "e", lie(NOT_FOUND[name]))
    trust = Trust(operator.keys.keyring(), annex_key=operator.annex_key)
    assert Verifier(trust).verify(find_evidence(folder), model=folder / "model").consistent
    docs = (GOLDEN.parents[2] / "docs" / "verifying.md").read_text(encoding="utf-8")
    assert f"- {name}" in docs


def test_a_time_stamp_dates_the_signature(operator, tmp_path, authority):  # noqa: F811
    url, root = authority
    one, other = (operator.issue(tmp_path / name) for name in ("one", "other"))
    for folder in (one, other):
        message = canonical_bytes(read_json(folder / ENVELOPE_FILE))
        (folder / STAMP_FILE).write_bytes(time_stamp(message, url))
    ring = operator.keys.keyring()
    trust = Trust(ring, authorities=[root])
    outcome = Verifier(trust).verify(find_evidence(one))
    assert outcome.consistent, outcome.findings
    assert any(line.startswith("time stamp of ") for line in outcome.checked)
    assert (
        "time stamp (no authority given: --tsa-root)"
        in Verifier(Trust(ring)).verify(find_evidence(one)).missing
    )
    # dated back into the time of a key that has expired since: the stamp tells
    key = ring.of("evidence")[0]
    issued = datetime.fromisoformat(HONEST["issued_at"])
    expired = [k.model_copy(update={"valid_until": issued}) if k is key else k for k in ring.keys]
    expired = Keyring(keys=expired)
    found = Verifier(Trust(expired, authorities=[root])).verify(find_evidence(one)).findings
    assert any("expired at" in finding for finding in found)
    assert not any("not by a key" in f for f in Verifier(Trust(expired)).verify(find_evidence(one)).findings)
    original = (one / STAMP_FILE).read_bytes()
    for spoiled in (b"", original[:-1], original[:-9] + bytes([original[-9] ^ 1]) + original[-8:]):
        (one / STAMP_FILE).write_bytes(spoiled)
        assert any(
            "the time stamp does not hold" in f for f in Verifier(trust).verify(find_evidence(one)).findings
        )
    shutil.copyfile(other / STAMP_FILE, one / STAMP_FILE)
    assert any(
        "the time stamp does not hold" in f for f in Verifier(trust).verify(find_evidence(one)).findings
    )
    (one / STAMP_FILE).unlink()
    assert any(
        "there is no certificate.tsr" in f for f in Verifier(trust).verify(find_evidence(one)).findings
    )


def test_an_account_without_a_distance_spends_the_budget_all_the_same(operator, tmp_path):
    clipped = GOLDEN.parent / "certificate-v1-signed-model-clipping"
    content = read_json(clipped / "certificate.json")
    honest = content["error_bound"]["value"]
    assert verify_certificate(parse_certificate(content)).consistent
    for factor, holds in ((1.0, True), (0.999, False), (0.0, False)):
        spoiled = copy.deepcopy(content)
        spoiled["error_bound"]["value"] = factor * honest
        spoiled["sequential"]["accumulated_error"] -= (1 - factor) * honest
        findings = verify_certificate(parse_certificate(consistent(spoiled))).findings
        assert any("the constants give an error bound" in finding for finding in findings) is not holds


def test_noised_weights_are_not_those_of_a_retraining(operator, tmp_path):
    exact = read_json(GOLDEN.parent / "certificate-v1-signed-exact" / "certificate.json")
    told = "model: its weights are all on a coarse grid, as noised ones are, and not those of a retraining"
    folder = operator.issue(tmp_path / "e", exact)
    trust = Trust(operator.keys.keyring())
    assert told in Verifier(trust).verify(find_evidence(folder), model=folder / "model").findings
    weights = folder / "model" / "weights.safetensors"
    text = bytearray(weights.read_bytes())
    size = int.from_bytes(text[:8], "little")
    begin, end = json.loads(text[8 : 8 + size])["weights"]["data_offsets"]
    values = np.frombuffer(bytes(text[8 + size + begin : 8 + size + end]), dtype="<f8")
    text[8 + size + begin : 8 + size + end] = (values / 3).tobytes()  # as a solver leaves them: in all digits
    weights.write_bytes(text)
    assert told not in Verifier(trust).verify(find_evidence(folder), model=folder / "model").findings
