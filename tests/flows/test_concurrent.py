"""Runs at the same time: of one model, one works and the other yields; two models do not wait for each other."""

import threading
import time

from tests.conftest import make_workspace
from tests.flows.killer import run


class Running:
    """`expunge run` on a workspace, in a process of its own."""

    def __init__(self, root) -> None:
        self.code = None
        self._thread = threading.Thread(target=self._run, args=(root,))
        self._thread.start()

    def _run(self, root) -> None:
        self.code = run(root)

    def ended(self) -> int:
        self._thread.join()
        return self.code


def at_work(*workspaces) -> bool:
    states = [workspace.state() for workspace in workspaces]
    return all(state.batches.lease_held(state.lineage) for state in states)


def until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_one_model_is_left_to_one_run_and_two_models_are_done_together(tmp_path, prefect_api, capfd):
    clinic = make_workspace(tmp_path / "first", tmp_path / "a")
    other = make_workspace(tmp_path / "second", tmp_path / "b")
    for workspace in (clinic, other):
        workspace.ticket("person-00011-x")

    first, second = Running(clinic.root), Running(other.root)
    until(lambda: at_work(clinic, other))  # neither waited for the other's end
    assert clinic("run") == 1  # in this process: its errors are captured, those of the fork server may not be
    assert "another run is at work on this model" in capfd.readouterr().err
    assert (first.ended(), second.ended()) == (0, 0)

    for workspace in (clinic, other):
        state, (batch,) = workspace.state(), workspace.batches()
        assert (batch.stage, batch.draws) == ("closed", 1)
        assert [entry.kind for entry in state.ledger.entries(state.lineage)] == [
            "opening",
            "policy",
            "alias",
            "release",
            "alias",
            "purge",
        ]
        assert not at_work(workspace)
