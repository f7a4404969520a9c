"""Slow clients, queries that nobody understands and bodies that say two things."""

import http.client
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.http.patience import Sparingly
from tests.cli.http_clients import make_intake, make_root

ROOT = Path(__file__).parents[2]
HALF = b"POST /v1/tickets HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"
SERVER = """
import sys
from cli.http import patience
patience.REQUEST_S = patience.PatientProtocol.request_s = float(sys.argv.pop(1))
from cli.main import main
main()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("patience"))


@pytest.fixture
def server(root, tmp_path):
    """Starts `expunge serve` with a deadline and few files; its port and log."""
    started = []

    def start(request_s: float, files: int) -> tuple[int, Path]:
        log = tmp_path / "log"
        command = [
            sys.executable,
            "-c",
            SERVER,
            str(request_s),
            "serve",
            "--port",
            "0",
            "--workspace",
            str(root),
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment["PYTHONPATH"] = str(ROOT)
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
            )
        started.append(process)
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)[\n\"]", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        return int(found[1]), log

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait()


def health(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v1/health")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(10) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_more_half_open_connections_than_files_stop_nobody_and_fill_no_log(server):
    port, log = server(600.0, 400)
    half_open = []
    for _ in range(500):
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        half_open.append(connection)
        try:
            connection.sendall(HALF)
        except OSError:  # the server closed the slowest, which may be this one by now
            continue
    assert health(port) == 200
    until = time.monotonic() + 60  # a busy machine tells of closed connections late
    while sum(map(is_closed, half_open)) < 300:  # 400 files leave room for 144 connections
        assert time.monotonic() < until
        time.sleep(1)
    for connection in half_open:
        connection.close()
    assert health(port) == 200
    text = log.read_text()
    assert text.count("the slowest is closed") == 1
    assert "Too many open files" not in text
    assert len(text) < 20_000


@pytest.mark.parametrize("sent", [b"", HALF, HALF + b"Content-Length: 5\r\n\r\nab"])
def test_a_request_that_does_not_become_whole_is_closed(server, sent):
    port, _ = server(1.0, 1024)
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    began = time.monotonic()
    trickling = sent and not sent.endswith(b"ab")
    while not is_closed(connection):
        assert time.monotonic() - began < 20
        if trickling:  # a byte now and then wins no time
            try:
                connection.sendall(b"X-B: c\r\n")
            except OSError:
                break
        time.sleep(0.1)
    assert health(port) == 200


def test_a_kept_connection_has_a_deadline_for_each_request(server):
    port, _ = server(1.5, 1024)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(4):  # 2 seconds in all, each request at once
        connection.request("GET", "/v1/health")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"status": "ok"})
        time.sleep(0.5)
    connection.sock.sendall(b"GET /v1/health HTTP/1.1\r\n")
    connection.sock.settimeout(20)
    assert connection.sock.recv(10) == b""


def test_a_message_that_strangers_cause_is_logged_once_a_minute_with_its_count(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    sparingly, passed = Sparingly(60.0), []
    for second in (0, 1, 59, 60, 61):
        now = 1000.0 + second
        record = logging.LogRecord("x", logging.WARNING, "", 0, "more than %d", (5,), None)
        if sparingly.filter(record):
            passed.append(record.getMessage())
    assert passed == ["more than 5", "more than 5 (2 more of these since)"]


def test_unknown_and_repeated_parameters_of_a_query_are_refused(root):
    intake = make_intake(root)
    with intake.client:
        for path in (
            "/v1/tickets?subject=60",
            "/v1/tickets?sate=on_hold",
            "/v1/tickets?state=nowhere",
            "/v1/tickets?limit=1&limit=2",
            "/v1/tickets/t-000000000000?full=1",
            "/v1/health?deep=1",
        ):
            answer = intake.get(path)
            assert answer.status_code == 422, path
            assert "60" not in answer.text
            assert "sate" not in answer.text


def test_tickets_by_state_and_by_person(root):
    intake = make_intake(root)
    with intake.client:
        first = intake.post("person-00001-x", "state 1").json()
        second = intake.post("person-00002-x", "state 2").json()
        intake.state.tickets.hold(second["ticket_id"], "legal claim")
        held = intake.get("/v1/tickets?state=on_hold").json()
        assert [ticket["ticket_id"] for ticket in held] == [second["ticket_id"]]
        page = intake.get("/v1/tickets?state=verified&limit=1")
        assert [ticket["ticket_id"] for ticket in page.json()] == [first["ticket_id"]]

        def search(subject: str, role: str = "officer"):
            body = {"subject": subject}
            return intake.client.post("/v1/tickets/search", json=body, headers=intake.auth(role))

        assert [t["ticket_id"] for t in search("person-00001-x").json()] == [first["ticket_id"]]
        assert search("person-00009-x").json() == []
        assert search("person-00001-x", "intake").status_code == 403
        assert search("person-00001-x", "auditor").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        '{"subject": "person-00001-x", "subject": "person-00003-x"}',
        '{"regime": "gdpr", "subject": "person-00001-x", "regime": "ccpa"}',
        '{"subject": "person-00001-x", "a": {"b": 1, "b": 2}}',
        '{"subject": "person-00001-x", "s\\u0075bject": "person-00003-x"}',
    ],
)
def test_a_body_that_repeats_a_key_files_nothing(root, body):
    intake = make_intake(root)
    with intake.client:
        before = len(intake.get("/v1/tickets").json())
        headers = {**intake.auth("intake", "repeated"), "Content-Type": "application/json"}
        answer = intake.client.post("/v1/tickets", content=body, headers=headers)
        assert answer.status_code == 422
        assert "repeated" in answer.json()["detail"]
        assert "person" not in answer.text
        assert len(intake.get("/v1/tickets").json()) == before
