"""The command that runs a worker of the stack."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Annotated

import typer

_LOOK_S = 30.0


def add_to(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The command line.
    """
    app.command(hidden=True)(worker)


def worker(pool: Annotated[str, typer.Argument(help="The work pool: cpu or gpu.")]) -> None:
    """Run a Prefect worker, one run at a time, and watch over what it ran.

    Runs that were killed are marked crashed: Prefect would show them as running, and keep their slots of concurrency
    limits for minutes. A batch that was left unfinished is continued by a sweep that the worker of the pool `cpu` asks
    for.
    """
    from expunge.errors import InputError, ServiceUnavailableError
    from expunge.state import open_state
    from tasks.watch import look_after

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError("no Prefect server is named", expected="PREFECT_API_URL", remedy="run `expunge up`")
    name = worker_name(pool)
    state = open_state() if os.environ.get("EXPUNGE_WORKSPACE") else None
    look_after(state, url, pool, name, starting=True)
    options = ["--pool", pool, "--type", "process", "--name", name, "--limit", "1"]
    command = [sys.executable, "-m", "prefect", "worker", "start", *options]
    # In a session of its own: a signal to this process is handed on to it, once.
    process = subprocess.Popen(command, env={**os.environ, **_console()}, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    while True:
        with suppress(subprocess.TimeoutExpired):
            raise typer.Exit(abs(process.wait(_LOOK_S)))
        with suppress(ServiceUnavailableError):  # it is looked again
            look_after(state, url, pool, name)


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
