"""Statements of policy in a ledger, and certificates that name another policy than they say."""

import json

import pytest

from expunge.evidence.canonical import digest
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.ledger import LedgerEntry, check_ledger
from expunge.evidence.scope import scope_of
from expunge.evidence.verify import verify_certificate
from expunge.settings import Policy
from tests.evidence.forging import chained, golden_certificate, golden_entries


def policy_entry(content, old=None, replaces=None, **details):
    stated = {"old": old, "new": digest(content), "replaces": replaces, "content": content}
    return LedgerEntry(
        version=4,
        sequence=0,
        previous="",
        lineage=golden_entries()[0].lineage,
        kind="policy",
        issued_at=golden_entries()[0].issued_at,
        details={**stated, "requests_open": False, "accepted": None, **details},
    )


def content_of(certificate, **release):
    policy = Policy.model_validate(
        {
            "admit": certificate["admitted"],
            "release": {"sigma": certificate["sigma"], **release},
            "ledger": certificate["sequential"]["limits"],
        }
    )
    return policy.guarantee_content()


def issued(*policies, change=lambda content: None):
    """The golden release as version 2, with a ledger that states policies after its opening."""
    content = golden_certificate()
    named = digest(content_of(content))
    content |= {"version": 2, "public_parts": [], "scope": scope_of(content["guarantee"])}
    content["attack_gates"] = {"false_alarm": 0.0, "exchanged_delta": content["delta"]}
    content["policy"] = {"digest": named, "pinned_at": content["issued_at"]}
    change(content)
    certificate = parse_certificate(json.loads(json.dumps(content)))
    first, *others = golden_entries()
    figures = [
        entry.model_copy(update={"certificate_digest": digest(certificate.to_json())})
        if entry.certificate_id == certificate.certificate_id and entry.kind in ("release", "retraining")
        else entry
        for entry in others
    ]
    account = [
        entry.model_copy(update={"step": 0, "accumulated_error": 0.0, "uniform_error": 0.0})
        for entry in policies
    ]
    return certificate, chained([first, *account, *figures])


def findings(*policies, change=lambda content: None):
    certificate, ledger = issued(*policies, change=change)
    return verify_certificate(certificate, ledger=ledger)


def test_the_policy_of_a_certificate_is_the_ledger_s():
    content = content_of(golden_certificate())
    outcome = findings(policy_entry(content))
    assert outcome.consistent, outcome.findings
    assert not any("policy" in line for line in outcome.missing)


def test_a_ledger_of_an_earlier_release_verifies_as_before():
    assert check_ledger(golden_entries()) == []
    assert verify_certificate(parse_certificate(golden_certificate()), ledger=golden_entries()).consistent


@pytest.mark.parametrize(
    ("policies", "change", "told"),
    [
        ([], None, "the ledger states no policy before this release"),
        ([{"sigma": 0.5}], None, "names another policy than the one that the ledger states"),
        ([{}], ("policy", "digest", "sha256:" + "0" * 64), "names another policy"),
        ([{}], ("admitted", "epsilon", 2.0), "differ in what policy admits"),
        ([{}], ("limits", "releases", 10**6), "differ in the sequential limits"),
    ],
)
def test_a_certificate_of_another_policy_is_found(policies, change, told):
    golden = golden_certificate()
    stated = [policy_entry(content_of(golden, **release)) for release in policies]

    def changed(content):
        if change is not None:
            where, name, value = change
            (content["sequential"] if where == "limits" else content)[where][name] = value

    outcome = findings(*stated, change=changed)
    assert any(told in line for line in outcome.findings), outcome.findings


def test_sigma_that_its_own_policy_does_not_name_is_found():
    """The attack: a policy is pinned, and the noise is another's."""
    golden = golden_certificate()
    other = content_of(golden, sigma=golden["sigma"] * 2)
    outcome = findings(
        policy_entry(other), change=lambda content: content["policy"].update(digest=digest(other))
    )
    assert "the certificate and the policy that it names differ in sigma" in outcome.findings


def test_a_change_that_was_accepted_or_came_late_is_told():
    content = content_of(golden_certificate())
    late = findings(policy_entry(content, requests_open=True))
    assert late.consistent
    assert any("while requests were open" in line for line in late.missing)
    accepted = findings(policy_entry(content, accepted="the board said so"))
    assert any("accepted: the board said so" in line for line in accepted.missing)


@pytest.mark.parametrize(
    "details",
    [
        {"old": "sha256:" + "0" * 64, "replaces": 3},
        {"old": None, "replaces": None},
    ],
)
def test_statements_follow_from_each_other(details):
    first = content_of(golden_certificate(), sigma=0.5)
    content = content_of(golden_certificate())
    _, ledger = issued(policy_entry(first), policy_entry(content, **details))
    assert any("replaces another policy than the one that held" in line for line in check_ledger(ledger))
    _, ledger = issued(policy_entry(first), policy_entry(content, digest(first), 1))
    assert check_ledger(ledger) == []


def test_a_digest_of_something_else_is_no_entry():
    content = content_of(golden_certificate())
    with pytest.raises(ValueError, match="not that of the digest"):
        policy_entry(content, new="sha256:" + "0" * 64)
    with pytest.raises(ValueError, match="that of an entry"):
        policy_entry(content, old="sha256:" + "0" * 64)
