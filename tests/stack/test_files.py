"""Deployments, container and unit files, as far as they can be checked without an engine."""

import ast
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import prefect.server
import pytest
import typer
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from kubernetes_validate import ValidationError, validate
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.utilities.templating import apply_values

from cli.main import app
from expunge.errors import ServiceUnavailableError
from tasks.adapters import supervisor
from tasks.adapters.prefect_api import api

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
CONTAINERFILE = (ROOT / "deploy" / "Containerfile").read_text()
UNIT = (ROOT / "deploy" / "expunge.service").read_text()
KUBERNETES = json.loads((ROOT / "deploy" / "kubernetes-work-pool.json").read_text())
KUBERNETES_VERSIONS = [
    "1.25",
    "1.31",
    "1.37",
]  # the oldest, one in between and the newest of kubernetes-validate
CHANGE_A_LINEAGE = {"train", "sweep", "erase", "unlearn"}
OUTSIDE = {"prefect": {"server start", "worker start"}, "mlflow": {"server"}}


def commands() -> list[list[str]]:
    procfile = [shlex.split(line.split(":", 1)[1]) for line in (ROOT / "Procfile").read_text().splitlines()]
    (unit,) = re.findall(r"^ExecStart=\S+/(expunge .*)$", UNIT, flags=re.MULTILINE)
    return [
        *procfile,
        shlex.split(unit),
        *(s["command"] for s in COMPOSE["services"].values() if "command" in s),
    ]


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
    options = {name for parameter in known[rest[0]].params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options


def test_compose_essentials():
    assert set(COMPOSE["services"]) == {"postgres", "prefect", "mlflow", "worker-cpu", "worker-gpu", "intake"}
    for name, service in COMPOSE["services"].items():
        assert re.fullmatch(r"[\w/]+:\d+\.\d+[\w.-]*", service["image"]), name
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in COMPOSE["services"][needed]
        assert service["environment"].get("PREFECT_API_AUTH_STRING") or name == "postgres"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            assert volume.startswith("./") or volume.split(":")[0] in COMPOSE["volumes"]
            assert not volume.startswith("./") or (ROOT / "deploy" / volume.split(":")[0]).exists()


def test_compose_prefect_asks_who_one_is():
    environment = COMPOSE["services"]["prefect"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"]
    assert ":?}" in environment["PREFECT_SERVER_API_AUTH_STRING"]  # no default that everyone knows
    assert "*" not in environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]


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


def test_deployments_are_prefects():
    """Prefect's own models drop keys that they do not know: none may be."""
    model = PrefectYamlModel.model_validate(PREFECT)
    assert set(PREFECT) <= set(PrefectYamlModel.model_fields)
    for written, read in zip(PREFECT["deployments"], model.deployments, strict=True):
        assert set(written) <= set(DeploymentConfig.model_fields)
        limit = written.get("concurrency_limit", {})
        assert set(limit) <= set(ConcurrencyLimitSpec.model_fields)
        assert not limit or ConcurrencyLimitStrategy(limit["collision_strategy"])
        for schedule in read.schedules or []:
            assert isinstance(schedule, RawScheduleConfig)  # no key is unknown
            assert CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        for trigger in written.get("triggers", []):
            assert set(trigger) <= set(DeploymentEventTrigger.model_fields)
            assert DeploymentEventTrigger.model_validate(trigger).expect == set(trigger["expect"])
    ((step, inputs),) = PREFECT["pull"][0].items()
    module, _, function = step.rpartition(".")
    inspect.signature(getattr(importlib.import_module(module), function)).bind(**inputs)


def test_compose_follows_the_specification():
    schema = get_builtin_schema("vendor.compose-spec")
    judge = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in judge.iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {**COMPOSE["services"], "x": {"restarts": "no"}}}
    assert not judge.is_valid(wrong)


def leaves(node, path=""):
    """Values of a JSON document by path."""
    if not isinstance(node, dict | list):
        return {path: node}
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return {p: v for name, child in pairs for p, v in leaves(child, f"{path}/{name}").items()}


def test_kubernetes_template_keeps_what_prefects_own_fixes():
    """The worker refuses a job without the fixed values of its default template, odd ones in the pod included."""
    shipped = Path(prefect.server.__file__).parent / "api" / "collections_data" / "views"
    workers = json.loads((shipped / "aggregate-worker-metadata.json").read_text())["prefect-kubernetes"]
    default = workers["kubernetes"]["default_base_job_configuration"]["job_configuration"]
    own = KUBERNETES["job_configuration"]
    assert set(own) <= set(default)
    fixed = {p: v for p, v in leaves(default["job_manifest"]).items() if "{{" not in str(v)}
    assert "/spec/template/spec/containers/0/name" in fixed
    assert fixed.items() <= leaves(own["job_manifest"]).items()


@pytest.mark.parametrize("gpus", [None, 1])
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_template_makes_a_job(version, gpus):
    """Filled in by Prefect; its worker then turns the variables of the environment into a list, as here."""
    variables = {n: v["default"] for n, v in KUBERNETES["variables"]["properties"].items() if "default" in v}
    variables |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": {"A": "b"}}
    variables |= {} if gpus is None else {"gpus": gpus}
    job = apply_values(KUBERNETES["job_configuration"]["job_manifest"], variables)
    assert "{{" not in json.dumps(job)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    with pytest.raises(ValidationError, match="completions"):
        validate(job, version, strict=True)
    del pod["completions"], pod["parallelism"]  # Prefect's: no part of a pod, and ignored there
    assert validate(job, version, strict=True) == version
    assert container["resources"]["limits"] == {"nvidia.com/gpu": gpus or 0}


def test_kubernetes_template_is_taken_by_a_prefect_server(prefect_api):
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(KUBERNETES["job_configuration"])))
    assert used == set(KUBERNETES["variables"]["properties"])
    pool = {"name": "kubernetes-template", "type": "kubernetes", "base_job_template": KUBERNETES}
    assert api(prefect_api, "/work_pools/", pool)["base_job_template"] == KUBERNETES
    broken = {**KUBERNETES, "variables": {"type": "object", "properties": {}}}
    with pytest.raises(ServiceUnavailableError, match="422"):
        api(prefect_api, "/work_pools/", {**pool, "name": "broken", "base_job_template": broken})


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="this machine has no systemd")
@pytest.mark.parametrize("mistake", ["", "KillMode=mixed", "Restart=on-failure"])
def test_unit_file(mistake, tmp_path):
    """Judged by systemd, with the command where it is on this machine; a mistake is one that it finds."""
    unit, command = tmp_path / "expunge.service", Path(sys.executable).parent / "expunge"
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={command}", UNIT, flags=re.MULTILINE)
    unit.write_text(text.replace(mistake, f"{mistake}x") if mistake else text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "expunge.service" in line]
    assert bool(said) == bool(mistake)
    assert done.returncode == 0 or mistake


def test_the_service_manager_waits_as_long_as_a_stop_may_take():
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, flags=re.MULTILINE)
    needed = inspect.signature(supervisor.shut_down).parameters["wait_s"].default
    assert int(seconds) > needed
