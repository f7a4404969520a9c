"""The stack as an operator uses it: up, a ticket, the sweep on a worker, status, down, nothing left."""

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
