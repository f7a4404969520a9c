"""A local Prefect server for the embedded default: started, waited for, stopped.

Without a server each process spawns a temporary one that loses task records when it exits. Call this before Prefect is
imported: it reads its settings then.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge import progress
from expunge.errors import ServiceUnavailableError, WorkspaceError
from expunge.settings import Workspace
from tasks.adapters.prefect_access import (
    CLIENT,
    ORIGINS,
    SERVER,
    STACK_FILE,
    new_secret,
    origins,
    read_secret,
)
from tasks.adapters.prefect_api import api
from tasks.adapters.supervisor import is_up
from tasks.adapters.temporary_server import end_orphans, record

_START_S, _STOP_S, _POLL_S, _ASK_S = 120, 15, 0.3, 30.0
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "INFO",  # to the server; the console shows our own lines
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
}


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Use the server of ``PREFECT_API_URL``, else that of the running stack, or run one as long as this is entered.

    One that is run here has a secret of its own, which nobody but this process and what it starts is told.

    Args:
        home: Prefect's home in the workspace, for a server of our own.

    Yields:
        The API's URL.

    Raises:
        ServiceUnavailableError: If the named server does not answer, or ours does not start.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    named = os.environ.get("PREFECT_API_URL")
    if named:
        if not _healthy(named):
            raise ServiceUnavailableError(
                "the Prefect server does not answer",
                expected=named,
                remedy="start it, or unset PREFECT_API_URL",
            )
        api(named, "/flows/count", {}, at_most_s=_ASK_S)  # its health it tells anybody
        yield named
        return
    home.mkdir(parents=True, exist_ok=True)
    outer = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(home)
    try:
        with _running(home) as url:
            yield url
    finally:
        os.environ.pop("PREFECT_HOME")
        if outer is not None:
            os.environ["PREFECT_HOME"] = outer


@contextmanager
def _running(home: Path) -> Iterator[str]:
    workspace = Workspace(home.parent.parent)
    running = stack_url(workspace)
    if running:
        with _pointing_to(running, read_secret(workspace)):
            yield running
        return
    end_orphans(home)
    port, secret = _free_port(), new_secret()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    variables = {"PREFECT_API_URL": url, SERVER: secret, CLIENT: secret, ORIGINS: origins("127.0.0.1", port)}
    written = record(home, command, None)
    try:
        with (home / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **variables}, start_new_session=True
            )
        try:
            record(home, command, process.pid, written)
            _wait(process, url, home / "server.log")
            with _pointing_to(url, secret):
                yield url
        finally:
            _stop(process)
    finally:
        written.unlink(missing_ok=True)


@contextmanager
def _pointing_to(url: str, secret: str | None) -> Iterator[None]:
    before = os.environ.get(CLIENT)
    _drain()  # senders of another server: what they are told from now on is for this one
    try:
        _point_to(url, secret or before)
        yield
    finally:
        _drain()  # while its senders still know where to send
        _point_to(None, before)


def _point_to(url: str | None, secret: str | None) -> None:
    """Let Prefect use a server; where it was imported before, it has to read the environment again.

    It would start a temporary server of its own otherwise, whose records are lost.
    """
    for name, value in (("PREFECT_API_URL", url), (CLIENT, secret)):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def stack_url(workspace: Workspace) -> str | None:
    """The Prefect server of this workspace's running stack.

    Args:
        workspace: Whose stack.

    Returns:
        The API's URL, or None if no stack is up.

    Raises:
        WorkspaceError: If the stack works on other databases than this process would.
    """
    if not is_up(workspace.stack_dir):
        return None
    try:
        content = json.loads((workspace.stack_dir / STACK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # still starting, or going down
    if content["databases"] != databases_digest(workspace):
        raise WorkspaceError(
            "the running stack works on other databases",
            expected="the environment that `expunge up` was called in",
            remedy="set the same EXPUNGE_DATABASE_URL and MLflow variables, or run `expunge down`",
        )
    url = str(content["prefect"])
    return url if _healthy(url) else None


def databases_digest(workspace: Workspace) -> str:
    """Digest of the databases' addresses, which may hold passwords.

    Args:
        workspace: Whose.

    Returns:
        Hexadecimal.
    """
    return hashlib.sha256(f"{workspace.database_url}\n{workspace.tracking_uri}".encode()).hexdigest()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < _START_S:
        progress.report("starting the Prefect server", waited, 0)
        if _healthy(url):
            return
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    raise ServiceUnavailableError(
        "the local Prefect server did not start",
        expected=f"an answer within {_START_S} s",
        got=f"see {log.name}",
        remedy="name a running server in PREFECT_API_URL",
    )


def _drain() -> None:
    """Let Prefect's background senders finish: at exit they would retry for a minute against a server that is gone."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for sender in (APILogWorker, EventsWorker):
        sender.drain_all(timeout=_STOP_S)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
