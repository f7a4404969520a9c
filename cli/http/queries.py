"""Every parameter of a query is known and stands there once: what is not understood is refused, never ignored."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


def known_query(request: Request) -> None:
    """Refuse what the address does not take; nothing that was sent is repeated.

    Args:
        request: The request.

    Raises:
        RequestValidationError: If a parameter is unknown, or stands there twice.
    """
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    names = [name for name, _ in request.query_params.multi_items()]
    faults = [
        {
            "loc": ("query", name),
            "type": "repeated" if name in known else "unknown_parameter",
            "msg": "",
            "input": None,
        }
        for name in dict.fromkeys(names)
        if name not in known or names.count(name) > 1
    ]
    if faults:
        raise RequestValidationError(faults)
