"""The stack as an operator uses it: up, a ticket, the sweep on a worker, status, down, nothing left."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.stack.operator import Operator, of_workspace, wait


@pytest.mark.slow
def test_a_ticket_is_closed_by_the_sweep_on_a_worker(tmp_path):
    expunge = Operator(tmp_path / "workspace")
    expunge("init", str(expunge.root), "--dataset", "breast-cancer")
    expunge("train")
    try:
        started = expunge("up")
        assert {"prefect", "mlflow", "worker-cpu", "worker-gpu"} <= set(started["services"])
        ticket = expunge("ticket", "submit", "--subject", "7")["ticket_id"]
        expunge.sweep()
        wait(lambda: expunge("ticket", "show", ticket)["state"] == "closed", 240, "the sweep", every=1)
        health = expunge("status")
        assert health["healthy"]
        assert health["open_tickets"] == {}
        expunge("up", code=2)
    finally:
        expunge("down")
    assert of_workspace(expunge.root) == []
    assert expunge("down") == {"stopped": False}
    expunge("status", code=3)


@pytest.mark.slow
def test_a_service_manager_stops_all_with_sigterm_and_sees_when_the_supervisor_was_killed(tmp_path):
    expunge = Operator(tmp_path / "workspace")
    expunge("init", str(expunge.root), "--dataset", "breast-cancer")
    stack = expunge.root / ".expunge" / "stack"
    up = [sys.executable, "-m", "cli.main", "up", "--foreground"]
    try:
        for victim, code in (("up", 0), ("supervisor", 3)):
            with subprocess.Popen(
                up, cwd=expunge.root, env=expunge.env, stdout=subprocess.DEVNULL
            ) as process:
                try:
                    wait((stack / "stack.json").exists, 240, "the stack")
                    if victim == "up":
                        process.terminate()
                    else:
                        table = json.loads((stack / "processes.json").read_text())
                        os.kill(table["supervisor"]["pid"], signal.SIGKILL)
                    assert process.wait(60) == code
                finally:
                    process.kill()
            assert of_workspace(expunge.root) == []
    finally:
        expunge("down")
