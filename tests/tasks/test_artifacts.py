"""Artifacts on a real Prefect server; without one, and with one that hangs, nothing is shown and nothing fails."""

import json
import socket
import subprocess
import time

import pytest
from prefect import flow

from tasks import summary
from tasks.adapters import artifacts
from tasks.adapters.artifacts import mlflow_page, show_link, show_progress, show_table
from tasks.adapters.prefect_api import api


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(artifacts, "_pause_ends", 0.0)


@pytest.fixture
def key():
    return f"b-{time.time_ns():x}"


def stored(url: str, key: str) -> list[dict]:
    return api(url, "/artifacts/filter", {"artifacts": {"key": {"like_": f"{key}%"}}, "sort": "KEY_ASC"})


@flow(name="shows", persist_result=False)
def shows(key: str, number: int) -> None:
    assert show_progress(f"{key}-1", 12.5 * number, f"{number} of 8")
    assert show_table(f"{key}-2", [{"": "records", "value": number}], "a table")
    assert show_link(f"{key}-3", f"http://localhost/{number}", "the version", "a link")
    for _ in range(2):
        assert show_table(f"{key}-4", [{"batches": number}], "of each run", each_run=True)


def test_what_is_shown_again_changes_and_is_not_shown_twice(prefect_api, key):
    for number in (1, 2):
        shows(key, number)
    progress, table, link, earlier, latest = stored(prefect_api, key)
    assert (progress["type"], progress["data"], progress["description"]) == ("progress", 25.0, "2 of 8")
    assert (table["type"], json.loads(table["data"])) == ("table", [{"": "records", "value": 2}])
    assert (link["type"], link["data"]) == ("markdown", "[the version](http://localhost/2)")
    assert {json.loads(one["data"])[0]["batches"] for one in (earlier, latest)} == {1, 2}
    assert earlier["flow_run_id"] != latest["flow_run_id"]
    newest = api(prefect_api, f"/artifacts/{key}-4/latest")
    assert json.loads(newest["data"]) == [{"batches": 2}]
    assert api(prefect_api, f"/artifacts/{key}-1/latest")["data"] == 25.0


def test_outside_a_run_nothing_is_asked_or_started(monkeypatch, tmp_path):
    def never(*arguments, **named):
        raise AssertionError("called")

    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(artifacts, "api", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    for url in ("", "http://127.0.0.1:9/api"):
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert not show_progress("b-1", 0.0, "")
        assert not summary.summarise.fn("b-000000000000")  # nor is there a workspace
        assert not summary.summarise_sweep.fn([], 0)


@pytest.mark.parametrize("kind", ["hangs", "refuses", "talks nonsense"])
def test_an_outage_costs_one_short_wait(monkeypatch, caplog, kind):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        if kind == "refuses":
            server.close()

        def counted(*arguments, **named):
            asked.append(arguments)
            if kind == "talks nonsense":
                raise KeyError("id")
            return api(*arguments, **named)

        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "9f7b2f5e-0000-4000-8000-000000000000")
        monkeypatch.setattr(artifacts, "_PATIENCE_S", 0.2)
        monkeypatch.setattr(artifacts, "api", counted)
        assert not show_progress("b-1-progress", 0.0, "")
        assert not show_table("b-1-summary", [], "")
        assert len(asked) == 1
        assert [record.artifact for record in caplog.records] == ["b-1-progress"]
        monkeypatch.setattr(artifacts, "_pause_ends", 0.0)  # a minute later
        assert not show_progress("b-1-progress", 0.0, "")
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("variables", "page"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_URI": "sqlite:////mlflow.db"}, None),
        ({"EXPUNGE_MLFLOW_PORT": "5000"}, None),
        (
            {"MLFLOW_TRACKING_URI": "https://u:secret@m.example/x/"},
            "https://m.example/x/#/models/a%2Fb/versions/3",
        ),
        (
            {"MLFLOW_TRACKING_URI": "http://m:1", "EXPUNGE_HOST": "h", "EXPUNGE_MLFLOW_PORT": "2"},
            "http://m:1/#/models/a%2Fb/versions/3",
        ),
        (
            {"EXPUNGE_HOST": "0.0.0.0", "EXPUNGE_MLFLOW_PORT": "5000"},
            "http://127.0.0.1:5000/#/models/a%2Fb/versions/3",
        ),
    ],
)
def test_address_of_a_version(monkeypatch, variables, page):
    for name in ("MLFLOW_TRACKING_URI", "EXPUNGE_HOST", "EXPUNGE_MLFLOW_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mlflow_page("a/b", 3) == page
