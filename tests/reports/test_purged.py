"""What became of "purge pending": as the ledger's purge entry proves it, and no more than that."""

import copy
import json
from pathlib import Path

from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.pdf import render_pdf
from expunge.reports.purged import DATA, fate, purge_of, since_issued

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-convex"
CERTIFICATE = json.loads((GOLDEN / "certificate.json").read_text())
ENTRIES = json.loads((GOLDEN / "ledger.json").read_text())
ENTRIES = ENTRIES["entries"] if isinstance(ENTRIES, dict) else ENTRIES
PENDING = [item for item in CERTIFICATE["coverage"] if item["status"] == "purge pending"]


def purge(batch=CERTIFICATE["batch"], **details):
    like = {
        **ENTRIES[-1],
        "kind": "purge",
        "batch": batch,
        "sequence": 7,
        "issued_at": "2026-03-02T10:00:00+00:00",
    }
    return {**like, "details": {"scan": {"clean": True}, **details}}


def upto_release():
    return [entry for entry in ENTRIES if entry["kind"] != "purge"]


def test_before_the_purge_it_is_pending():
    assert PENDING
    for entries in (
        upto_release(),
        [*upto_release(), purge(batch="b-000000000000")],
    ):  # another batch's proves nothing
        assert purge_of(CERTIFICATE, entries) is None
        assert since_issued(CERTIFICATE, entries).endswith("has no purge entry of this batch yet.")
        page = render_page(certificate_document(CERTIFICATE, entries))
        assert "then purged" not in page


def test_after_the_purge_page_and_view_say_when_and_by_which_entry():
    before, entries = copy.deepcopy(CERTIFICATE), [*upto_release(), purge()]
    page = render_page(certificate_document(CERTIFICATE, entries))
    assert page.count("then purged on 2026-03-02 (ledger entry 7)") == len(PENDING)
    assert "purge pending" in page  # as it was signed
    assert "stays as it was signed" in page
    assert before == CERTIFICATE
    assert render_pdf(certificate_document(CERTIFICATE, entries)).startswith(b"%PDF")


def test_no_more_is_said_than_the_entry_proves():
    data = {"artefact": f"{DATA} (cache)", "status": "purge pending", "reason": ""}
    kept = purge(kept=[{"what": "data object 1"}])
    assert fate(data, kept) == "purged in part on 2026-03-02 (ledger entry 7)"
    assert fate({**data, "artefact": "weights"}, kept) == "purged on 2026-03-02 (ledger entry 7)"
    assert "another dataset needs them: 1 object." in since_issued(
        {**CERTIFICATE, "coverage": [data]}, [kept]
    )
    assert fate(data, purge(scan={"clean": False})).endswith("; the search afterwards was not clean")
    assert fate({**data, "artefact": "export crm (a-0123456789ab)"}, purge()) is None  # the operator's word
    for status in ("covered", "purged", "not covered", "recomputed", "not present"):
        assert fate({**data, "status": status}, purge()) is None
        assert since_issued({**CERTIFICATE, "coverage": [{**data, "status": status}]}, [purge()]) is None
