"""Documents of every kind, also of extreme ones, for whatever looks at them."""

import copy
import functools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from expunge.reports.compliance import compliance_document
from expunge.reports.content import certificate_document
from expunge.reports.decision import make_decision
from expunge.reports.receipt import make_receipt, receipt_document

GOLDEN = Path(__file__).parents[1] / "golden"
KEYID = "5f" * 32


def golden(name):
    folder = GOLDEN / f"certificate-v1-{name}"
    return json.loads((folder / "certificate.json").read_text()), json.loads(
        (folder / "ledger.json").read_text()
    )


def vacuous():
    content, ledger = golden("convex")
    return copy.deepcopy(content) | {"vacuous": True, "epsilon": 8.0e6, "guarantee": "conditional"}, ledger


def long_ledger(ledger, number=200):
    entries = list(ledger)
    for sequence in range(len(entries), number):
        step = sequence % 60
        kind = "retraining" if step == 0 else "release"
        error = step * ledger[1]["error_bound"]
        entries.append(
            {**ledger[1], "sequence": sequence, "kind": kind, "accumulated_error": error,
             "certificate_id": f"c-{sequence}"}
        )  # fmt: skip
    return entries


def extreme():
    """Long names, large numbers, many rows, 50 pseudonyms."""
    content, ledger = vacuous()
    content["model"] = {**content["model"], "name": "expunge-" + "W" * 90}
    content["tickets"] = [f"p1-{number:032x}" for number in range(50)]
    content["forget"] = {"records": 123_456_789_012, "subjects": 50}
    content["retain"] = {"records": 10**15}
    content["epsilon"], content["parameters"] = 8.123456789e8, 10**12
    constant = {"value": -1.23456789e-300, "provenance": "assumed", "method": "because " * 60}
    content["constants"] += [{"name": "n" * 70 + str(number), **constant} for number in range(40)]
    content["coverage"] += [
        {"artefact": f"derived model {'x' * 90} ({number})", "status": "not covered", "reason": "why " * 90}
        for number in range(60)
    ]
    content["reference"] = "∑ε δ σ ≤ ≥ √ → 数据 " + "r" * 300
    entries = long_ledger(ledger)
    for entry in entries:
        entry["batch"] = "b-" + "0" * 12 if entry["kind"] == "purge" else entry["batch"]
    return content, entries


def receipt(backups=2, organisation=None, **changes):
    certificate, _ = golden("convex")
    certificate |= changes
    scan = {
        "clean": True,
        "hits": [],
        "searched": [{"kind": "git", "files": 3, "bytes": 99}],
        "notes": ["none"],
    }
    return make_receipt(
        {
            "ticket_id": "t-0123456789ab",
            "pseudonym": "p1-" + "a" * 32,
            "regime": "gdpr",
            "received_at": "2026-01-02T00:00:00+00:00",
            "due_at": "2026-02-02T00:00:00+00:00",
            "closed_at": "2026-01-08T00:00:00+00:00",
            "batch_id": "b-0123456789ab",
        },
        [{"at": "2026-01-06T00:00:00+00:00", "from": "scheduled", "to": "removed", "reason": ""}],
        certificate,
        {"issued_at": "2026-01-07T00:00:00+00:00", "sequence": 7, "details": {"scan": scan}},
        [
            {"name": f"backup {n} {'y' * 60}", "holds": "dataset", "expires_days": 30 * n}
            for n in range(backups)
        ],
        organisation or {},
    )


def figures(tickets=0, late=0):
    """Figures of a period with so many closed tickets, and what is plotted of them."""
    start = datetime(2026, 7, 1, tzinfo=UTC)
    times = [
        (start + timedelta(hours=n % 2000), 40.0 if n < late else 1 + n % 28, 31.0) for n in range(tickets)
    ]
    closing = {
        "closed": tickets, "in_time": tickets - late, "late": late,
        "late_by": {"up to 7 days": 0, "8 to 30 days": late, "more than 30 days": 0},
        "median_days": 12.25 if tickets else None, "percentile_95_days": 27.0 if tickets else None,
        "longest_days": 40.0 if tickets else None,
    }  # fmt: skip
    none = {
        "closed": 0, "in_time": 0, "late": 0, "late_by": {}, "median_days": None, "percentile_95_days": None,
        "longest_days": None,
    }  # fmt: skip
    certificates = min(tickets, 7)
    return {
        "lineage": "expunge-" + "W" * 80 if tickets > 1 else "expunge-clinic",
        "period": {"label": "2026 Q3", "from": "2026-07-01", "to": "2026-10-01", "as_of": "2026-10-01",
                   "complete": True},
        "tickets": {
            "received": {"gdpr": tickets, "ccpa": 0}, "open_at_start": {"gdpr": 0, "ccpa": 0},
            "open_at_end": {"gdpr": 1 if late else 0, "ccpa": 0},
            "states": {"closed": tickets, "on_hold": 0, "verified": 1 if late else 0},
            "overdue_at_end": 1 if late else 0, "on_hold_at_end": 0, "holds": 2, "extensions": 1,
        },
        "closed": {"gdpr": closing, "ccpa": none},
        "refused_requests": {"rejected": {"legal claims": 3} if tickets else {}, "withdrawn": {}},
        "batches": {"opened": certificates, "noise_draws": 6, "rolled_back": 1 if late else 0,
                    "mechanisms_refused": {"newton": 2} if tickets else {}},
        "certificates": {
            "issued": certificates, "undone": 0, "vacuous": 0, "records_forgotten": tickets,
            "people_forgotten": tickets,
            "mechanisms": {"convex": certificates} if tickets else {},
            "guarantees": {"convex": certificates} if tickets else {},
            "epsilon": {"least": 0.05, "median": 0.05, "largest": 0.5,
                        "certificates_by_epsilon": {"0": 0, "0.01 to 0.05": 7}},
            "largest_delta": 1e-6, "coverage": {},
            "not_covered": {"timing and choice of mechanism": certificates} if tickets else {},
            "exceptions": [{"artefact": "export " + "z" * 80, "reason": "why " * 60, "certificates": n}
                           for n in range(60)]
            if tickets else [],
        },
        "versions": [
            {"version": n + 2, "epsilon": 0.05 * (1 + n % 3), "sigma": 0.01 if n % 7 else 0.0,
             "accuracy": 0.95 - n / 1000}
            for n in range(certificates)
        ],
        "ledger": {
            "entries": 2, "entries_in_period": {"release": 1}, "head": "sha256:" + "0" * 64,
            "releases_since_exact_training": 1, "accumulated_error": 1.4e-4,
            "limits": {"accumulated_error": 0.01, "composed_epsilon": 1.0, "releases": 100},
            "holds": True, "findings": [],
        },
    }, times  # fmt: skip


@functools.cache
def every():
    """Documents by name."""
    entries = golden("convex")[1]
    return {
        "convex": certificate_document(*golden("convex"), signed_by=KEYID),
        "exact": certificate_document(*golden("exact")),
        "vacuous": certificate_document(*vacuous()),
        "rolled-back": certificate_document(*golden("convex"), rolled_back=True),
        "extreme": certificate_document(*extreme()),
        "receipt": receipt_document(receipt(), KEYID),
        "receipt-vacuous": receipt_document(receipt(0, vacuous=True, epsilon=1e6)),
        "report": compliance_document(*figures(3), entries),
        "report-late": compliance_document(*figures(10_000, late=40), long_ledger(entries)),
        "report-empty": compliance_document(*figures(), []),
    }


def of_decision(**organisation):
    """The receipt of a ticket that was rejected."""
    ticket = {
        "ticket_id": "t-0123456789ab",
        "pseudonym": "p1-" + "a" * 32,
        "regime": "gdpr",
        "state": "rejected",
        "received_at": "2026-01-02T00:00:00+00:00",
        "due_at": "2026-02-02T00:00:00+00:00",
        "closed_at": "2026-01-08T00:00:00+00:00",
    }
    history = [
        {"at": "2026-01-08T00:00:00+00:00", "from": "received", "to": "rejected", "reason": "not established"}
    ]
    return receipt_document(make_decision(ticket, history, organisation))
