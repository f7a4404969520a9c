"""Accounts of the stack's own MLflow server: an operator, who may do everything, and an auditor, who may read.

Whoever has no permission of their own has the default one, READ: experiments, runs, models and artifacts can be looked
at and downloaded, and nothing of them can be changed. What the app does not stop: any account can create experiments.
"""

import base64
import json
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from expunge.errors import ServiceUnavailableError, WorkspaceError
from expunge.files import replace_file

OPERATOR, AUDITOR = "operator", "auditor"
_APP = ("--app-name", "basic-auth")
_INI = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = {operator}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# One worker: changes of a password are seen at once, and a page is not a hundred slow digests.
auth_cache_ttl_seconds = 60
"""
_PATIENCE_S = 20.0


class Accounts:
    """The files of the accounts in a workspace; only its user can read them.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the folder."""
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where an account's name and password are, as variables that MLflow's clients read.

        Args:
            name: Of the account.

        Returns:
            The file.
        """
        return self.folder / f"{name}.env"

    def prepare(self) -> dict[str, str]:
        """Make what is missing: passwords, the server's secret, its configuration.

        Returns:
            Variables of the server, and of the workers, who are the operator.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for name in (OPERATOR, AUDITOR):
            text = f"MLFLOW_TRACKING_USERNAME={name}\nMLFLOW_TRACKING_PASSWORD={secrets.token_urlsafe(24)}\n"
            _keep(self.path(name), text)
        secret = self.folder / "server-secret.key"
        _keep(secret, secrets.token_urlsafe(32))
        database = f"sqlite:///{self.folder.resolve() / 'accounts.db'}".replace("%", "%%")
        ini = self.folder / "basic_auth.ini"
        text = _INI.format(database=database, operator=OPERATOR)
        replace_file(ini, text.encode(), 0o600)  # anew: the workspace may have moved
        password = self._password(OPERATOR)
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(ini.resolve()),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secret.read_text(encoding="utf-8"),
            "MLFLOW_AUTH_ADMIN_USERNAME": OPERATOR,
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_TRACKING_USERNAME": OPERATOR,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def ensure_auditor(self, url: str) -> None:
        """Let the auditor's account exist, with the password of its file; repeating it does no harm.

        Args:
            url: Of the MLflow server, which answers.

        Raises:
            WorkspaceError: If the server does not know the operator by the password of the workspace.
        """
        if self._ask(url, AUDITOR, "GET", "users/current") == 200:
            return
        account = {"username": AUDITOR, "password": self._password(AUDITOR)}
        if self._ask(url, OPERATOR, "GET", "users/current") != 200:
            raise WorkspaceError(
                "the MLflow server does not know the operator",
                expected=f"the password in {self.path(OPERATOR).name} to be the account's",
                got="another one",
                remedy=f"restore the file, or remove {self.folder} and run `expunge up` again",
            )
        made = self._ask(url, OPERATOR, "POST", "users/create", account)
        if made != 200:  # it is there, with another password
            made = self._ask(url, OPERATOR, "PATCH", "users/update-password", account)
        if made != 200 or self._ask(url, AUDITOR, "GET", "users/current") != 200:
            raise ServiceUnavailableError(
                "the auditor's account was not made",
                expected="MLflow to make it",
                got=f"HTTP {made}",
                remedy="see .expunge/logs/mlflow.log",
            )

    def _password(self, name: str) -> str:
        text = self.path(name).read_text(encoding="utf-8")
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if not lines.get("MLFLOW_TRACKING_PASSWORD"):
            raise WorkspaceError(
                f"{self.path(name).name} is damaged",
                expected="MLFLOW_TRACKING_PASSWORD=...",
                remedy=f"restore it, or remove {self.folder} and run `expunge up` again",
            )
        return lines["MLFLOW_TRACKING_PASSWORD"]

    def _ask(self, url: str, name: str, method: str, path: str, body: Any = None) -> int:
        """HTTP status of a request to MLflow's accounts."""
        login = base64.b64encode(f"{name}:{self._password(name)}".encode()).decode()
        request = urllib.request.Request(
            f"{url}/api/2.0/mlflow/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except OSError as error:
            raise ServiceUnavailableError(
                "MLflow does not answer", got=str(error), remedy="see .expunge/logs/mlflow.log"
            ) from error


def with_accounts(command: list[str]) -> list[str]:
    """The command of an MLflow server that asks who one is.

    Args:
        command: Of one that does not.

    Returns:
        Its argument vector.
    """
    return [*command, *_APP]


def allowed_hosts(host: str, port: str) -> str:
    """Under which names the server may be called: others are refused, whatever they resolve to.

    Args:
        host: That it listens on.
        port: That it listens on.

    Returns:
        For ``MLFLOW_SERVER_ALLOWED_HOSTS``.
    """
    names = dict.fromkeys(("127.0.0.1", "localhost", host))
    return ",".join(f"{name}:{port}" for name in names if name != "0.0.0.0")


def _keep(path: Path, text: str) -> None:
    """Write a secret that is not there yet: whole, or not at all."""
    if not path.exists():
        replace_file(path, text.encode(), 0o600)
    path.chmod(0o600)
