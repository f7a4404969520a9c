"""Refusals as problem documents (RFC 9457); none repeats what the caller sent, and only an officer is told ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match

from expunge.errors import (
    ExpungeError,
    NearMatchError,
    RefusedError,
    ServiceUnavailableError,
    TicketConflictError,
    TicketError,
    UnknownTicketError,
)

MEDIA_TYPE = "application/problem+json"
KEY_HEADER = "Idempotency-Key"
RETRY_S = 5
_MOST_NEAR = 5  # ids in one answer
TITLES = {
    400: "Malformed request",
    401: "No valid token",
    403: "Not for this role",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Body too large",
    422: "Invalid request",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}
_KNOWN_FIELDS = frozenset(
    {
        "body",
        "path",
        "query",
        "header",
        "subject",
        "regime",
        "due",
        "limit",
        "after",
        "state",
        "ticket_id",
        KEY_HEADER,
    }
)


class Problem(BaseModel):
    """Why a request was refused, and what to do."""

    model_config = ConfigDict(extra="forbid")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    expected: str = ""
    got: str = ""
    remedy: str = ""


def problem(
    status: int,
    detail: str,
    *,
    expected: str = "",
    got: str = "",
    remedy: str = "",
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One problem document.

    Args:
        status: HTTP status.
        detail: What went wrong, without personal data.
        expected: What would have been right.
        got: What was there instead.
        remedy: What the caller should do next.
        headers: More of the answer.

    Returns:
        The answer.
    """
    content = Problem(
        title=TITLES[status], status=status, detail=detail, expected=expected, got=got, remedy=remedy
    )
    return JSONResponse(content.model_dump(), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of refusals.

    Args:
        *statuses: That can occur.

    Returns:
        FastAPI's ``responses``.
    """
    headers = {
        401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
        429: {"Retry-After": {"schema": {"type": "integer"}}},
        503: {"Retry-After": {"schema": {"type": "integer"}}},
    }
    schema = Problem.model_json_schema()
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": headers[status]} if status in headers else {}),
        }
        for status in statuses
    }


def add_handlers(app: FastAPI) -> None:
    """Answer every error with a problem document.

    Args:
        app: The application.
    """
    app.add_exception_handler(ExpungeError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


def of_error(error: ExpungeError) -> JSONResponse:
    """The problem document of a deliberate error.

    Args:
        error: It.

    Returns:
        4xx for what the caller can correct, 503 for what the operator must.
    """
    detail = error.message
    if isinstance(error, ServiceUnavailableError):
        # Where the database is concerns the operator only.
        return problem(
            503, detail, remedy="try again; nothing is filed twice", headers={"Retry-After": str(RETRY_S)}
        )
    if isinstance(error, UnknownTicketError):
        return problem(404, detail, expected=error.expected, remedy="check the id")
    if isinstance(error, (TicketConflictError, RefusedError)):
        return problem(409, detail, expected=error.expected, got=error.got, remedy=error.remedy)
    if isinstance(error, NearMatchError):  # raised for officers only, who may see ids
        near = "; ".join(f"{one!r} differs only in its form" for one in error.near[:_MOST_NEAR])
        return problem(422, detail, expected=error.expected, got=near, remedy=error.remedy)
    if isinstance(error, TicketError):
        return problem(422, detail, expected=error.expected, got=error.got, remedy=error.remedy)
    # A damaged workspace or a dataset that is not here: no other request would fare better.
    return problem(
        503,
        "the workspace is not in order",
        remedy="ask its operator to run `expunge doctor`",
        headers={"Retry-After": str(RETRY_S)},
    )


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ExpungeError)
    return of_error(error)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A request that does not keep its schema; values and unknown names are not repeated, either may be a person."""
    assert isinstance(error, RequestValidationError)
    faults = [(_place(fault["loc"]), str(fault["type"])) for fault in error.errors()]
    if any(place == f"header {KEY_HEADER}" for place, _ in faults):
        return problem(
            400,
            f"the header {KEY_HEADER} is needed",
            expected="1 to 200 characters, another for every request, the same when one is sent again",
            got="none, or one that is too long",
            remedy="send one; nothing was filed",
        )
    return problem(
        422,
        "the request does not keep its schema",
        expected="what the OpenAPI document says",
        got="; ".join(f"{place}: {kind}" for place, kind in faults),
        remedy="correct the named fields; nothing was changed",
    )


def _place(loc: Sequence[Any]) -> str:
    return " ".join(str(part) if part in _KNOWN_FIELDS else "(other)" for part in loc)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in TITLES else 400
    details = {
        400: "the body cannot be read",
        403: "the role of this token does not allow this",
        404: "there is nothing at this address",
        405: "this address does not take this method",
    }
    headers = dict(error.headers or {})
    if status == 405:
        # The router names the methods of the first route only, and an address may have several.
        routes = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
        headers["Allow"] = ", ".join(sorted(set().union(*(r.methods for r in routes))))
    return problem(
        status, details.get(status, TITLES[status]), remedy="see /v1/openapi.json", headers=headers
    )
