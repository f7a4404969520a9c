"""`expunge status`: what waits, what is at work, how the last runs ended."""

import json
import socket
import time

import pytest
from prefect import flow

from cli.activity import print_activity, read_activity
from cli.main import invoke
from expunge.state import open_state
from expunge.tickets.batches import BatchStage
from tasks.adapters.prefect_api import last_run
from tasks.leases import lineage_lease, unlearning_lease
from tests.cli.http_clients import make_root


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return open_state(make_root(tmp_path_factory.mktemp("status")))


def said(activity, capsys) -> str:
    print_activity(activity)
    return " ".join(capsys.readouterr().out.split())


def test_queue_and_who_is_at_work(state, capsys):
    idle = read_activity(state, None)
    assert idle["at_work"] == []
    assert idle["queue"] == {"waiting": 0, "on_hold": 0, "due_within_7d": 0, "batches": {}}
    assert "At work: nothing" in said(idle, capsys)
    tickets = [state.tickets.submit(f"person-0000{n}-x").ticket.ticket_id for n in range(5)]
    state.tickets.hold(tickets[0], "legal claim")
    failed = state.batches.open_batch(tickets[1:2]).batch_id
    state.batches.fail(failed, "no")
    with lineage_lease(state):
        assert "between batches" in said(read_activity(state, None), capsys)
        batch = state.batches.open_batch(tickets[2:4]).batch_id
        state.batches.advance(batch, BatchStage.REMOVED)
        with unlearning_lease(state, batch):
            activity = read_activity(state, None)
    assert activity["queue"]["waiting"] == 1
    assert activity["queue"]["on_hold"] == 1
    assert activity["queue"]["batches"] == {"failed": 1, "removed": 1}
    assert [(w["work"], w["batch_id"], w["stage"], w["tickets"]) for w in activity["at_work"]] == [
        ("batches", batch, "removed", 2),
        ("unlearning", batch, "removed", 2),
    ]
    assert all(0 <= work["heartbeat_age_s"] < 60 for work in activity["at_work"])
    text = said(activity, capsys)
    assert f"batch {batch} of 2 tickets, removed;" in text
    assert f"batch {batch} of 2 tickets is unlearned;" in text
    assert "Last sweep: unknown" in text
    assert "100 releases" in text
    assert read_activity(state, None)["at_work"] == []
    dead = f"{socket.gethostname()}:999999999:1"
    state.batches.acquire_lease(state.lineage, dead, 60)
    assert read_activity(state, None)["at_work"] == []
    state.batches.release_lease(state.lineage, dead)


def test_the_last_runs_as_prefect_has_them(state, prefect_api, monkeypatch, capsys):
    name = f"t{time.time_ns()}"

    @flow(name=name, persist_result=False)
    def watched(fail: bool) -> None:
        if fail:
            raise ValueError("it does not hold")

    assert last_run(prefect_api, name) is None
    watched(False)
    assert last_run(prefect_api, name)["outcome"] == "completed"
    with pytest.raises(ValueError, match="does not hold"):
        watched(True)
    monkeypatch.setattr("cli.activity._WATCHED", (name, "none-such"))
    runs = read_activity(state, prefect_api)["last_runs"]
    assert runs[name]["outcome"] == "failed"
    assert "it does not hold" in runs[name]["message"]
    assert runs["none-such"]["outcome"] == "none"
    text = said(read_activity(state, prefect_api), capsys)
    assert f"Last {name}: failed at 20" in text
    assert "Last none-such: none" in text
    assert read_activity(state, "http://127.0.0.1:9/api")["last_runs"][name]["outcome"] == "unknown"


def test_status_prints_one_document(state, monkeypatch, capsys):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    root = str(state.workspace.root)
    assert invoke(["status", "--json", "--workspace", root]) == 3  # nothing runs
    assert {"queue", "at_work", "last_runs", "ledger_left"} <= set(json.loads(capsys.readouterr().out))
    assert invoke(["status", "--workspace", root]) == 3
    assert "Queue: " in capsys.readouterr().out
