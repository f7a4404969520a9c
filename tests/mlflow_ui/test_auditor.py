"""An auditor at work in MLflow: reads everything, follows the lineage by clicking, and can change nothing.

EXPUNGE_TEST_PICTURES=FOLDER keeps screenshots; those in docs/images are made so.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.mlflow_ui.browser import browser
from tests.mlflow_ui.lineage import GOLDEN, Audited, audited

API = "api/2.0/mlflow"


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    with audited(tmp_path_factory.mktemp("expunge")) as found:
        yield found


def test_the_lineage_is_followed_by_clicking(at: Audited, tmp_path):
    c, name = at.certificate, at.registry.name
    before, after = c["dataset"]["before"], c["dataset"]["after"]
    user, password = at.login("auditor")
    with browser(tmp_path / "profile") as page:
        page.driver.get(f"{at.url.replace('://', f'://{user}:{password}@')}/version")  # answers the login
        page.driver.execute_script(
            "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        )
        page.driver.get(f"{at.url}/#/models/{name}")
        page.sees("Current: version 3", "superseded, weights purged at 20", "auditor")
        page.shoot("auditor-model")

        page.click("version 3")
        page.sees("Parent: version 2", "Child: none yet", "State: current")
        page.click("version 2")
        page.sees("Parent: version 1", "Child: version 3", "State: superseded, weights purged at 20")
        page.sees("superseded weights of version 1 purged at 20", "hardly distinguishable")
        page.shoot("auditor-version")
        version = page.driver.current_window_handle

        page.click(before["md5"])
        shown = f"data/dataset ({before['md5'].removesuffix('.dir')})"
        page.sees(shown, "Before Removal", c["batch"])
        page.click(shown)
        page.sees("2 datasets used", before["git_revision"], after["md5"].removesuffix(".dir"))
        page.shoot("auditor-dataset")
        page.back_to(version)

        page.click("certificate.html")
        text = page.frame(
            lambda: "Certificate of unlearning" in page.text() and page.text(), "no certificate in a frame"
        )
        assert c["certificate_id"] in text
        assert "hardly distinguishable" in text
        page.shoot("auditor-certificate")
        page.click("accumulated_error.png")
        assert page.picture().get_property("naturalWidth") > 300
        page.shoot("auditor-picture")
        page.back_to(version)

        page.click("ledger.json")
        page.sees('"kind": "release"', c["certificate_id"], c["model"]["digest"])
        page.shoot("auditor-ledger")
        for file, said in (
            ("certificate.json", '"guarantee": "convex"'),
            ("gates.json", '"gates"'),
            ("purge.json", '"kind"'),
        ):
            page.back_to(version)
            page.click(file)
            page.sees(said)
        page.back_to(version)
        page.click("version 1")
        page.sees("First version", "Parent: none", "Child: version 2", "weights purged at 20")


def attempts(at: Audited):
    """What an auditor must not be able to do: method, path, body."""
    run, name = at.registry.get(2).run_id, at.registry.name
    model, alias = {"name": name, "version": "2"}, {"name": name, "alias": "champion", "version": "2"}
    artifact = (
        f"api/2.0/mlflow-artifacts/artifacts/{at.registry.experiment_id}/{run}/artifacts/certificate.json"
    )
    account = {"username": "mallory", "password": "a-long-enough-password"}
    return {
        "tag a version": ("POST", f"{API}/model-versions/set-tag", model | {"key": "epsilon", "value": "0"}),
        "untag a version": ("DELETE", f"{API}/model-versions/delete-tag", model | {"key": "epsilon"}),
        "tag a run": ("POST", f"{API}/runs/set-tag", {"run_id": run, "key": "epsilon", "value": "0"}),
        "move the alias": ("POST", f"{API}/registered-models/alias", alias),
        "describe a version": ("PATCH", f"{API}/model-versions/update", model | {"description": "all is well"}),
        "describe the model": ("PATCH", f"{API}/registered-models/update", {"name": name, "description": "x"}),
        "delete a version": ("DELETE", f"{API}/model-versions/delete", model),
        "delete the model": ("DELETE", f"{API}/registered-models/delete", {"name": name}),
        "register a version": ("POST", f"{API}/model-versions/create", {"name": name, "source": f"runs:/{run}/model"}),
        "delete a run": ("POST", f"{API}/runs/delete", {"run_id": run}),
        "log a metric": ("POST", f"{API}/runs/log-metric", {"run_id": run, "key": "a", "value": 1, "timestamp": 0}),
        "delete the experiment": ("POST", f"{API}/experiments/delete", {"experiment_id": at.registry.experiment_id}),
        "start a run": ("POST", f"{API}/runs/create", {"experiment_id": at.registry.experiment_id}),
        "upload an artifact": ("PUT", artifact, {}),
        "delete an artifact": ("DELETE", artifact, {}),
        "make an account": ("POST", f"{API}/users/create", account),
        "become an admin": ("PATCH", f"{API}/users/update-admin", {"username": "auditor", "is_admin": True}),
    }  # fmt: skip


def ask(at: Audited, who: str, method: str, path: str, body=None) -> requests.Response:
    return requests.request(method, f"{at.url}/{path}", json=body, auth=at.login(who), timeout=30)


def test_writing_is_refused(at: Audited):
    before = at.registry.get(2), at.registry.champion()
    refused = {what: ask(at, "auditor", *attempt).status_code for what, attempt in attempts(at).items()}
    assert set(refused.values()) == {403}, refused
    assert (at.registry.get(2), at.registry.champion()) == before
    assert requests.get(f"{at.url}/{API}/experiments/get?experiment_id=1", timeout=30).status_code == 401
    assert (
        ask(at, "operator", *attempts(at)["tag a version"]).status_code == 200
    )  # the attempts are real ones
    at.registry.tag(2, "epsilon", before[0].tags["epsilon"])


def test_the_limits_that_are_documented(at: Audited):
    """An account can create experiments, and what it created is its own; whoever may write can edit any tag."""
    made = ask(at, "auditor", "POST", f"{API}/experiments/create", {"name": "an auditor's own"})
    assert made.status_code == 200
    own = {"experiment_id": made.json()["experiment_id"], "key": "a", "value": "b"}
    assert ask(at, "auditor", "POST", f"{API}/experiments/set-experiment-tag", own).status_code == 200


def test_other_names_of_the_server_are_refused(at: Audited):
    asked = {"headers": {"Host": "mlflow.example.org"}, "auth": at.login("operator"), "timeout": 30}
    assert requests.get(f"{at.url}/{API}/experiments/get?experiment_id=1", **asked).status_code == 403


def test_passwords_are_in_files_of_their_owner_and_nowhere_else(at: Audited):
    folder = at.accounts.folder
    assert folder.stat().st_mode & 0o777 == 0o700
    secret = {path.name for path in folder.iterdir() if path.suffix in (".env", ".key", ".ini")}
    assert secret == {"operator.env", "auditor.env", "server-secret.key", "basic_auth.ini"}
    assert all((folder / name).stat().st_mode & 0o777 == 0o600 for name in secret)
    passwords = [at.login(who)[1].encode() for who in ("operator", "auditor")]
    elsewhere = [p for p in folder.parent.rglob("*") if p.is_file() and p.suffix != ".env"]
    assert any(path.name == "server.log" for path in elsewhere)
    assert not [p for p in elsewhere if any(password in p.read_bytes() for password in passwords)]
    assert at.accounts.prepare() == at.accounts.prepare()  # kept
    at.accounts.ensure_auditor(at.url)
    path = at.accounts.path("auditor")
    path.write_text(re.sub("PASSWORD=.*", "PASSWORD=another-password-of-hers", path.read_text()))
    at.accounts.ensure_auditor(at.url)  # a lost file is made anew, and counts
    assert ask(at, "auditor", "GET", f"{API}/users/current").json()["user"]["is_admin"] is False


def test_the_guides_commands_copy_the_evidence(at: Audited, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "auditor-guide.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"<!-- tested: copy -->\n```bash\n(.*?)```", guide, flags=re.DOTALL)
    shutil.copy(at.accounts.path("auditor"), tmp_path)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_SERVER": at.url,
            "RUN": at.registry.get(2).run_id,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"certificate.json", "ledger.json", "annex.sealed", "purge.json"} <= set(done.stdout.split())
    assert (tmp_path / "evidence" / "ledger.json").read_bytes() == (GOLDEN / "ledger.json").read_bytes()
