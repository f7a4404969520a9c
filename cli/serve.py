"""The command that runs the HTTP intake."""

import logging
import os
import socket
from typing import Annotated

import typer

from cli.output import WorkspaceOption, use_workspace

_STOP_S = 15
_log = logging.getLogger("expunge.serve")


def add_to(app: typer.Typer) -> None:
    """Add the command.

    Args:
        app: The command line.
    """
    app.command()(serve)


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; keep others behind a proxy with TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8080,
    workspace: WorkspaceOption = None,
) -> None:
    """Run the HTTP intake of this workspace."""
    import uvicorn

    from cli.http.app import create_app
    from cli.http.patience import BACKLOG, PatientProtocol, Sparingly, most_connections
    from expunge.logs import configure

    application = create_app(use_workspace(workspace))
    if os.environ.get("PREFECT_API_URL"):
        import prefect.events  # noqa: F401 - takes seconds: now, not after the first ticket
    listening = _listen(host, port)
    configure(expunge="INFO", uvicorn="WARNING")
    for name in ("expunge.http", "uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(Sparingly())  # what any stranger can cause
    PatientProtocol.limit = most_connections()
    # Its own access log has addresses with their queries; ours has routes.
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        http=PatientProtocol,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=_STOP_S,
    )
    _log.info("listening on http://%s:%d", host, listening.getsockname()[1])
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    from expunge.errors import InputError

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise InputError(
            "cannot listen there",
            expected="an address of this machine and a free port",
            got=f"{host}:{port}, {error.strerror}",
            remedy="name others with --host and --port",
        ) from error
