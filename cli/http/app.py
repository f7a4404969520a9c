"""The application: addresses, roles and the OpenAPI document."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from anyio.to_thread import current_default_thread_limiter
from fastapi import BackgroundTasks, Depends, FastAPI, Header, Path, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text
from starlette.middleware import Middleware

from cli.http.metrics import render
from cli.http.problems import KEY_HEADER, add_handlers, documented
from cli.http.queries import known_query
from cli.http.security import Guard, HttpSettings, allow
from expunge.regimes import NAME
from expunge.state import State
from expunge.tickets.intake import receipt_moment
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.store import Ticket
from expunge.tickets.tokens import Role, TokenStore
from tasks.adapters.events import emit_received
from tasks.intake import file_keyed

# Fewer than the database's connections (15), so that no request waits for one and gives up.
_THREADS = 12
_LONGEST_SUBJECT = 1000
_PAGE, _LONGEST_PAGE = 100, 1000
# A place in the order of tickets, not a ticket: it stays where it is when that ticket's deadline moves.
_PLACE = "^[0-9]{1,17}-t-[0-9a-f]{12}$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEXT = 'The next page (RFC 8288): `<ADDRESS>; rel="next"`, relative to this one; absent from the last page.'
# It would keep bodies, and with them people's ids.
_NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


class TicketRequest(BaseModel):
    """One person's request to be erased."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    subject: Annotated[str, Field(min_length=1, max_length=_LONGEST_SUBJECT, description="Id of the person.")]
    regime: Annotated[
        str,
        Field(pattern=f"^{NAME.pattern}$", description="gdpr, ccpa, uk-gdpr, lgpd, or one of policy.yaml."),
    ] = "gdpr"
    received_at: Annotated[
        str | None,
        Field(
            max_length=40,
            description="When the request came, in ISO 8601; in UTC without a time zone. Now by default.",
        ),
    ] = None


class SubjectSearch(BaseModel):
    """Whose tickets are looked for."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    subject: Annotated[str, Field(min_length=1, max_length=_LONGEST_SUBJECT, description="Id of the person.")]


class TicketAnswer(BaseModel):
    """A ticket, without the person's id."""

    ticket_id: str
    state: str
    received_at: datetime
    due_at: datetime
    pseudonym: str
    batch_id: str | None


class Health(BaseModel):
    """That requests can be served."""

    status: Literal["ok"] = "ok"


def create_app(state: State, settings: HttpSettings | None = None) -> FastAPI:
    """The HTTP intake of one workspace.

    Args:
        state: The workspace.
        settings: Limits; from the environment by default.

    Returns:
        An ASGI application.

    Raises:
        InputError: If the environment's settings cannot be understood.
    """
    settings = settings or HttpSettings.read()
    open_paths = {"/v1/health", "/v1/openapi.json"} | ({"/metrics"} if settings.metrics_open else set())
    app = FastAPI(
        title="Expunge",
        version="1",
        description="Files deletion tickets and reports on them.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        dependencies=[Depends(known_query)],
        telemetry=_NO_TELEMETRY,
        middleware=[
            Middleware(
                Guard,
                tokens=TokenStore(state.database),
                settings=settings,
                open_paths=frozenset(open_paths),
            )
        ],
    )
    add_handlers(app)
    _add_tickets(app, state)
    _add_monitoring(app, state, settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = _THREADS
    yield


def _add_tickets(app: FastAPI, state: State) -> None:
    @app.post(
        "/v1/tickets",
        status_code=202,
        response_model=TicketAnswer,
        responses={
            202: {"headers": {"Location": {"schema": {"type": "string"}}}},
            **documented(400, 401, 403, 409, 413, 422, 429, 500, 503),
        },
        dependencies=[Depends(allow(Role.INTAKE, Role.OFFICER))],
    )
    def file_ticket(
        body: TicketRequest,
        key: Annotated[str, Header(alias=KEY_HEADER, min_length=1, max_length=200)],
        response: Response,
        background: BackgroundTasks,
        request: Request,
    ) -> TicketAnswer:
        """File a ticket. The same key and body again give the same ticket."""
        officer = request.state.token.role == Role.OFFICER
        received = (
            receipt_moment(body.received_at, datetime.now(UTC)) if body.received_at is not None else None
        )
        done = file_keyed(state, body.subject, body.regime, key, received_at=received, near=officer)
        if done.created:
            background.add_task(emit_received, done.ticket.ticket_id)
        response.headers["Location"] = f"/v1/tickets/{done.ticket.ticket_id}"
        return _answer(done.ticket)

    @app.post(
        "/v1/tickets/search",
        response_model=list[TicketAnswer],
        responses=documented(400, 401, 403, 413, 422, 429, 500, 503),
        dependencies=[Depends(allow(Role.OFFICER))],
    )
    def search_tickets(body: SubjectSearch) -> list[TicketAnswer]:
        """Tickets of one person, soonest deadline first. The id travels in the body: addresses are logged."""
        return [_answer(ticket) for ticket in state.tickets.of_subject(body.subject)]

    @app.get(
        "/v1/tickets/{ticket_id}",
        response_model=TicketAnswer,
        responses=documented(401, 403, 404, 413, 422, 500, 503),
        dependencies=[Depends(allow(*Role))],
    )
    def show_ticket(ticket_id: Annotated[str, Path(pattern="^t-[0-9a-f]{12}$")]) -> TicketAnswer:
        """One ticket."""
        return _answer(state.tickets.get(ticket_id))

    @app.get(
        "/v1/tickets",
        response_model=list[TicketAnswer],
        responses={
            200: {"headers": {"Link": {"description": _NEXT, "schema": {"type": "string"}}}},
            **documented(401, 403, 413, 422, 500, 503),
        },
        dependencies=[Depends(allow(Role.OFFICER, Role.AUDITOR))],
    )
    def list_tickets(
        response: Response,
        state_is: Annotated[
            TicketState | None, Query(alias="state", description="Only tickets in this state.")
        ] = None,
        due: Annotated[
            str | None, Query(pattern="^[0-9]{1,4}d$", description="Only open ones due within this time.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=_LONGEST_PAGE, description="At most so many.")] = _PAGE,
        after: Annotated[
            str | None,
            Query(pattern=_PLACE, description="Where the page begins, from the Link of the last one."),
        ] = None,
    ) -> list[TicketAnswer]:
        """A page of tickets, soonest deadline first."""
        before = datetime.now(UTC) + timedelta(days=int(due[:-1])) if due is not None else None
        found = state.tickets.select(
            states=None if state_is is None else [state_is],
            due_before=before,
            after=_place(after) if after is not None else None,
            limit=limit + 1,
        )
        page = found[:limit]
        if len(found) > limit:
            asked = {"state": state_is, "due": due}
            query = {"limit": limit, "after": _cursor(page[-1])}
            query |= {name: value for name, value in asked.items() if value is not None}
            response.headers["Link"] = f'</v1/tickets?{urlencode(query)}>; rel="next"'
        return [_answer(ticket) for ticket in page]


def _add_monitoring(app: FastAPI, state: State, settings: HttpSettings) -> None:
    @app.get("/v1/health", response_model=Health, responses=documented(413, 500, 503))
    def health() -> Health:
        """Whether tickets can be filed: the database answers."""
        with state.database.transaction() as session:
            session.execute(text("SELECT 1"))
        return Health()

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(401, 403, 413, 500, 503),
        },
        dependencies=[] if settings.metrics_open else [Depends(allow(Role.OFFICER, Role.AUDITOR))],
    )
    def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(render(state), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _cursor(ticket: Ticket) -> str:
    """A ticket's place in the order: its deadline in microseconds, and its id."""
    return f"{(ticket.due_at - _EPOCH) // timedelta(microseconds=1)}-{ticket.ticket_id}"


def _place(cursor: str) -> tuple[datetime, str]:
    moment, _, ticket_id = cursor.partition("-")
    return _EPOCH + timedelta(microseconds=int(moment)), ticket_id


def _answer(ticket: Ticket) -> TicketAnswer:
    return TicketAnswer(
        ticket_id=ticket.ticket_id,
        state=ticket.state,
        received_at=ticket.received_at,
        due_at=ticket.due_at,
        pseudonym=ticket.pseudonym,
        batch_id=ticket.batch_id,
    )
