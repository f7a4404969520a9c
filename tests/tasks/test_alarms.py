"""Alarms reach a real HTTP server; what it does not take is told again."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

import tasks.alarms as alarms_module
from cli.main import invoke
from expunge.state import open_state
from tests.conftest import Expunge, make_clinic

PERSON = "person-00003-x"


@pytest.fixture
def webhook():
    taken, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = answers.pop(0) if answers else 200
            if status == 200:
                taken.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", taken, answers
    server.shutdown()


def test_alarms_are_told_until_they_were_heard(tmp_path, monkeypatch, webhook):
    url, taken, answers = webhook
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    policy = yaml.safe_load((root / "policy.yaml").read_text())
    policy["alarms"]["webhook"] = url
    (root / "policy.yaml").write_text(yaml.safe_dump(policy))
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    events, lines = [], []
    monkeypatch.setattr(alarms_module, "emit_event", lambda **event: events.append(event))
    monkeypatch.setattr(alarms_module, "log", lambda *said, **fields: lines.append([said, fields]))
    state = open_state(root)
    received = datetime.now(UTC) - timedelta(days=40)
    ticket = state.tickets.submit(PERSON, received_at=received).ticket

    answers += [503, 500, 503]  # all three tries
    assert alarms_module.raise_alarms.fn() == 0
    assert taken == []
    answers += [503]  # the second try is taken
    assert alarms_module.raise_alarms.fn() == 1
    assert alarms_module.raise_alarms.fn() == 0
    assert [(t["ticket_id"], t["level"]) for t in taken] == [(ticket.ticket_id, "overdue")]
    assert events[0]["resource"] == {"prefect.resource.id": f"expunge.ticket.{ticket.ticket_id}"}
    assert PERSON not in json.dumps([taken, events, lines])
    assert {"ticket_id": ticket.ticket_id, "alarm": "overdue"} in [fields for _, fields in lines]

    expunge = Expunge(root)
    assert expunge("ticket", "extend", ticket.ticket_id, "--reason", "late") == 2
    fresh = state.tickets.submit("person-00004-x").ticket
    assert expunge("ticket", "extend", fresh.ticket_id, "--reason", "many requests") == 0
    assert state.tickets.get(fresh.ticket_id).due_at > fresh.due_at + timedelta(days=58)
