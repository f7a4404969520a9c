"""The same figures in the same digits on every page, never below what was certified; one and many; what is open."""

import json
import re

import pytest

from expunge.reports.compliance import compliance_document
from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.plain_words import bound, counted, delta_parts, verdict
from expunge.reports.receipt import receipt_document
from tasks.registration import _tags
from tests.reports.documents import GOLDEN, figures, golden, receipt

CERTIFICATES = sorted(GOLDEN.glob("certificate-*/certificate.json"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "value", [1e-6, 1.0000000004705968e-06, 0.049999999999999815, 0.1 + 0.2, 1 / 3, 8e6, 0.0]
)
def test_a_bound_is_never_printed_below_what_it_is_and_hardly_above(value):
    assert value <= float(bound(value)) <= value * (1 + 1e-5)


def deltas(text):
    """Every number in a text that is near one in a million: no other figure of a certificate is."""
    found = set(re.findall(r"\b\d(?:\.\d+)?e-0[67]\b", text))
    return {one for one in found if 9e-7 < float(one) < 1.1e-6}


def test_one_delta_on_every_page_of_a_certificate():
    content, ledger = golden("convex")
    assert (
        content["delta"] > 1e-6
    )  # of the noise, and a little for its generator: rounded down it would be 1e-06
    shown = bound(content["delta"])
    told, _ = figures(3)
    told["certificates"]["largest_delta"] = content["delta"]
    for text in (
        verdict(content),
        _tags(content)["delta"],
        _tags(content)["verdict"],
        render_page(receipt_document(receipt())),
        render_page(compliance_document(told, [], ledger)),
    ):
        assert deltas(text) == {shown}
    # the certificate's own page says besides what it is the sum of, and its last digit
    page = render_page(certificate_document(content, ledger))
    assert deltas(page) == {shown, bound(content["gaussian_delta"]), repr(content["delta"])}
    assert delta_parts(content) in page


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda path: path.parent.name)
def test_the_parts_of_delta_make_up_the_whole(path):
    content = read(path)
    said = delta_parts(content)
    assert (said is None) == (content["delta"] == 0)
    if said is None:
        return
    assert repr(content["delta"]) in said
    parts = float(re.search(r": (\S+) that the noise", said)[1])
    parts += sum(
        int(n) * float(share) for n, share in re.findall(r"(\d+) noise draws? times (\S+) for", said)
    )
    assert parts == pytest.approx(content["delta"], rel=1e-12)


def test_a_failing_bound_is_a_part_of_delta_for_each_draw():
    content, _ = golden("convex")
    content["constants"].append({"name": "failure_probability", "value": 1e-9})
    content["sequential"] = {**content["sequential"], "draws": 2}
    assert "2 noise draws times 1e-09 for the probability that a bound on the spectrum fails" in delta_parts(
        content
    )


def open_tickets(standing, closed, overdue=0):
    told, times = figures(closed)
    told["tickets"]["open_at_end"]["gdpr"] = standing
    told["tickets"]["states"] = {"closed": closed, "verified": standing}
    told["tickets"]["overdue_at_end"] = overdue
    return compliance_document(told, times, golden("convex")[1])


@pytest.mark.parametrize(
    ("standing", "closed", "overdue", "first", "tone"),
    [
        (3, 9, 1, "3 of 12 tickets are open, 1 is overdue.", "bad"),
        (3, 9, 2, "3 of 12 tickets are open, 2 are overdue.", "bad"),
        (1, 0, 0, "1 of 1 ticket is open, none is overdue.", "good"),
        (0, 9, 0, "None of 9 tickets is open.", "good"),
        (0, 0, 0, "There was no ticket.", "good"),
    ],
)
def test_the_headline_speaks_of_open_tickets_first(standing, closed, overdue, first, tone):
    document = open_tickets(standing, closed, overdue)
    assert document.verdict.startswith(first)
    assert document.tone == tone


ONE = re.compile(r"(?<![\d.,])1 (?!is\b|was\b|class\b|loss\b|process\b)[a-z]+s\b")


def test_one_of_anything_is_not_called_many():
    told, times = figures(1)
    told["certificates"]["issued"] = told["certificates"]["vacuous"] = told["batches"]["rolled_back"] = 1
    content, ledger = golden("convex")
    content["forget"] = {"records": 1, "subjects": 1}
    content["retain"], content["parameters"] = {"records": 1}, 1
    one = receipt()
    one["scan"] = {**one["scan"], "hits": 1, "searched": [{"kind": "git", "files": 1, "bytes": 1}]}
    for document in (
        compliance_document(told, times, ledger[:1]),
        certificate_document(content, ledger),
        receipt_document(one),
    ):
        text = re.sub(r"<[^>]+>", " ", render_page(document).split("</style>")[1])
        found = ONE.findall(" ".join(text.split()))
        assert found == []
        assert "(s)" not in text
    assert ONE.search("on 1 tickets")  # what this would find
    assert counted(1, "entry", "entries") == "1 entry"
