"""A client has so long to finish its request, and the process keeps so many connections: slow clients stop nobody else.

Uvicorn waits for headers and bodies for ever, and a process that is out of file descriptors logs that at every attempt
to accept another connection. Both are limited here, with one line a minute in the log.
"""

import asyncio
import logging
import resource
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 20.0  # for headers and body together: they have 16 KiB
MOST_CONNECTIONS = 512
BACKLOG = 128  # connections that are taken at once, before any is judged
_SPARE_FILES = 128 + BACKLOG  # for databases, logs and whatever else the process opens
_LOG_S = 60.0
_log = logging.getLogger("expunge.http")


def most_connections() -> int:
    """How many connections the process can keep, after it has asked for as many file descriptors as it may have.

    Returns:
        At most :data:`MOST_CONNECTIONS`; fewer where the system's limit of open files is low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(16, min(MOST_CONNECTIONS, soft - _SPARE_FILES))


class Sparingly(logging.Filter):
    """Passes each message once in a while, with how often it came meanwhile: a stranger cannot fill the log.

    Args:
        seconds: Between two lines of one message.
    """

    def __init__(self, seconds: float = _LOG_S) -> None:
        """Begin counting."""
        super().__init__()
        self._seconds = seconds
        self._seen: dict[str, tuple[float, int]] = {}  # by message: when it passed last, how often since

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record passes.

        Args:
            record: Its message gets the count.

        Returns:
            True if its message has not passed for so long.
        """
        now, text = time.monotonic(), str(record.msg)
        last, held = self._seen.get(text, (-self._seconds, 0))
        if now - last < self._seconds:
            self._seen[text] = (last, held + 1)
            return False
        self._seen[text] = (now, 0)
        if held:
            record.msg = f"{text} ({held} more of these since)"
        return True


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a deadline for each request and a limit on connections.

    The deadline runs from the first byte of a connection's life until the request is whole, and begins anew with the
    next request on it; data that trickle in do not move it. Past the limit on connections, the one that has waited
    longest for its request is closed, and where all are being answered, the new one is.
    """

    limit = MOST_CONNECTIONS
    request_s = REQUEST_S
    _deadline: asyncio.TimerHandle | None = None
    _waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or make room for it.

        Args:
            transport: Of the connection.
        """
        super().connection_made(transport)
        if len(self.connections) > self.limit:
            waiting = [
                c for c in map(_patient, self.connections) if c is not None and c._deadline is not None
            ]
            slowest = min(waiting, key=lambda c: c._waiting_since, default=self)
            _log.warning("more than %d connections: the slowest is closed", self.limit)
            slowest._rest()
            self.connections.discard(slowest)  # now: others are taken before its end is told
            slowest.transport.abort()
            if slowest is self:
                return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take some bytes of a request.

        Args:
            data: The bytes.
        """
        if self._deadline is None and self.conn.their_state is not h11.SEND_BODY:
            self._wait()  # the next request of a connection that is kept alive
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._rest()  # it is whole, or nothing more is read of it

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection.

        Args:
            exc: Why it broke off, if it did.
        """
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting_since = time.monotonic()
        self._deadline = self.loop.call_later(self.request_s, self._give_up)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        _log.warning("a request was not whole in %g seconds: its connection is closed", self.request_s)
        self.transport.abort()


def _patient(connection: Any) -> PatientProtocol | None:
    return connection if isinstance(connection, PatientProtocol) else None
