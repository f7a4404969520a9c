"""Deployments and container files, as far as they can be checked without an engine."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
CHANGE_A_LINEAGE = {"train", "sweep", "erase", "unlearn"}
OUTSIDE = {"prefect": {"server start", "worker start"}, "mlflow": {"server"}}


def commands() -> list[list[str]]:
    procfile = [shlex.split(line.split(":", 1)[1]) for line in (ROOT / "Procfile").read_text().splitlines()]
    return procfile + [s["command"] for s in COMPOSE["services"].values() if "command" in s]


def test_deployments_name_flows_that_exist():
    deployments = {d["name"]: d for d in PREFECT["deployments"]}
    assert set(deployments) == CHANGE_A_LINEAGE | {"verify"}
    for name, deployment in deployments.items():
        path, function = deployment["entrypoint"].split(":")
        tree = ast.parse((ROOT / path).read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert deployment["work_pool"]["name"] == ("gpu" if name == "unlearn" else "cpu")
        if name in CHANGE_A_LINEAGE:
            assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert all(schedule["slug"] for schedule in deployment.get("schedules", []))
    assert deployments["sweep"]["triggers"][0]["expect"] == ["expunge.ticket.received"]


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words[:3]))
def test_commands_exist(command):
    tool, *rest = command
    if tool != "expunge":
        assert any(" ".join(rest).startswith(known) for known in OUTSIDE[tool])
        return
    known = typer.main.get_command(app).commands
    if rest[0] == "serve" and "serve" not in known:
        pytest.skip("this version has no HTTP intake")
    options = {name for parameter in known[rest[0]].params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options


def test_compose_essentials():
    assert set(COMPOSE["services"]) == {"postgres", "prefect", "mlflow", "worker-cpu", "worker-gpu", "intake"}
    for name, service in COMPOSE["services"].items():
        assert re.fullmatch(r"[\w/]+:\d+\.\d+[\w.-]*", service["image"]), name
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in COMPOSE["services"][needed]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            assert volume.startswith("./") or volume.split(":")[0] in COMPOSE["volumes"]
            assert not volume.startswith("./") or (ROOT / "deploy" / volume.split(":")[0]).exists()


def test_every_variable_is_known():
    from mlflow import environment_variables
    from mlflow.cli import cli as mlflow_cli
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    server = {p.envvar for p in mlflow_cli.commands["server"].params if p.envvar}
    prefect = set(_get_settings_fields(Settings))
    source = (
        "".join(path.read_text() for f in ("cli", "tasks", "expunge") for path in (ROOT / f).rglob("*.py"))
        + (ROOT / "prefect.yaml").read_text()
    )
    names = {name for s in COMPOSE["services"].values() for name in s["environment"]}
    names |= set(re.findall(r"\b([A-Z_]+)=", CONTAINERFILE)) | set(
        re.findall(r"\$([A-Z_]+)", (ROOT / "Procfile").read_text())
    )
    for name in names - {"POSTGRES_USER", "POSTGRES_PASSWORD", "DO_NOT_TRACK"}:
        if name.startswith("EXPUNGE_"):
            assert name in source or re.fullmatch("EXPUNGE_(PREFECT|MLFLOW|INTAKE)_PORT", name), name
        elif name.startswith("PREFECT_"):
            assert name in prefect, name
        else:
            assert hasattr(environment_variables, name) or name in server, name


def test_container_file():
    assert re.search(r"^FROM python:3\.11\.\d+-", CONTAINERFILE, flags=re.MULTILINE)
    copied = re.findall(r"^COPY (.+) \S+$", CONTAINERFILE, flags=re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
    assert "USER expunge" in CONTAINERFILE


def test_kubernetes_template_uses_the_variables_it_declares():
    template = json.loads((ROOT / "deploy" / "kubernetes-work-pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
