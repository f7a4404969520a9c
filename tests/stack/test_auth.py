"""`expunge up --auth`: MLflow asks who one is, and the operator's own commands go on as before."""

import json
from pathlib import Path

import pytest
import requests

from cli import services
from expunge.errors import InputError
from expunge.settings import Workspace
from tasks.adapters.mlflow_accounts import AUDITOR, OPERATOR, Accounts
from tests.stack.operator import Operator


def login(path: str) -> tuple[str, str]:
    user, password = (line.split("=", 1)[1] for line in Path(path).read_text().splitlines())
    return user, password


@pytest.fixture
def bare(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_SERVER_ALLOWED_HOSTS", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_server_asks_and_the_workers_are_the_operator(tmp_path, bare):
    workspace, accounts = Workspace(tmp_path), Accounts(tmp_path / "accounts")
    variables = services.environment(workspace, accounts)
    assert (variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]) == login(
        str(accounts.path(OPERATOR))
    )
    assert variables["MLFLOW_SERVER_ALLOWED_HOSTS"] == "127.0.0.1:5000,localhost:5000"
    (mlflow,) = [s for s in services.services(variables, accounts) if s.name == "mlflow"]
    assert mlflow.command[-2:] == ["--app-name", "basic-auth"]
    others = [*services.services(variables, accounts), *services.services(services.environment(workspace))]
    assert sum("basic-auth" in service.command for service in others) == 1
    passwords = {login(str(accounts.path(name)))[1] for name in (OPERATOR, AUDITOR)}
    assert len(passwords) == 2
    assert not [s for s in others if passwords & set(s.command)]  # nothing that `ps` shows


def test_a_server_elsewhere_has_accounts_of_its_own(tmp_path, bare):
    bare.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    with pytest.raises(InputError, match="own MLflow server"):
        services.environment(Workspace(tmp_path), Accounts(tmp_path / "accounts"))
    assert not (tmp_path / "accounts").exists()


@pytest.mark.slow
def test_a_stack_with_accounts(tmp_path):
    expunge = Operator(tmp_path / "workspace")
    expunge("init", str(expunge.root), "--dataset", "breast-cancer")
    expunge("train")
    try:
        started = expunge("up", "--auth")
        url, accounts = started["urls"]["mlflow"], started["accounts"]
        assert set(accounts) == {OPERATOR, AUDITOR}
        whoami = f"{url}/api/2.0/mlflow/users/current"
        assert requests.get(whoami, timeout=30).status_code == 401
        for name, path in accounts.items():
            user = requests.get(whoami, auth=login(path), timeout=30).json()["user"]
            assert (user["username"], user["is_admin"]) == (name, name == OPERATOR)
        assert expunge("status")["healthy"]
        assert expunge("doctor")["healthy"]
        expunge("down")
        assert expunge("up", "--auth")["accounts"] == accounts
        assert requests.get(whoami, auth=login(accounts[AUDITOR]), timeout=30).status_code == 200
    finally:
        expunge("down")
    said = expunge.said + expunge.logs() + json.dumps(started)
    assert not [name for name, path in accounts.items() if login(path)[1] in said]
