"""The receipt: dates, what was destroyed, backups that forget, what is not covered, and nobody's name."""

import html
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge.reports.organisation import organisation_lines
from expunge.reports.page import render_page
from expunge.reports.receipt import make_receipt, receipt_document
from expunge.settings import Policy

GOLDEN = Path(__file__).parents[1] / "golden"
HISTORY = [
    {"at": "2026-01-02T00:00:00+00:00", "from": None, "to": "received", "reason": ""},
    {"at": "2026-01-05T00:00:00+00:00", "from": "scheduled", "to": "removed", "reason": ""},
    {"at": "2026-01-06T00:00:00+00:00", "from": "registered", "to": "removed", "reason": "rolled back"},
]
TICKET = {
    "ticket_id": "t-0123456789ab",
    "pseudonym": "p1-00",
    "regime": "gdpr",
    "received_at": "2026-01-02T00:00:00+00:00",
    "due_at": "2026-02-02T00:00:00+00:00",
    "closed_at": "2026-01-08T00:00:00+00:00",
    "batch_id": "b-0123456789ab",
    "reason": "not shown",
}
SCAN = {"clean": True, "hits": [], "searched": [{"kind": "git", "files": 3, "bytes": 99}], "notes": []}


NOBODY = {"name": None, "contact": None, "authority": None}


def made(backups=(), declared=(), organisation=NOBODY, **details):
    certificate = json.loads((GOLDEN / "certificate-v1-convex" / "certificate.json").read_text())
    certificate["coverage"] += declared
    purge = {"issued_at": "2026-01-31T23:59:00+00:00", "sequence": 7, "details": {"scan": SCAN} | details}
    return certificate, make_receipt(TICKET, HISTORY, certificate, purge, backups, organisation)


def test_it_says_what_the_evidence_says():
    certificate, receipt = made()
    assert receipt["removed_at"] == "2026-01-06T00:00:00+00:00"  # the last time
    assert receipt["certificate_id"] == certificate["certificate_id"]
    assert (receipt["guarantee"]["class"], receipt["guarantee"]["epsilon"]) == (
        "convex",
        certificate["epsilon"],
    )
    status = {item["artefact"]: item["status"] for item in certificate["coverage"]}
    assert {status[name] for name in receipt["purged"]["what"]} <= {"purge pending", "purged"}
    assert "weights of the parent version" in receipt["purged"]["what"]
    assert [item["artefact"] for item in receipt["not_covered"]] == [
        n for n, s in status.items() if s == "not covered"
    ]
    assert receipt["scan"] == {"clean": True, "hits": 0, "searched": SCAN["searched"], "notes": []}


def test_a_backup_has_forgotten_so_many_days_after_the_purge():
    backups = [
        {"name": "nightly", "holds": "dataset", "expires_days": 30},
        {"name": "none left", "holds": "model", "expires_days": 0},
    ]
    _, receipt = made(backups)
    assert [b["expired_by"] for b in receipt["backups"]] == ["2026-03-02", "2026-01-31"]
    page = render_page(receipt_document(receipt))
    assert "nightly" in page
    assert "2026-03-02" in page
    assert "We have declared no backup" not in page


def test_what_a_purge_had_to_keep_is_not_covered():
    data = "rows in earlier dataset versions (cache, remote)"
    assert data in made()[1]["purged"]["what"]
    note = "not searched: 1 object that another dataset needs"
    _, receipt = made(
        kept=[{"what": "data object 12", "where": "remote", "why": "another dataset needs it"}],
        scan={**SCAN, "notes": [note]},
    )
    assert {"artefact": "data object 12", "reason": "another dataset needs it"} in receipt["not_covered"]
    assert data not in receipt["purged"]["what"]
    assert data in [item["artefact"] for item in receipt["not_covered"]]
    assert note in render_page(receipt_document(receipt))


def test_what_an_operator_says_stands_apart_from_what_the_purge_proves():
    row = {"artefact": "export crm (a-0123456789ab)", "status": "purged", "reason": "deleted by hand"}
    _, receipt = made(declared=[row])
    assert row["artefact"] not in receipt["purged"]["what"]
    assert receipt["declared"] == [row]
    assert "deleted by hand" in render_page(receipt_document(receipt))


def test_what_was_declared_too_late_for_the_certificate_is_not_covered():
    _, receipt = made(declared_late=["derived model churn-2"])
    assert "derived model churn-2" in [item["artefact"] for item in receipt["not_covered"]]


@pytest.mark.parametrize("name", ["nightly", "<script>alert(1)</script>"])
def test_the_page_is_self_contained_and_escaped(name):
    _, receipt = made([{"name": name, "holds": "dataset", "expires_days": 1}])
    page = render_page(receipt_document(receipt))
    for needed in ("t-0123456789ab", receipt["guarantee"]["verdict"], "ledger entry 7"):
        assert needed in page
    assert "<script" not in page
    assert "<link" not in page
    assert "//" not in page.replace("http-equiv", "")
    for item in receipt["not_covered"]:
        assert item["artefact"] in page


def test_it_says_who_answers_whom_to_ask_and_where_to_complain():
    said = {
        "name": "Clinic & Co",
        "contact": "privacy@clinic.example",
        "authority": "the authority of Utrecht",
    }
    _, receipt = made(organisation=said)
    assert receipt["organisation"] == said
    page = html.unescape(render_page(receipt_document(receipt)))
    for line in (
        "“We” are Clinic & Co.",
        "contact us: privacy@clinic.example.",
        "right to complain to our supervisory authority: the authority of Utrecht. You may also seek",
    ):
        assert line in page


def test_what_policy_leaves_out_is_said_to_be_unstated_and_the_right_stays():
    _, receipt = made()
    told = " ".join(organisation_lines(receipt))
    assert [
        word in told for word in ("not stated its name", "not stated a contact", "not stated which one")
    ] == [True] * 3
    assert "right to complain to a supervisory authority" in told
    assert "None" not in told
    older = {name: value for name, value in receipt.items() if name != "organisation"}
    assert organisation_lines(older) == organisation_lines(receipt)
    assert "judicial remedy" not in " ".join(organisation_lines({**receipt, "regime": "ccpa"}))


@pytest.mark.parametrize(
    "wrong", [{"name": " "}, {"contact": "two\nlines"}, {"authority": "x" * 201}, {"phone": "1"}]
)
def test_an_organisation_is_one_line_of_each(wrong):
    with pytest.raises(ValidationError):
        Policy.model_validate({"organisation": wrong})


def test_an_organisation_is_no_part_of_what_a_batch_is_pinned_to():
    named = Policy.model_validate({"organisation": {"name": "Clinic"}})
    assert named.guarantee_content() == Policy().guarantee_content()


def test_it_speaks_as_we_to_you():
    page = text_of(receipt_document(made()[1]))
    for voice in (
        "We removed your data",
        "we destroyed the earlier data",
        "we searched for you and found 0 traces",
    ):
        assert voice in page
    for other in ("the operator", "was removed from", "A search afterwards"):
        assert other not in page


def text_of(document):
    """A page's words without its marks."""
    return " ".join(re.sub("<[^>]+>", "", html.unescape(render_page(document))).split())
