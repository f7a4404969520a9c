"""The compliance report's figures, on a real workspace whose tickets are known."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.main import invoke
from expunge.errors import InputError
from expunge.state import open_state
from expunge.tickets.period import OTHER, kind_of
from expunge.tickets.tables import BatchRow, TicketEventRow, TicketRow
from tasks.compliance import collect, days, quarter
from tests.workspaces import make

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-convex"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
START = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def root(tmp_path, monkeypatch):
    made = make(tmp_path)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(made))
    return made


def file(session, name, received, *steps, regime="gdpr", due=None):
    """A ticket with steps ``(days after receipt, state, reason)``."""
    at = [(received, "received", ""), *((received + timedelta(days=d), s, r) for d, s, r in steps)]
    ends = [moment for moment, state, _ in at if state in ("closed", "rejected", "withdrawn")]
    session.add(
        TicketRow(
            ticket_id=name, subject_id=None, pseudonym=f"p1-{name}", state=at[-1][1], regime=regime,
            received_at=received, due_at=due or received + timedelta(days=31), closed_at=ends[-1] if ends else None,
        )
    )  # fmt: skip
    session.flush()
    source = None
    for moment, state, reason in at:
        session.add(TicketEventRow(ticket_id=name, at=moment, source=source, target=state, reason=reason))
        source = state


def test_every_ticket_is_counted_where_it_belongs(root):
    state = open_state(root)
    with state.database.transaction() as session:
        file(session, "t-1", START, (10, "closed", ""))
        file(session, "t-2", START + timedelta(days=1), (20, "closed", ""), regime="ccpa")
        file(session, "t-3", START - timedelta(days=20), (40.5, "closed", ""))  # late, received before
        file(session, "t-4", START - timedelta(days=50), (40, "closed", ""))  # closed before: counts nowhere
        file(session, "t-5", START, (3, "rejected", "Litigation with Ann of Kent Street"))
        file(session, "t-6", START, (3, "withdrawn", "Ann rang"))
        file(
            session, "t-7", START, (5, "on_hold", "a claim"), (100, "verified", "released")
        )  # on hold at the end
        file(session, "t-8", START + timedelta(days=30), (1, "verified", ""))  # overdue at the end
        file(
            session, "t-9", START + timedelta(days=80), (1, "verified", ""), (2, "verified", "extended: many")
        )
        file(session, "t-a", START + timedelta(days=93), (1, "closed", ""))  # received after the quarter
        file(session, "t-b", START + timedelta(days=85), (20, "closed", ""))  # closed after it
        undone = {"certificate_id": "c-1", "version": 2, "at": "2026-08-01T00:00:00+00:00"}
        data = {"refusals": [{"mechanism": "newton", "reason": "Ann"}], "rolled_back": [undone]}
        session.add(BatchRow(batch_id="b-1", stage="closed", created_at=START, draws=3, data=data))
        session.add(BatchRow(batch_id="b-2", stage="closed", created_at=NOW, draws=5, data={}))
    found = collect(state, quarter("2026Q3"), NOW)
    tickets = found.figures["tickets"]
    assert tickets["received"] == {"gdpr": 7, "ccpa": 1}
    assert tickets["open_at_start"] == {"gdpr": 1, "ccpa": 0}
    assert tickets["open_at_end"] == {"gdpr": 4, "ccpa": 0}
    assert {s: n for s, n in tickets["states"].items() if n} == {
        "closed": 3, "rejected": 1, "withdrawn": 1, "on_hold": 1, "verified": 2, "received": 1,
    }  # fmt: skip
    assert (tickets["overdue_at_end"], tickets["on_hold_at_end"]) == (1, 1)
    assert (tickets["holds"], tickets["extensions"]) == (1, 1)
    gdpr = found.figures["closed"]["gdpr"]
    assert (gdpr["closed"], gdpr["in_time"], gdpr["late"]) == (2, 1, 1)
    assert gdpr["late_by"] == {"up to 7 days": 0, "8 to 30 days": 1, "more than 30 days": 0}
    assert (gdpr["median_days"], gdpr["percentile_95_days"]) == (25.25, 40.5)
    assert found.figures["closed"]["ccpa"]["median_days"] == 20
    assert [round(took, 1) for _, took, _ in found.times] == [40.5, 10.0, 20.0]
    refused = found.figures["refused_requests"]
    assert refused == {"rejected": {"legal claims": 1}, "withdrawn": {OTHER: 1}}
    assert found.figures["batches"] == {
        "opened": 1, "noise_draws": 3, "rolled_back": 1, "mechanisms_refused": {"newton": 1},
    }  # fmt: skip
    said = json.dumps(found.figures)
    assert "Ann" not in said
    assert "p1-" not in said
    assert "t-1" not in said


def test_certificates_and_ledger_of_the_period(root):
    golden = json.loads((GOLDEN / "certificate.json").read_text())
    state = open_state(root)
    exception = {
        "artefact": "export crm (a-0123456789ab)",
        "status": "not covered",
        "reason": "exception: audit",
    }
    for number, (issued, epsilon, vacuous) in enumerate(
        [("2026-07-02", 0.05, False), ("2026-09-30", 9e6, True), ("2026-10-01", 0.2, False)]
    ):
        folder = state.workspace.evidence_dir / f"c-{number}"
        folder.mkdir(parents=True)
        content = golden | {
            "certificate_id": f"c-{number}",
            "issued_at": f"{issued}T00:00:00+00:00",
            "epsilon": epsilon,
            "vacuous": vacuous,
            "coverage": [*golden["coverage"], exception],
        }
        (folder / "certificate.json").write_text(json.dumps(content))
    state.ledger.append(state.lineage, kind="opening", issued_at="2026-07-01T00:00:00+00:00")
    state.ledger.append(state.lineage, kind="purge", issued_at="2026-10-02T00:00:00+00:00", batch="b-1")
    found = collect(state, quarter("2026Q3"), NOW)
    certificates = found.figures["certificates"]
    assert (certificates["issued"], certificates["vacuous"], certificates["undone"]) == (2, 1, 0)
    assert certificates["records_forgotten"] == 2 * golden["forget"]["records"]
    assert certificates["epsilon"]["largest"] == 9e6
    bins = certificates["epsilon"]["certificates_by_epsilon"]
    assert {name: n for name, n in bins.items() if n} == {"0.01 to 0.05": 1, "above 10": 1}
    assert certificates["exceptions"] == [
        {"artefact": exception["artefact"], "reason": "audit", "certificates": 2}
    ]
    assert exception["artefact"] not in certificates["not_covered"]
    ledger = found.figures["ledger"]
    assert (ledger["entries"], ledger["entries_in_period"]) == (1, {"opening": 1})
    assert ledger["holds"]
    assert len(found.entries) == 1


def test_ten_thousand_tickets_fit_and_are_told(root, tmp_path, capsys):
    state, number = open_state(root), 10_000
    with state.database.transaction() as session:
        for n in range(number):
            session.add(
                TicketRow(ticket_id=f"t-{n:06}", pseudonym="p1-x", state="closed", regime="gdpr", received_at=START,
                          due_at=START + timedelta(days=31), closed_at=START + timedelta(days=9))
            )  # fmt: skip
        session.flush()
        for n in range(number):
            for at, target in ((0, "received"), (9, "closed")):
                session.add(
                    TicketEventRow(ticket_id=f"t-{n:06}", at=START + timedelta(days=at), target=target)
                )
    tracemalloc.start()
    found = collect(state, quarter("2026Q3"), NOW)
    assert tracemalloc.get_traced_memory()[1] < 30e6  # of which times are two thirds at most
    tracemalloc.stop()
    assert found.figures["closed"]["gdpr"]["in_time"] == number
    page, pdf = tmp_path / "r.html", tmp_path / "r.pdf"
    assert invoke(["report", "--quarter", "2026Q3", "--html", str(page), "--pdf", str(pdf), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["closed"]["gdpr"]["closed"] == number
    assert "reading tickets" in said.err
    assert "All 10,000 closed requests were in time" in page.read_text()
    assert pdf.read_bytes().startswith(b"%PDF")


def test_an_empty_quarter_is_reported(root, capsys):
    assert invoke(["report", "--from", "2026-01-01", "--to", "2026-01-31"]) == 0
    assert "No request was closed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        ["--quarter", "2026Q5"],
        ["--quarter", "Q3"],
        ["--quarter", "9999Q1"],
        ["--from", "2026-01-01"],
        ["--from", "2026-01-01", "--to", "2025-01-01"],
        ["--from", "x", "--to", "2025-01-01"],
        ["--from", "2026-01-01", "--to", "2026-02-01", "--quarter", "2026Q1"],
    ],
)
def test_a_period_that_is_none_is_refused(given, capsys):
    assert invoke(["report", *given]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_and_nothing_is_left(root, tmp_path, capsys):
    page = tmp_path / "r.html"
    for wrong in (tmp_path / "absent" / "r.pdf", tmp_path):
        code = invoke(["report", "--quarter", "2026Q1", "--html", str(page), "--pdf", str(wrong)])
        assert code == 2
        assert "cannot be written" in capsys.readouterr().err
        assert not page.exists()
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".part")]


def test_periods():
    assert quarter("2026q1").end == datetime(2026, 4, 1, tzinfo=UTC)
    assert quarter("2026Q4").end == datetime(2027, 1, 1, tzinfo=UTC)
    assert days("2026-01-31", "2026-01-31").end == datetime(2026, 2, 1, tzinfo=UTC)
    with pytest.raises(InputError):
        days("2026-02-30", "2026-03-01")
    assert kind_of("We could not verify the identity") == "identity not established"
    assert kind_of("") == OTHER
