"""The stack as an operator uses it: up, a ticket, the sweep on a worker, status, down, nothing left."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[str]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def of_workspace(root: Path) -> list[int]:
    """Processes that know this workspace."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("EXPUNGE_WORKSPACE") == str(root):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_ticket_is_closed_by_the_sweep_on_a_worker(tmp_path):
    root = tmp_path / "workspace"
    prefect, mlflow, intake = free_ports(3)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "EXPUNGE_", "MLFLOW_"))}
    env |= {
        "PYTHONPATH": str(CHECKOUT),
        "EXPUNGE_PREFECT_PORT": prefect,
        "EXPUNGE_MLFLOW_PORT": mlflow,
        "EXPUNGE_INTAKE_PORT": intake,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }

    def expunge(*arguments: str, code: int = 0) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments, "--json"],
            cwd=tmp_path if arguments[0] == "init" else root,
            env=env,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == code, done.stderr[-3000:]
        return json.loads(done.stdout)

    expunge("init", str(root), "--dataset", "breast-cancer")
    expunge("train")
    try:
        started = expunge("up")
        assert {"prefect", "mlflow", "worker-cpu", "worker-gpu"} <= set(started["services"])
        ticket = expunge("ticket", "submit", "--subject", "7")["ticket_id"]
        api = ["-m", "prefect", "deployment", "run", "sweep/sweep"]
        subprocess.run(
            [sys.executable, *api],
            env={**env, "PREFECT_API_URL": started["prefect_api"]},
            check=True,
            capture_output=True,
        )
        until = time.monotonic() + 240
        while (state := expunge("ticket", "show", ticket)["state"]) != "closed" and time.monotonic() < until:
            time.sleep(1)
        assert state == "closed"
        health = expunge("status")
        assert health["healthy"]
        assert health["open_tickets"] == {}
        expunge("up", code=2)
    finally:
        expunge("down")
    assert of_workspace(root) == []
    assert expunge("down") == {"stopped": False}
    expunge("status", code=3)
