"""`expunge up`: Prefect and MLflow ask who one is, and the operator's own commands go on as before."""

import json
import os
import stat
from pathlib import Path

import pytest
import requests

from cli import services
from expunge.errors import InputError, WorkspaceError
from expunge.settings import Workspace
from tasks.adapters.mlflow_accounts import AUDITOR, OPERATOR, Accounts
from tasks.adapters.prefect_access import CLIENT, ORIGINS, SERVER, read_secret, secret_path, take_up
from tests.stack.operator import Operator, wait


def login(path: str) -> tuple[str, str]:
    user, password = (line.split("=", 1)[1] for line in Path(path).read_text().splitlines())
    return user, password


@pytest.fixture
def bare(monkeypatch):
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_SERVER_ALLOWED_HOSTS",
        "PREFECT_API_URL",
        CLIENT,
        SERVER,
        ORIGINS,
    ):
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


def test_prefect_has_a_secret_that_is_kept_and_nobody_else_can_read(tmp_path, bare):
    workspace, before = Workspace(tmp_path), os.umask(0)
    try:
        variables = services.environment(workspace)
    finally:
        os.umask(before)
    path, secret = secret_path(workspace), variables[CLIENT]
    assert variables[SERVER] == secret == read_secret(workspace)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o600, 0o700]
    assert variables[ORIGINS] == "http://127.0.0.1:4200,http://localhost:4200"
    assert len(secret) > 40
    assert services.environment(workspace)[CLIENT] == secret
    assert services.environment(Workspace(tmp_path / "other"))[CLIENT] != secret
    assert not [s for s in services.services(variables) if secret in " ".join(s.command)]  # what `ps` shows
    bare.setenv(SERVER, "ours:chosen")
    assert services.environment(workspace)[CLIENT] == read_secret(workspace) == "ours:chosen"
    path.write_text("nonsense")
    bare.delenv(SERVER)
    with pytest.raises(WorkspaceError, match="damaged"):
        services.environment(workspace)


def test_a_prefect_server_elsewhere_has_a_secret_of_its_own(tmp_path, bare):
    bare.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    bare.setenv(CLIENT, "they:gave-it")
    variables = services.environment(Workspace(tmp_path))
    assert (variables[CLIENT], variables.get(SERVER)) == ("they:gave-it", None)
    assert not secret_path(Workspace(tmp_path)).exists()


@pytest.mark.parametrize("named", ["stack", "elsewhere", "own secret"])
def test_the_secret_is_taken_up_for_the_stacks_own_server_alone(tmp_path, bare, named):
    workspace = Workspace(tmp_path)
    url = services.environment(workspace)["PREFECT_API_URL"]
    workspace.stack_dir.mkdir()
    (workspace.stack_dir / "stack.json").write_text(json.dumps({"prefect": url, "urls": {}}))
    bare.setenv("PREFECT_API_URL", "http://other.example.org/api" if named == "elsewhere" else url)
    if named == "own secret":
        bare.setenv(CLIENT, "mine:own")
    else:
        bare.delenv(CLIENT, raising=False)
    take_up(workspace)
    expected = {"stack": read_secret(workspace), "elsewhere": None, "own secret": "mine:own"}
    assert os.environ.get(CLIENT) == expected[named]
    secret_path(workspace).write_text("damaged")
    take_up(workspace)  # `expunge down` goes on
    os.environ.pop(CLIENT, None)


@pytest.mark.slow
def test_a_stack_with_accounts(tmp_path):
    expunge = Operator(tmp_path / "workspace")
    expunge("init", str(expunge.root), "--dataset", "breast-cancer")
    expunge("train")
    try:
        started = expunge("up")
        url, accounts = started["urls"]["mlflow"], started["accounts"]
        assert set(accounts) == {OPERATOR, AUDITOR}
        whoami = f"{url}/api/2.0/mlflow/users/current"
        assert requests.get(whoami, timeout=30).status_code == 401
        for name, path in accounts.items():
            user = requests.get(whoami, auth=login(path), timeout=30).json()["user"]
            assert (user["username"], user["is_admin"]) == (name, name == OPERATOR)
        assert expunge("status")["healthy"]
        assert expunge("doctor")["healthy"]
        prefect = expunge.prefect_api
        for nobody in (None, ("expunge", "guessed"), login(accounts[OPERATOR])):
            for path in ("/flows/", "/deployments/", "/work_pools/filter", "/variables/", "/admin/settings"):
                asked = requests.post if path != "/admin/settings" else requests.get
                assert asked(prefect + path, json={}, auth=nobody, timeout=30).status_code == 401, path
        asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        told = requests.options(f"{prefect}/deployments/", headers=asking, timeout=30).headers
        assert "access-control-allow-origin" not in told
        secret = read_secret(Workspace(expunge.root))
        named = Operator(
            expunge.root, PREFECT_API_URL=prefect
        )  # as the runbook says: the file has the secret
        assert named("doctor")["healthy"]
        expunge.sweep()
        wait(lambda: expunge.runs("COMPLETED"), 120, "a sweep")
        expunge("down")
        assert expunge("up")["accounts"] == accounts
        assert requests.get(whoami, auth=login(accounts[AUDITOR]), timeout=30).status_code == 200
    finally:
        expunge("down")
    said = expunge.said + expunge.logs() + json.dumps(started)
    assert not [name for name, path in accounts.items() if login(path)[1] in said]
    assert secret not in said
