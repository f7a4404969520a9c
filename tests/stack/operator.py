"""A workspace and its stack as an operator has them: the command line, Prefect's API, the databases of one server."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from expunge.database import Database, open_database
from expunge.settings import Workspace
from expunge.tickets.batches import BatchStore
from tasks.adapters.prefect_access import take_up
from tasks.adapters.prefect_api import api, start
from tasks.adapters.registry import Registry
from tests.tickets.conftest import Postgres

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


def wait(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.5) -> Any:
    """What the condition says once it is not false."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(every)
    return found


def databases(server: Postgres) -> dict[str, str]:
    """Variables that name a database of its own for the tickets, for Prefect and for MLflow, on one server."""
    names = [f"{kind}_{secrets.token_hex(4)}" for kind in ("tickets", "prefect", "mlflow")]
    for name in names:
        server.admin(f"CREATE DATABASE {name}")
    tickets, prefect, mlflow = map(server.url, names)
    return {
        "EXPUNGE_DATABASE_URL": tickets,
        "PREFECT_API_DATABASE_CONNECTION_URL": prefect.replace("+psycopg", "+asyncpg"),
        "MLFLOW_BACKEND_STORE_URI": mlflow,
    }


class Operator:
    """The command line, on one workspace and in one environment.

    Args:
        root: Of the workspace.
        **variables: Of the environment; nothing of ours, Prefect's or MLflow's is taken over from the tests'.
    """

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.said = ""  # standard output and error of all commands
        prefect, mlflow, self.intake_port = free_ports(3)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "EXPUNGE_", "MLFLOW_"))}
        self.env = {
            **kept,
            "PYTHONPATH": str(CHECKOUT),
            "EXPUNGE_PREFECT_PORT": prefect,
            "EXPUNGE_MLFLOW_PORT": mlflow,
            "EXPUNGE_INTAKE_PORT": self.intake_port,
            **variables,
        }
        self.prefect_api = f"http://127.0.0.1:{prefect}/api"

    def __call__(self, *arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments, "--json"],
            cwd=self.root.parent if arguments[0] == "init" else self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        self.said += done.stdout + done.stderr
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
        )
        return json.loads(done.stdout)

    def prefect(self, path: str, body: Any = None) -> Any:
        """Prefect's answer, to whoever may read the workspace."""
        take_up(Workspace(self.root))
        return api(self.prefect_api, path, body)

    def sweep(self) -> str:
        """Start one as an operator does; the run's id."""
        take_up(Workspace(self.root))
        return start(self.prefect_api, "sweep/sweep")

    def runs(self, *states: str) -> list[dict[str, Any]]:
        """Runs of the deployments, the oldest first: those in these types of state, or all."""
        chosen: dict[str, Any] = {"deployment_id": {"is_null_": False}}
        if states:
            chosen["state"] = {"type": {"any_": list(states)}}
        page, found = 200, []
        while True:
            body = {
                "flow_runs": chosen,
                "limit": page,
                "offset": len(found),
                "sort": "EXPECTED_START_TIME_ASC",
            }
            more = self.prefect("/flow_runs/filter", body)
            found += more
            if len(more) < page:
                return found

    def database(self) -> Database:
        return open_database(self.env["EXPUNGE_DATABASE_URL"])

    def batches(self) -> BatchStore:
        return BatchStore(self.database())

    def registry(self, name: str) -> Registry:
        return Registry(
            self.env["MLFLOW_BACKEND_STORE_URI"], self.root / ".expunge" / "mlflow" / "artifacts", name
        )

    def processes(self) -> dict[str, dict[str, Any]]:
        """The supervisor's table."""
        text = (self.root / ".expunge" / "stack" / "processes.json").read_text(encoding="utf-8")
        return dict(json.loads(text)["processes"])

    def logs(self) -> str:
        """The ends of all logs, for a test that failed."""
        files = sorted((self.root / ".expunge" / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-2500:]}" for file in files)
