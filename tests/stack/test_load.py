"""Twenty clients file a hundred tickets at once, everything on PostgreSQL: none is lost, none is doubled."""

import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

from tests.cli.http_clients import together
from tests.stack.operator import Operator, databases, wait

CLIENTS, TICKETS = 20, 100
WAVES, PAUSE_S = 3, 25.0  # so that one batch is at work while others are asked for


def file(url: str, token: str, person: int, key: str) -> tuple[str, datetime]:
    """File one ticket as a portal does, again until it is answered; its id, and when the answer came."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    body = json.dumps({"subject": str(person)}).encode()
    for _ in range(30):
        try:
            request = urllib.request.Request(f"{url}/v1/tickets", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 202
                return json.load(answer)["ticket_id"], datetime.now(UTC)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(0.5)  # busy: the same request again
    raise AssertionError("no answer")


def first_line(expunge: Operator, flow_run: str) -> datetime:
    """When a run wrote its first line."""
    body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "limit": 1}
    return datetime.fromisoformat(expunge.prefect("/logs/filter", body)[0]["timestamp"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_tickets_of_twenty_clients(tmp_path, postgres, record_property):
    expunge = Operator(
        tmp_path / "workspace",
        **databases(postgres),
        EXPUNGE_HTTP_WRITES_PER_MINUTE="100000",
        PREFECT_WORKER_QUERY_SECONDS="10",  # Prefect's own default; the stack's is 2
    )
    expunge("init", str(expunge.root), "--dataset", "breast-cancer")
    expunge("train")
    token = expunge("token", "create", "--role", "intake", "--name", "portal")["token"]
    try:
        url = expunge("up")["urls"]["intake"]
        began = time.monotonic()
        asked, answers = [], []
        for wave in range(WAVES):
            time.sleep(PAUSE_S if wave else 0)
            people = range(wave, TICKETS, WAVES)
            # every request is repeated, and some people ask by a second key too
            more = [(person, f"mail-{person}") for person in people] * 2
            more += [(person, f"letter-{person}") for person in people if person % 4 == 0]
            work = [lambda person=person, key=key: file(url, token, person, key) for person, key in more]
            asked, answers = asked + more, answers + together(work, CLIENTS)
        filing = time.monotonic() - began
        of_person: dict[int, set[str]] = {}
        for (person, _), (ticket, _) in zip(asked, answers, strict=True):
            of_person.setdefault(person, set()).add(ticket)
        assert [len(tickets) for tickets in of_person.values()] == [1] * TICKETS
        tickets = {ticket for found in of_person.values() for ticket in found}
        assert len(tickets) == TICKETS

        batches = expunge.batches()
        wait(
            lambda: (
                {b.stage for b in batches.every()} == {"closed"}
                and sum(len(b.tickets) for b in batches.every()) == TICKETS
            ),
            900,
            "the sweeps",
            every=2,
        )
        closing = time.monotonic() - began
        done = batches.every()
        assert len(done) > 1
        assert sorted(ticket for batch in done for ticket in batch.tickets) == sorted(tickets)
        listed = expunge("ticket", "list")
        assert {t["ticket_id"] for t in listed} == tickets
        assert {t["state"] for t in listed} == {"closed"}

        entries = expunge("ledger", "show")
        releases = [entry["batch"] for entry in entries if entry["kind"] in ("release", "retraining")]
        registry = expunge.registry("expunge-breast-cancer")
        assert releases == [batch.batch_id for batch in done]
        assert [registry.find(batch).version for batch in releases] == list(range(2, 2 + len(releases)))
        assert registry.champion().version == 1 + len(releases)
        assert expunge("ledger", "verify")["verified"]
        assert expunge("status")["open_tickets"] == {}
        assert expunge("purge", "verify")["clean"]

        # the first ticket's event starts the first sweep: a second client's may have been first by a hair
        sweeps = [run for run in expunge.runs("COMPLETED") if run["name"] and run["start_time"]]
        latency = first_line(expunge, sweeps[0]["id"]) - min(at for _, at in answers)
        figures = {
            "requests": len(asked),
            "filing_s": round(filing, 1),
            "closing_s": round(closing, 1),
            "batches": [len(batch.tickets) for batch in done],
            "first_line_s": round(latency.total_seconds(), 1),
        }
        print(json.dumps(figures))
        for name, value in figures.items():
            record_property(name, value)
    finally:
        print(expunge.logs() if (expunge.root / ".expunge").exists() else "")
        expunge("down")
