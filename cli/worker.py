"""The command that runs a worker of the stack."""

import os
import socket
import sys
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The command line.
    """
    app.command(hidden=True)(worker)


def worker(pool: Annotated[str, typer.Argument(help="The work pool: cpu or gpu.")]) -> None:
    """Run a Prefect worker, one run at a time; what it ran when it was killed is marked crashed first.

    Without that, Prefect shows such runs as running, and keeps their slots of concurrency limits for minutes. A batch
    that was left unfinished is continued by a sweep that the worker of the pool `cpu` asks for.
    """
    from expunge.errors import InputError
    from tasks.adapters.prefect_api import crash_runs_of

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError("no Prefect server is named", expected="PREFECT_API_URL", remedy="run `expunge up`")
    name = worker_name(pool)
    crash_runs_of(url, pool, name)
    if pool == "cpu" and os.environ.get("EXPUNGE_WORKSPACE"):
        from tasks.absorption import continue_interrupted

        continue_interrupted(url)
    os.environ.update(_console())
    options = ["--pool", pool, "--type", "process", "--name", name, "--limit", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", "worker", "start", *options])


def worker_name(pool: str) -> str:
    """Name of a worker: by it the worker knows its runs again when it is restarted.

    Args:
        pool: The work pool.

    Returns:
        ``POOL-HOST``, with the device where ``EXPUNGE_DEVICE`` names one: one worker of a pool on a device.

    Raises:
        InputError: If ``EXPUNGE_DEVICE`` names no device of this machine.
    """
    own = [pool, socket.gethostname()]
    if os.environ.get("EXPUNGE_DEVICE"):
        from expunge.devices import chosen_device

        own.append(str(chosen_device()).replace(":", "-"))
    return "-".join(own)


def _console() -> dict[str, str]:
    """What worker and runs tell Prefect goes to the worker's log too, in our format."""
    from expunge.logs import log_format

    lines = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
        "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": "expunge.logs.JsonLines",
    }
    return {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO", **(lines if log_format() == "json" else {})}
