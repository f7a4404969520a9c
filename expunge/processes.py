"""Names of processes that outlive them: who holds a lease, whose scratch folder this is."""

import functools
import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil


def process_name() -> str:
    """Name of this process; a later one with the same id is called otherwise.

    Returns:
        ``host:pid:start``.

    Example:
        >>> may_be_alive(process_name())
        True
    """
    return f"{socket.gethostname()}:{os.getpid()}:{started(os.getpid())}"


def may_be_alive(name: str) -> bool:
    """Whether a named process may still be at work; of another host nothing is known, so it may.

    Args:
        name: From :func:`process_name`.

    Returns:
        False only for a dead process of this host.
    """
    host, _, process = name.partition(":")
    pid, _, start = process.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return True
    return start == started(int(pid)) if start else psutil.pid_exists(int(pid))


def started(pid: int) -> str | None:
    """When a process was started: which boot of the machine, and seconds after it.

    Not the time of day: whoever sets the clock would make every living process look like a later one.

    Args:
        pid: Of the process.

    Returns:
        Without a colon; None if there is no such process, or it has ended.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{_boot()}+{process.create_time() - psutil.boot_time():.2f}"
    except psutil.NoSuchProcess:
        return None


@functools.cache
def _boot() -> str:
    with suppress(OSError):  # Linux
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    return ""
