"""The HTTP intake as a process of its own, and against a tool that tries everything its document allows."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cli.main import invoke
from tests.cli.http_clients import make_intake, make_root

ROOT = Path(__file__).parents[2]
PERSON = "person-00017-x"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("serve"))


def call(port: int, method: str, path: str, token: str, body=None, **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, given, encode_chunked=not isinstance(body, (str, type(None))))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.headers.items()}


@dataclass
class Server:
    """`expunge serve` at work."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return self.log.read_text()


@pytest.fixture
def serve(root, monkeypatch, tmp_path):
    """Starts servers; none outlives its test."""
    started: list[Server] = []

    def start(**environment: str) -> Server:
        env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
        env["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
        env.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--workspace", str(root)]
        log = tmp_path / "log"
        with log.open("w") as output:  # a pipe that nobody reads would fill up and stop the server
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=output, stdout=output)
        server = Server(process, log)
        started.append(server)
        until = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)[\n\"]", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        server.port = int(found[1])
        return server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def test_a_real_server(root, serve):
    token = make_intake(root).tokens["officer"]
    server = serve(EXPUNGE_HTTP_WRITES_PER_MINUTE="4")
    port = server.port
    body = json.dumps({"subject": PERSON, "regime": "ccpa"})
    status, text, headers = call(port, "POST", "/v1/tickets", token, body, Idempotency_Key=PERSON)
    assert status == 202
    assert "server" not in headers
    ticket = json.loads(text)["ticket_id"]
    again = call(port, "POST", "/v1/tickets", token, body, Idempotency_Key=PERSON)
    assert json.loads(again[1])["ticket_id"] == ticket
    # a filter that is not there is refused, and an id in it is not logged
    assert call(port, "GET", f"/v1/tickets?due=99d&subject={PERSON}", token)[0] == 422
    status, text, _ = call(port, "GET", "/v1/tickets?due=99d", token)
    assert [t["ticket_id"] for t in json.loads(text)] == [ticket]
    chunked = call(port, "POST", "/v1/tickets", token, iter([b"x" * 4096] * 5), Idempotency_Key="k")
    assert chunked[0] == 413
    assert call(port, "POST", "/v1/tickets", token, "{", Idempotency_Key="k")[0] == 422
    status, text, headers = call(port, "POST", "/v1/tickets", token, body, Idempotency_Key=PERSON)
    assert status == 429
    assert int(headers["retry-after"]) > 0
    assert call(port, "GET", "/v1/health", "")[0] == 200
    assert invoke(["serve", "--port", str(port), "--workspace", str(root)]) == 2  # the port is taken
    log = server.stop()
    assert "POST /v1/tickets 202" in log
    assert "GET /v1/tickets 200" in log
    for text in (PERSON, "due=", token, "Traceback"):
        assert text not in log


def test_log_lines_as_json(root, serve, monkeypatch):
    server = serve(EXPUNGE_LOG_FORMAT="json")
    token = make_intake(root).tokens["officer"]
    assert call(server.port, "GET", f"/v1/tickets/{PERSON}", token)[0] == 422
    assert call(server.port, "GET", f"/{PERSON}", "")[0] == 401
    listening, *lines = [json.loads(line) for line in server.stop().splitlines()]
    assert (listening["logger"], listening["level"]) == ("expunge.serve", "INFO")
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("GET", "/v1/tickets/{ticket_id}", 422),
        ("-", "-", 401),
    ]
    assert re.fullmatch(r"a-[0-9a-f]{12}", lines[0]["token_id"])
    assert datetime.fromisoformat(lines[0]["time"]).utcoffset() == timedelta(0)
    assert PERSON not in json.dumps(lines)
    monkeypatch.setenv("EXPUNGE_LOG_FORMAT", "xml")
    assert invoke(["serve", "--port", "0", "--workspace", str(root)]) == 2


@pytest.mark.slow
def test_everything_that_the_document_allows(root, serve, tmp_path):
    """No answer outside the document, no 5xx, no way round the token."""
    token = make_intake(root).tokens["officer"]
    server = serve(EXPUNGE_HTTP_WRITES_PER_MINUTE="1000000")
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = [
        f"http://127.0.0.1:{server.port}/v1/openapi.json",
        f"--header=Authorization: Bearer {token}",
        "--max-examples=40",
        # A person who is not in the dataset keeps the schema, and is refused all the same.
        "--exclude-checks=positive_data_acceptance",
    ]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
