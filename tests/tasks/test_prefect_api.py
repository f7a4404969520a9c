"""Repairs of Prefect's run queue, on a real server."""

import subprocess
import sys
import time

import pytest

from expunge.errors import ServiceUnavailableError
from tasks.adapters.prefect_api import api, cancel_waiting, crash, crash_orphans, crash_runs_of, start

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def deployment(prefect_api):
    """A deployment of its own, on a pool of its own, with one slot."""
    name = f"t{time.time_ns()}"
    api(prefect_api, "/work_pools/", {"name": name, "type": "process"})
    flow = api(prefect_api, "/flows/", {"name": name})["id"]
    body = {"name": name, "flow_id": flow, "work_pool_name": name, "concurrency_limit": 1}
    return api(prefect_api, "/deployments/", body)


def run_of(url, deployment, kind="SCHEDULED", worker=None, pid=None):
    run = api(url, f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
    if worker:
        api(url, f"/flow_runs/{run}/labels", {"prefect.worker.name": worker}, "PATCH")
    if pid:
        api(url, f"/flow_runs/{run}", {"infrastructure_pid": str(pid)}, "PATCH")
    if kind != "SCHEDULED":
        api(url, f"/flow_runs/{run}/set_state", {"state": {"type": kind, "name": kind.capitalize()}})
    return run


def state_of(url, run):
    return api(url, f"/flow_runs/{run}")["state_type"]


def test_runs_that_ended_with_their_worker_are_marked_and_give_their_slot_back(
    prefect_api, deployment, monkeypatch
):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    dead = run_of(prefect_api, deployment, "PENDING", "gpu-here", process.pid)
    assert state_of(prefect_api, dead) == "PENDING"
    second = run_of(prefect_api, deployment, "PENDING", "gpu-here")
    assert state_of(prefect_api, second) == "SCHEDULED"  # the slot is taken
    for another in ("gpu-elsewhere", "gpu-here-cuda-1"):  # another machine's, another device's
        assert crash_runs_of(prefect_api, deployment["work_pool_name"], another) == 0
    assert crash_runs_of(prefect_api, "another-pool", "gpu-here") == 0
    assert crash_runs_of(prefect_api, deployment["work_pool_name"], "gpu-here") == 1
    assert state_of(prefect_api, dead) == "CRASHED"

    state = {"type": "PENDING", "name": "Pending"}
    api(prefect_api, f"/flow_runs/{second}/set_state", {"state": state})
    assert state_of(prefect_api, second) == "PENDING"  # the slot was given back
    alive = subprocess.Popen(SLEEP, env={"PREFECT__FLOW_RUN_ID": second})
    try:
        api(prefect_api, f"/flow_runs/{second}", {"infrastructure_pid": str(alive.pid)}, "PATCH")
        assert crash_runs_of(prefect_api, deployment["work_pool_name"], "gpu-here") == 0
    finally:
        alive.kill()
        alive.wait()
    assert crash_runs_of(prefect_api, deployment["work_pool_name"], "gpu-here") == 1


def test_waiting_runs_are_cancelled_all_at_once_and_others_are_left(prefect_api, deployment):
    running = run_of(prefect_api, deployment, "PENDING", "cpu-here")
    waiting = [run_of(prefect_api, deployment) for _ in range(55)]
    later = api(
        prefect_api,
        f"/deployments/{deployment['id']}/create_flow_run",
        {"state": {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}},
    )["id"]
    assert cancel_waiting(prefect_api, deployment["id"], "done by another") == 55
    assert {state_of(prefect_api, run) for run in waiting} == {"CANCELLED"}
    assert (state_of(prefect_api, running), state_of(prefect_api, later)) == ("PENDING", "SCHEDULED")
    assert cancel_waiting(prefect_api, deployment["id"], "done by another") == 0


def test_what_a_crashed_run_had_begun_is_marked_too(prefect_api, deployment):
    inside = {}
    for kind in ("RUNNING", "CRASHED"):
        parent = run_of(prefect_api, deployment, "PENDING")
        call = api(
            prefect_api, "/task_runs/", {"flow_run_id": parent, "task_key": "erase", "dynamic_key": "0"}
        )
        body = {
            "flow_id": deployment["flow_id"],
            "parent_task_run_id": call["id"],
            "state": {"type": "RUNNING"},
        }
        inside[kind] = api(prefect_api, "/flow_runs/", body)["id"]
        if kind == "CRASHED":
            crash(prefect_api, parent, "killed")
        else:
            api(prefect_api, f"/flow_runs/{parent}/set_state", {"state": {"type": "RUNNING"}})
    assert crash_orphans(prefect_api, deployment["id"]) == 1
    assert {kind: state_of(prefect_api, run) for kind, run in inside.items()} == {
        "RUNNING": "RUNNING",
        "CRASHED": "CRASHED",
    }
    assert crash_orphans(prefect_api, deployment["id"]) == 0


def test_no_server_is_a_plain_error():
    with pytest.raises(ServiceUnavailableError):
        api("http://127.0.0.1:9/api", "/health")


def test_a_deployment_is_started_by_its_name(prefect_api, deployment):
    run = start(prefect_api, f"{deployment['name']}/{deployment['name']}")
    assert api(prefect_api, f"/flow_runs/{run}")["deployment_id"] == deployment["id"]
    with pytest.raises(ServiceUnavailableError):
        start(prefect_api, "no/such")
