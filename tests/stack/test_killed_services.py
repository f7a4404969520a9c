"""SIGKILL of each service in the middle of a batch, everything on PostgreSQL: it is continued, and ends as ever.

Nobody helps: what was killed is started again (by the supervisor, or by the test in the place of the system that runs
MLflow and PostgreSQL), and the stack has to notice by itself that a batch is left to do.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tasks.adapters.supervisor import answers
from tests.conftest import Expunge, make_clinic
from tests.flows.test_kill import check_end_state
from tests.stack.operator import Operator, databases, free_ports, wait
from tests.tickets.conftest import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PEOPLE = [f"person-{number:05d}-x" for number in (3, 8, 13, 18, 23, 28, 33, 38)]


class Mlflow:
    """A tracking server that runs elsewhere.

    Args:
        folder: Of its artifacts; it makes it when there is something to keep.
        store: Its database.
        log: Its log file.
    """

    def __init__(self, folder: Path, store: str, log: Path) -> None:
        self.folder, self.store, self.log = folder, store, log
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["server", "--host", "127.0.0.1", "--port", self.port, "--workers", "1"]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *command], stdout=log, stderr=log, start_new_session=True
            )
        wait(lambda: answers(f"{self.url}/health"), 120, "MLflow")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stack:
    """A running stack, and the people who were erased so far."""

    def __init__(self, expunge: Operator, mlflow: Mlflow, postgres: Postgres, before: Path) -> None:
        self.expunge, self.mlflow, self.postgres, self.before = expunge, mlflow, postgres, before
        self.people: list[str] = []

    def kill(self, victim: str) -> None:
        """Kill it with everything that it started."""
        if victim == "mlflow":
            self.mlflow.kill()
        elif victim == "postgres":
            main = int((self.postgres.data / "postmaster.pid").read_text().splitlines()[0])
            everyone = [psutil.Process(main), *psutil.Process(main).children(recursive=True)]
            for process in everyone:
                process.kill()
            psutil.wait_procs(everyone, timeout=10)
        elif victim == "sweep":  # the flow's process alone, under a worker that lives
            (run,) = self.expunge.runs("RUNNING")[:1]
            os.kill(int(run["infrastructure_pid"]), signal.SIGKILL)
        else:
            pid = self.expunge.processes()[victim]["pid"]
            for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def restore(self, victim: str) -> None:
        """What the system that runs it would do."""
        if victim == "mlflow":
            self.mlflow.start()
        elif victim == "postgres":
            self.postgres.start()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres):
    tmp = tmp_path_factory.mktemp("killed")
    root, variables = tmp / "workspace", databases(postgres)
    artifacts = root / ".expunge" / "mlflow" / "artifacts"
    mlflow = Mlflow(artifacts, variables["MLFLOW_BACKEND_STORE_URI"], tmp / "mlflow.log")
    mlflow.start()
    variables["MLFLOW_TRACKING_URI"] = mlflow.url
    variables["MLFLOW_ARTIFACTS_DESTINATION"] = str(artifacts)
    expunge = Operator(root, **variables)
    try:
        expunge("init", str(root), "--dataset", str(make_clinic(tmp / "clinic")))
        expunge("train")
        before = shutil.copytree(root / "data" / "dataset", tmp / "before")
        expunge("up")
        yield Stack(expunge, mlflow, postgres, before)
        print(expunge.logs())
    finally:
        expunge("down")
        mlflow.kill()


@pytest.mark.parametrize(
    ("victim", "stage"),
    [
        ("sweep", "removed"),
        ("worker-cpu", "planned"),
        ("worker-gpu", "removed"),
        ("prefect", "unlearned"),
        ("mlflow", "validated"),
        ("mlflow", "certified"),
        ("postgres", "planned"),
        ("postgres", "registered"),
    ],
)
def test_a_batch_survives(stack, victim, stage, record_property):
    person = PEOPLE[len(stack.people)]
    stack.people.append(person)
    ticket = stack.expunge("ticket", "submit", "--subject", person)["ticket_id"]
    stack.expunge.sweep()
    batches = stack.expunge.batches()
    wait(
        lambda: any(b.stage == stage and ticket in b.tickets for b in batches.unfinished()), 120, stage, 0.02
    )
    stack.kill(victim)
    began = time.monotonic()
    time.sleep(5)
    stack.restore(victim)

    def closed() -> bool:
        with suppress(Exception):
            return all(b.stage == "closed" for b in batches.every())
        return False

    wait(closed, 400, f"the batch after the death of {victim}", 1)
    taken = round(time.monotonic() - began, 1)
    print(f"KILLED {victim} at {stage}: closed {taken} s later")
    record_property("closed_after_s", taken)
    assert stack.expunge("ticket", "show", ticket)["state"] == "closed"
    assert stack.expunge("ledger", "verify")["verified"]


def test_the_end_state_is_that_of_an_undisturbed_run(stack, monkeypatch):
    for name, value in stack.expunge.env.items():
        monkeypatch.setenv(name, value)
    check_end_state(Expunge(stack.expunge.root), stack.people, stack.before)
