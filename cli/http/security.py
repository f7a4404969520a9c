"""What every request passes first: token, rate, size; and what every answer carries."""

import json
import logging
import math
import os
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cli.http.problems import of_error, problem
from expunge.errors import ExpungeError, InputError
from expunge.tickets.tokens import Role, Token, TokenStore

BODY_LIMIT = 16 * 1024
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_access = logging.getLogger("expunge.http.access")
_log = logging.getLogger("expunge.http.errors")
_bearer = HTTPBearer(auto_error=False, description="A token made by `expunge token create`.")


@dataclass(frozen=True)
class HttpSettings:
    """What the environment decides.

    Args:
        writes_per_minute: Of one token.
        metrics_open: Whether /metrics needs no token.
    """

    writes_per_minute: int = 60
    metrics_open: bool = False

    @classmethod
    def read(cls) -> "HttpSettings":
        """Read ``EXPUNGE_HTTP_WRITES_PER_MINUTE`` and ``EXPUNGE_METRICS_OPEN``.

        Returns:
            The settings.

        Raises:
            InputError: If one cannot be understood.
        """
        writes = os.environ.get("EXPUNGE_HTTP_WRITES_PER_MINUTE", "60")
        metrics_open = os.environ.get("EXPUNGE_METRICS_OPEN", "0")
        if not (writes.isascii() and writes.isdigit() and int(writes[:9]) > 0 and len(writes) < 10):
            raise InputError(
                "invalid EXPUNGE_HTTP_WRITES_PER_MINUTE", expected="a whole number from 1", got=writes
            )
        if metrics_open not in ("0", "1"):
            raise InputError("invalid EXPUNGE_METRICS_OPEN", expected="0 or 1", got=metrics_open)
        return cls(int(writes), metrics_open == "1")


def allow(*roles: Role) -> Callable[..., Awaitable[None]]:
    """A dependency that refuses tokens of other roles.

    Args:
        *roles: That may.

    Returns:
        The dependency.
    """

    async def check(
        request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> None:
        token: Token = request.state.token
        if token.role not in roles:
            raise HTTPException(403)

    return check


class Guard:
    """The outermost layer: nothing of a request is parsed before its token, rate and size are right.

    It also writes the access log: the route's pattern instead of the address that was called, because callers put
    anything into addresses and queries.

    Args:
        app: What it guards.
        tokens: Who may call.
        settings: Limits.
        open_paths: Addresses that need no token.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: TokenStore, settings: HttpSettings, open_paths: frozenset[str]
    ) -> None:
        """Keep them, and begin counting."""
        self._app, self._tokens, self._open_paths = app, tokens, open_paths
        self._rate = RateLimitItemPerMinute(settings.writes_per_minute)
        # Counted in this process: `expunge serve` runs one.
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, seconds = time.monotonic(), 0, 0.0

        async def secured(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.monotonic() - began
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            await self._admit(scope, receive, secured)
        except Exception as error:
            # The message and the frames' values may hold what the caller sent: only kinds and places are logged.
            frames = traceback.extract_tb(error.__traceback__)
            places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            _log.error("%s at %s", type(error).__name__, places, extra={"error": type(error).__name__})
            if not status:
                answer = problem(500, "something went wrong here", remedy="report the time of this request")
                await answer(scope, receive, secured)
        finally:
            route, token = scope.get("route"), scope.get("state", {}).get("token")
            fields = {
                "method": scope["method"] if route else "-",
                "route": getattr(route, "path", "-"),
                "status": status,
                "ms": round(seconds * 1000, 1),
                "token_id": token.token_id if token else "-",
            }
            _access.info("%s %s %d %.0f ms %s", *fields.values(), extra=fields)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["path"] not in self._open_paths:
            refusal = await self._authenticate(scope, headers) or self._count(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        declared = headers.get("content-length", "0")
        messages = None
        if declared.isdigit() and int(declared[:20]) <= BODY_LIMIT:
            messages = await _read(receive)
        if messages is None:
            refusal = problem(
                413,
                "the body is too large",
                expected=f"at most {BODY_LIMIT} bytes",
                got="more",
                remedy="send one request for each person",
            )
            await refusal(scope, receive, send)
            return

        if _repeats_a_key(headers, messages):
            refusal = problem(
                422,
                "a key of the body's JSON is repeated",
                expected="each key once",
                got="one that stands there twice",
                remedy="send each once: which of the two was meant, nobody can tell; nothing was filed",
            )
            await refusal(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self._app(scope, replay, send)

    async def _authenticate(self, scope: Scope, headers: Headers) -> Response | None:
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        token = None
        if scheme.lower() == "bearer" and presented:
            try:
                token = await run_in_threadpool(self._tokens.authenticate, presented.strip())
            except ExpungeError as error:
                return of_error(error)
        if token is None:
            return problem(
                401,
                "no valid token",
                expected="Authorization: Bearer TOKEN",
                got="none, or one that is unknown or revoked",
                remedy="ask for one made by `expunge token create`",
                headers={"WWW-Authenticate": 'Bearer realm="expunge"'},
            )
        scope.setdefault("state", {})["token"] = token
        return None

    def _count(self, scope: Scope) -> Response | None:
        """Count a write of this token; the refused ones too, and those that file nothing."""
        if scope["method"] in _READS:
            return None
        name = scope["state"]["token"].token_id
        if self._limiter.hit(self._rate, name):
            return None
        wait = max(1, math.ceil(self._limiter.get_window_stats(self._rate, name).reset_time - time.time()))
        return problem(
            429,
            "too many requests",
            expected=f"at most {self._rate.amount} writes a minute with one token",
            got="more",
            remedy=f"go on in {wait} seconds; nothing was filed",
            headers={"Retry-After": str(wait)},
        )


class _RepeatedKeyError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _RepeatedKeyError
    return dict(pairs)


def _repeats_a_key(headers: Headers, messages: list[dict[str, Any]]) -> bool:
    """Parsers take the last of two, other programs the first: such a body says two things."""
    if "json" not in headers.get("content-type", ""):
        return False
    try:
        json.loads(b"".join(message.get("body", b"") for message in messages), object_pairs_hook=_once)
    except _RepeatedKeyError:
        return True
    except (ValueError, RecursionError):
        return False  # no JSON: refused as such later
    return False


async def _read(receive: Receive) -> list[dict[str, Any]] | None:
    """All of a body, chunked ones too, or None once it is too large: the rest is not read then."""
    messages, size = [], 0
    while True:
        message = dict(await receive())
        messages.append(message)
        size += len(message.get("body", b""))
        if size > BODY_LIMIT:
            return None
        if message["type"] != "http.request" or not message.get("more_body"):
            return messages
