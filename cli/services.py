"""The services of the stack: what they are, where they listen, whether they are well."""

import os
import shlex
import socket
import string
import sys
from pathlib import Path
from typing import Any

from expunge.errors import InputError, ServiceUnavailableError
from expunge.logs import log_format
from expunge.settings import Workspace, template
from tasks.adapters import prefect_access
from tasks.adapters.mlflow_accounts import Accounts, allowed_hosts, with_accounts
from tasks.adapters.prefect_api import api
from tasks.adapters.prefect_server import QUIET
from tasks.adapters.supervisor import Service, alive, answers, is_up, read_table

PORTS = {"prefect": 4200, "mlflow": 5000, "intake": 8080}
POOLS = ("cpu", "gpu")
# A ticket is looked for within seconds; a server that was killed still knows whose slots are taken when it is back.
_PREFECT = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
_MODULES = {"prefect": "prefect", "mlflow": "mlflow", "expunge": "cli.main"}


def environment(workspace: Workspace, accounts: Accounts | None = None) -> dict[str, str]:
    """Environment of every service, and so of every run on the workers; what is set already stays.

    Args:
        workspace: Whose stack.
        accounts: Of its MLflow server, if that is to ask who one is.

    Returns:
        Variables.

    Raises:
        InputError: If accounts are wanted of a server that runs elsewhere.
    """
    if accounts is not None and os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            "--auth is for the stack's own MLflow server",
            expected="MLFLOW_TRACKING_URI not to be set",
            got="a server that runs elsewhere",
            remedy="give that server accounts (docs/runbook.md), and set MLFLOW_TRACKING_USERNAME and _PASSWORD here",
        )
    own = dict(os.environ)
    home = str(Path(__file__).resolve().parents[1])
    for name, value in (QUIET | _PREFECT).items():
        own.setdefault(name, value)
    own.setdefault("EXPUNGE_HOST", "127.0.0.1")
    for name, port in PORTS.items():
        own.setdefault(f"EXPUNGE_{name.upper()}_PORT", str(port))
    host = own["EXPUNGE_HOST"] if own["EXPUNGE_HOST"] != "0.0.0.0" else "127.0.0.1"
    own.setdefault("PREFECT_HOME", str(workspace.prefect_home))
    if not own.get("PREFECT_API_URL"):  # else that server has its own secret, which the variables name
        listening = own["EXPUNGE_PREFECT_PORT"]
        own["PREFECT_API_URL"] = f"http://{host}:{listening}/api"
        own[prefect_access.SERVER] = own[prefect_access.CLIENT] = prefect_access.prepare(workspace)
        own.setdefault(prefect_access.ORIGINS, prefect_access.origins(host, listening))
    own.setdefault("EXPUNGE_GPU_POOL", "gpu")
    own["EXPUNGE_LOG_FORMAT"] = log_format("json")
    if not own.get("MLFLOW_TRACKING_URI"):  # our own server shows the database that the tasks write to
        own["MLFLOW_BACKEND_STORE_URI"] = workspace.tracking_uri
        own.setdefault("MLFLOW_ARTIFACTS_DESTINATION", str(workspace.mlflow_artifacts))
        own.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", allowed_hosts(host, own["EXPUNGE_MLFLOW_PORT"]))
    if accounts is not None:
        own |= accounts.prepare()
    own |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "EXPUNGE_WORKSPACE": str(workspace.root),
        "EXPUNGE_HOME": home,
        "PYTHONPATH": os.pathsep.join(filter(None, [home, own.get("PYTHONPATH", "")])),
    }
    return own


def services(variables: dict[str, str], accounts: Accounts | None = None) -> list[Service]:
    """The Procfile's processes, less those that run elsewhere already.

    Args:
        variables: From :func:`environment`.
        accounts: Of the MLflow server, if it is to ask who one is.

    Returns:
        In the order of starting.
    """
    elsewhere = {
        "prefect": bool(os.environ.get("PREFECT_API_URL")),
        "mlflow": bool(os.environ.get("MLFLOW_TRACKING_URI")),
    }
    made = []
    for line in template("Procfile").splitlines():
        name, _, command = line.partition(":")
        if elsewhere.get(name):
            continue
        words = [string.Template(word).substitute(variables) for word in shlex.split(command)]
        if name == "mlflow" and accounts is not None:
            words = with_accounts(words)
        pool = name.removeprefix("worker-") if name.startswith("worker-") else ""
        made.append(
            Service(
                name,
                [sys.executable, "-m", _MODULES[words[0]], *words[1:]],
                after=f"{variables['PREFECT_API_URL']}/work_pools/{pool}" if pool else "",
            )
        )
    return made


def addresses(variables: dict[str, str], names: list[str]) -> dict[str, str]:
    """Addresses for people and for health checks.

    Args:
        variables: From :func:`environment`.
        names: Of the services that the stack runs.

    Returns:
        URL by service.
    """
    host = variables["EXPUNGE_HOST"].replace("0.0.0.0", "127.0.0.1")
    return {
        name: f"http://{host}:{variables[f'EXPUNGE_{name.upper()}_PORT']}" for name in PORTS if name in names
    }


def require_free_ports(variables: dict[str, str], names: list[str]) -> None:
    """Refuse to start where something listens already.

    Args:
        variables: From :func:`environment`.
        names: Of the services to start.

    Raises:
        InputError: If a port is not a number, or is taken.
    """
    for name in PORTS:
        variable = f"EXPUNGE_{name.upper()}_PORT"
        if name not in names:
            continue
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((variables["EXPUNGE_HOST"], int(variables[variable])))
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(
                f"the port of {name} cannot be used",
                expected="a free port",
                got=variables[variable],
                remedy=f"stop what listens there, or set {variable}",
            ) from error


def health(workspace: Workspace, url: str, urls: dict[str, str]) -> list[dict[str, Any]]:
    """Health of each service: its process, its HTTP answer, its pool and workers.

    Args:
        workspace: Whose stack.
        url: The Prefect API's URL.
        urls: From :func:`addresses`.

    Returns:
        ``{service, up, detail}``.
    """
    paths = {"prefect": "/api/health", "mlflow": "/health", "intake": "/v1/health"}
    processes = read_table(workspace.stack_dir).get("processes", {}) if is_up(workspace.stack_dir) else {}
    found = []
    for name, facts in processes.items():
        running, detail = alive(facts), f"{facts['restarts']} restarts"
        if running and name in urls and not answers(urls[name] + paths[name]):
            running, detail = False, f"{urls[name]} does not answer"
        elif running and name.startswith("worker-"):
            running, detail = _pool(url, name.removeprefix("worker-"))
        found.append({"service": name, "up": running, "detail": detail})
    if "prefect" not in processes:
        found.insert(0, {"service": "prefect", "up": answers(f"{url}/health"), "detail": url})
    return found


def _pool(url: str, pool: str) -> tuple[bool, str]:
    try:
        status = api(url, f"/work_pools/{pool}")["status"]
        workers = api(url, f"/work_pools/{pool}/workers/filter", {})
    except ServiceUnavailableError as error:
        return False, str(error)
    online = sum(worker["status"] == "ONLINE" for worker in workers)
    return online > 0 and status == "READY", f"pool {status}, {online} workers online"
