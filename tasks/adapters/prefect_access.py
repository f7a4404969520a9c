"""Who may use the stack's own Prefect server: whoever has its secret, which only the workspace's user can read.

A deployment names commands, and a worker runs them as the operator: a server that asks nobody who they are gives the
operator's account to everyone on the machine, and to web pages in the operator's browser.
"""

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from expunge.errors import WorkspaceError
from expunge.files import replace_file
from expunge.settings import Workspace
from tasks.adapters.prefect_api import introduce

CLIENT, SERVER = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
STACK_FILE = "stack.json"


def new_secret() -> str:
    """A secret that nobody has.

    Returns:
        ``user:password``, as Prefect wants it.
    """
    return f"expunge:{secrets.token_urlsafe(32)}"


def secret_path(workspace: Workspace) -> Path:
    """Where the secret of the stack's server is, as a variable that Prefect's clients read.

    Args:
        workspace: Whose stack.

    Returns:
        The file.
    """
    return workspace.accounts_dir / "prefect.env"


def prepare(workspace: Workspace) -> str:
    """The secret of the stack's server: that of ``PREFECT_SERVER_API_AUTH_STRING``, else the one kept, else a new one.

    Args:
        workspace: Whose stack.

    Returns:
        The secret, which the file holds now.
    """
    path = secret_path(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    secret = os.environ.get(SERVER) or (read_secret(workspace) if path.exists() else None) or new_secret()
    replace_file(path, f"{CLIENT}={secret}\n".encode(), 0o600)
    return secret


def read_secret(workspace: Workspace) -> str | None:
    """The secret in the file.

    Args:
        workspace: Whose stack.

    Returns:
        The secret, or None if no stack has had one.

    Raises:
        WorkspaceError: If the file is damaged.
    """
    path = secret_path(workspace)
    if not path.exists():
        return None
    name, _, secret = path.read_text(encoding="utf-8").strip().partition("=")
    if name != CLIENT or ":" not in secret:
        raise WorkspaceError(
            f"{path.name} is damaged",
            expected=f"{CLIENT}=...",
            remedy=f"run `expunge down`, remove {path} and run `expunge up`",
        )
    return secret


def origins(host: str, port: str | int) -> str:
    """Pages of which addresses may ask the server from a browser: its own.

    Args:
        host: That it listens on.
        port: That it listens on.

    Returns:
        For ``PREFECT_SERVER_CORS_ALLOWED_ORIGINS``.
    """
    names = dict.fromkeys(("127.0.0.1", "localhost", host))
    return ",".join(f"http://{name}:{port}" for name in names if name != "0.0.0.0")


def take_up(workspace: Workspace) -> None:
    """Let this process use the stack's server where ``PREFECT_API_URL`` names it, or `expunge status` looks at it.

    Args:
        workspace: Whose stack; where its file of the secret is damaged, whoever asks the server is refused by it.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, WorkspaceError):
        content = json.loads((workspace.stack_dir / STACK_FILE).read_text(encoding="utf-8"))
        url, secret = str(content["prefect"]), read_secret(workspace)
        if secret is None:
            return
        introduce(url, secret)
        named = os.environ.get("PREFECT_API_URL", "").rstrip("/")
        if named == url and not (os.environ.get(CLIENT) or os.environ.get("PREFECT_API_KEY")):
            os.environ[CLIENT] = secret
