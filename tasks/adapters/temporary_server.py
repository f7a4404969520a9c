"""Records of temporary Prefect servers: one whose owner was killed runs on, and the next command ends it."""

import json
import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from expunge.files import write_json
from expunge.processes import may_be_alive, process_name, started
from tasks.adapters.supervisor import kill_group

_RECORDS = "temporary-server-*.json"
_STOP_S, _POLL_S = 15.0, 0.1


def record(home: Path, command: list[str], pid: int | None, path: Path | None = None) -> Path:
    """Write down a server, before it is started and again when its process is known.

    Args:
        home: Prefect's home in the workspace.
        command: The server's argument vector, which names its port.
        pid: Of its process, or None before there is one.
        path: The record of before.

    Returns:
        The record, which whoever stops the server removes.
    """
    path = path or home / _RECORDS.replace("*", secrets.token_hex(6))
    facts = {"owner": process_name(), "command": command, "pid": pid, "started": pid and started(pid)}
    write_json(path, facts, 0o600)
    return path


def end_orphans(home: Path) -> int:
    """End the servers whose owner is dead; a later process with the id of one is another one, and is left alone.

    Args:
        home: Prefect's home in the workspace.

    Returns:
        How many ran.
    """
    count = 0
    for path in sorted(home.glob(_RECORDS)):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            owner, found = str(facts["owner"]), list(_processes(facts))
        except FileNotFoundError:  # another command was faster
            continue
        except (OSError, ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # damaged: it names no process that may be ended
            continue
        if may_be_alive(owner):
            continue
        for process in found:
            _end(process)
            count += 1
        path.unlink(missing_ok=True)
    return count


def _processes(facts: dict[str, Any]) -> list[psutil.Process]:
    """The recorded process; where the owner was killed before it wrote its id, whoever has the very command."""
    pid, command = facts["pid"], list(facts["command"])
    candidates = psutil.process_iter() if pid is None else [int(pid)]
    found = []
    for candidate in candidates:
        with suppress(psutil.Error):
            process = psutil.Process(candidate) if isinstance(candidate, int) else candidate
            same = pid is None or started(process.pid) == facts["started"]
            if same and process.cmdline() == command and process.uids().effective == os.geteuid():
                found.append(process)
    return found


def _end(process: psutil.Process) -> None:
    # It leads its own group. Between the look and the signal no other process can have taken its id unseen:
    # psutil compares the time of start again.
    with suppress(psutil.Error):
        if process.is_running():
            kill_group(process.pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_S
    while process.is_running() and time.monotonic() < until:
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:  # its parent has not looked yet
                return
        time.sleep(_POLL_S)
    with suppress(psutil.Error):
        if process.is_running():
            kill_group(process.pid, signal.SIGKILL)
