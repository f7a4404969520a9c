"""A small process supervisor: restarts with back-off, stops with a kill time-out, one log file a process.

What a process started goes with it: each leads its own group, and what left the group, as a worker's runs do, is known
by a variable of its environment. The supervisor holds a lock on a file as long as it lives: that, not a process id,
says whether the stack is up.
"""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from expunge.logs import configure
from expunge.processes import started
from tasks.adapters.prefect_api import authorization

LOCK, TABLE, MARK = "lock", "processes.json", "EXPUNGE_SERVICE"
_TICK_S, _STEADY_S, _LONGEST_PAUSE_S, _KILL_S = 0.3, 60.0, 60.0, 15.0
_log = logging.getLogger("expunge.supervisor")


@dataclass
class Service:
    """One supervised process.

    Args:
        name: Also of its log file.
        command: Its argument vector.
        after: URL of Prefect's API that must answer before its first start.
    """

    name: str
    command: list[str]
    after: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    not_before: float = 0.0
    failures: int = 0
    starts: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def tend(self, logs: Path) -> bool:
        """Start it if it does not run and may; note it if it ended.

        Args:
            logs: Folder of log files.

        Returns:
            Whether anything changed.
        """
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return False
            end(self.facts)  # what it left behind
            self.failures = 1 if now - self.started > _STEADY_S else self.failures + 1
            pause = min(_LONGEST_PAUSE_S, 2.0 ** (self.failures - 1))
            self.not_before = now + pause
            fields = {"service": self.name, "code": self.process.returncode, "pause_s": pause}
            _log.warning("%s ended with %d; it starts again in %.0f s", *fields.values(), extra=fields)
            self.process, self.facts = None, {}
            return True
        if now < self.not_before:
            return False
        if self.after and not self.starts and not answers(self.after, authorization(self.after)):
            return False
        with (logs / f"{self.name}.log").open("ab") as log:
            mark = str(logs / self.name)
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started, self.starts = now, self.starts + 1
        self.facts = {"pid": self.process.pid, "mark": mark, "started": started(self.process.pid)}
        fields = {"service": self.name, "pid": self.process.pid, "starts": self.starts}
        _log.info("%s runs as process %d, start %d", *fields.values(), extra=fields)
        return True


def answers(url: str, headers: dict[str, str] | None = None) -> bool:
    """Whether an HTTP address answers with success.

    Args:
        url: The address.
        headers: Of the request, such as who asks.

    Returns:
        False for errors and silence too.
    """
    with suppress(OSError, ValueError):
        request = urllib.request.Request(url, headers=headers or {})
        with urllib.request.urlopen(request, timeout=3) as answer:
            return bool(answer.status < 300)
    return False


def kill_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process group; it may be gone.

    Args:
        pid: Of its leader.
        number: The signal.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def end(facts: dict[str, Any]) -> bool:
    """Kill what is left of a process of the table: its group, and what it started elsewhere.

    Args:
        facts: ``{pid, started, mark}``; a later process with its id is another one.

    Returns:
        Whether anything ran.
    """
    ran, pid = False, facts.get("pid")
    if pid is None:
        return False
    if alive(facts) or not psutil.pid_exists(pid):  # a group may outlive its leader
        kill_group(pid, signal.SIGKILL)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == facts["mark"]:
                process.kill()
                ran = True
    return ran


def alive(facts: dict[str, Any]) -> bool:
    """Whether a process of the table runs; a later process with its id is another one.

    Args:
        facts: ``{pid, started}``.

    Returns:
        True if it runs.
    """
    began = facts.get("started")
    return began is not None and started(facts["pid"]) == began


def stop(services: list[Service]) -> None:
    """Ask processes to end, and kill those that do not.

    Args:
        services: All at once.
    """
    running = [(service, service.process) for service in services if service.process is not None]
    for _, process in running:
        kill_group(process.pid, signal.SIGTERM)
    until = time.monotonic() + _KILL_S
    for service, process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        end(service.facts)
        process.wait()


def hold_lock(folder: Path) -> IO[str] | None:
    """Take the stack's lock.

    Args:
        folder: Of the stack.

    Returns:
        The open file that holds it, or None if another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def is_up(folder: Path) -> bool:
    """Whether a supervisor is at work.

    Args:
        folder: Of the stack.

    Returns:
        Whether its lock is held.
    """
    if not (folder / LOCK).exists():
        return False
    lock = hold_lock(folder)
    if lock is not None:
        lock.close()
    return lock is None


def read_table(folder: Path) -> dict[str, Any]:
    """What the supervisor last wrote.

    Args:
        folder: Of the stack.

    Returns:
        ``{supervisor, processes}``, or nothing.
    """
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / TABLE).read_text(encoding="utf-8")))
    return {}


def shut_down(folder: Path, wait_s: float = 3 * _KILL_S) -> bool:
    """Stop the supervisor and everything it started; kill what does not end, also after a supervisor that was killed.

    Args:
        folder: Of the stack.
        wait_s: How long the supervisor may take.

    Returns:
        Whether anything ran.
    """
    table, until = read_table(folder), time.monotonic() + wait_s
    ran = supervisor = alive(table.get("supervisor", {}))
    if supervisor:
        with suppress(ProcessLookupError):
            os.kill(table["supervisor"]["pid"], signal.SIGTERM)
        while (supervisor := alive(table["supervisor"])) and time.monotonic() < until:
            time.sleep(_TICK_S)
        if supervisor:
            kill_group(table["supervisor"]["pid"], signal.SIGKILL)
            table = read_table(folder) or table
    for facts in table.get("processes", {}).values():
        ran = alive(facts) or ran
        ran = end(facts) or ran
    (folder / TABLE).unlink(missing_ok=True)
    return ran


def supervise(folder: Path, logs: Path, services: list[Service]) -> int:
    """Keep services running until SIGTERM or SIGINT; the first one is stopped last.

    Args:
        folder: For lock and process table.
        logs: For log files.
        services: In the order of starting.

    Returns:
        0, or 1 if another supervisor is at work.
    """
    lock = hold_lock(folder)
    if lock is None:
        return 1
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: ended.append(received))
    logs.mkdir(parents=True, exist_ok=True)
    me = {"pid": os.getpid(), "started": started(os.getpid())}
    try:
        while not ended:
            if any([service.tend(logs) for service in services]):
                table = {s.name: {**s.facts, "restarts": max(0, s.starts - 1)} for s in services}
                fresh = folder / f"{TABLE}.new"
                fresh.write_text(json.dumps({"supervisor": me, "processes": table}), encoding="utf-8")
                fresh.replace(folder / TABLE)
            time.sleep(_TICK_S)
    finally:
        _log.info("stopping")
        stop(services[1:])
        stop(services[:1])
        (folder / TABLE).unlink(missing_ok=True)
        lock.close()
    return 0


if __name__ == "__main__":
    configure(expunge="INFO")
    _plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(supervise(Path(_plan["folder"]), Path(_plan["logs"]), [Service(**s) for s in _plan["services"]]))
