"""The temporary Prefect server: nobody without its secret, and none is left behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from expunge.processes import process_name, started
from tasks.adapters.prefect_access import CLIENT
from tasks.adapters.temporary_server import end_orphans, record

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import os, sys, time
from pathlib import Path
from tasks.adapters.prefect_server import prefect_server
with prefect_server(Path(sys.argv[1])) as url:
    print(url, os.environ["PREFECT_API_AUTH_STRING"], flush=True)
    time.sleep(600)
"""
SLEEP = [sys.executable, "-c", f"import time; time.sleep(600)  # {secrets.token_hex(8)}"]
DEAD = f"{process_name().partition(':')[0]}:1:never"


def facts(home: Path) -> dict:
    (path,) = home.glob("temporary-server-*.json")
    return json.loads(path.read_text())


def owner(home: Path) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], env=env, cwd=home, stdout=subprocess.PIPE, text=True
    )


def gone(pid: int, patience_s: float = 20.0) -> bool:
    until = time.monotonic() + patience_s
    while started(pid) is not None and time.monotonic() < until:
        time.sleep(0.1)
    return started(pid) is None


@pytest.fixture
def sleeper():
    process = subprocess.Popen(SLEEP, start_new_session=True)
    while psutil.Process(process.pid).cmdline() != SLEEP:  # it is another program until it has begun
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def test_a_server_asks_who_one_is_and_a_killed_owners_server_is_ended(tmp_path):
    home = tmp_path / "w" / ".expunge" / "prefect"
    home.mkdir(parents=True)
    first = owner(home)
    url, secret = first.stdout.readline().split()
    server = facts(home)
    try:
        assert secret not in " ".join(server["command"])
        for login in (None, ("expunge", "guessed")):
            assert requests.post(f"{url}/deployments/", json={}, auth=login, timeout=30).status_code == 401
        known = tuple(secret.split(":", 1))
        assert requests.post(f"{url}/flows/count", json={}, auth=known, timeout=30).status_code == 200
        asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        told = requests.options(f"{url}/deployments/", headers=asking, timeout=30).headers
        assert "access-control-allow-origin" not in told
        assert end_orphans(home) == 0  # its owner lives
        assert started(server["pid"]) == server["started"]
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not gone(server["pid"], 1.0)
        second = owner(home)
        try:
            assert second.stdout.readline().split()[1] != secret  # each has its own
            assert gone(server["pid"])
            mine = facts(home)
            assert mine["pid"] != server["pid"]
            second.send_signal(signal.SIGINT)
            second.wait(180)
            assert gone(mine["pid"])
            assert not list(home.glob("temporary-server-*"))
        finally:
            second.kill()
    finally:
        first.kill()
        if started(server["pid"]) == server["started"]:
            os.killpg(server["pid"], signal.SIGKILL)


@pytest.mark.parametrize("with_id", [True, False])
def test_an_orphan_is_ended_also_when_its_owner_did_not_learn_its_id(tmp_path, sleeper, with_id):
    path = record(tmp_path, SLEEP, sleeper.pid if with_id else None)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"owner": DEAD}))
    assert path.stat().st_mode & 0o077 == 0
    assert end_orphans(tmp_path) == 1
    assert sleeper.wait(10) == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"owner": process_name()},
        {"started": "another+1.00"},
        {"command": ["prefect", "server"]},
        {"pid": 4194303},
    ],
)
def test_nobody_elses_process_is_ended(tmp_path, sleeper, other):
    path = record(tmp_path, SLEEP, sleeper.pid)
    path.write_text(json.dumps({**json.loads(path.read_text()), "owner": DEAD, **other}))
    assert end_orphans(tmp_path) == 0
    assert sleeper.poll() is None
    assert path.exists() == ("owner" in other)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"owner": 1}', '{"owner": "h:1:x", "command": 3, "pid": "x"}']
)
def test_a_damaged_record_ends_nothing(tmp_path, text):
    (tmp_path / "temporary-server-1.json").write_text(text)
    assert end_orphans(tmp_path) == 0
    assert not list(tmp_path.iterdir())


def test_the_environment_is_as_before(tmp_path, monkeypatch):
    from tasks.adapters.prefect_server import _pointing_to

    monkeypatch.setenv(CLIENT, "theirs:own")
    monkeypatch.setattr("tasks.adapters.prefect_server._drain", lambda: None)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with _pointing_to("http://127.0.0.1:1/api", "a:b"):
        assert os.environ[CLIENT] == "a:b"
    assert os.environ[CLIENT] == "theirs:own"
