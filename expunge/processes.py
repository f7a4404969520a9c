"""Names of processes that outlive them: who holds a lease, whose scratch folder this is."""

import os
import socket

import psutil


def process_name() -> str:
    """Name of this process; a later one with the same id is called otherwise.

    Returns:
        ``host:pid:start``, the start in seconds.

    Example:
        >>> may_be_alive(process_name())
        True
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


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
    return start == str(_start(int(pid))) if start else psutil.pid_exists(int(pid))


def _start(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.NoSuchProcess:
        return None
