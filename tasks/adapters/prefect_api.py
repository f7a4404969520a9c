"""Prefect's API over plain HTTP, for what must not pay for importing Prefect, and two repairs of its run queue."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from expunge.errors import ServiceUnavailableError

_PAGE = 50  # what Prefect changes or lists in one request at most
_TIMEOUT_S, _GLANCE_S, _SOON_S = 30.0, 5.0, 300.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # between tries
_secrets: dict[str, str] = {}  # of servers that this process was told of, by URL


def introduce(url: str, secret: str) -> None:
    """Tell this process the secret of a server, whatever its environment says of others.

    Args:
        url: The API's URL.
        secret: ``user:password``.
    """
    _secrets[url.rstrip("/")] = secret


def authorization(url: str) -> dict[str, str]:
    """Who we are, for a request to Prefect.

    Args:
        url: The API's URL.

    Returns:
        A header, or none: a server may ask nobody.
    """
    secret = _secrets.get(url.rstrip("/")) or os.environ.get("PREFECT_API_AUTH_STRING")
    if secret:
        return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
    key = os.environ.get("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def api(
    url: str, path: str, body: Any = None, method: str | None = None, *, at_most_s: float | None = None
) -> Any:
    """Ask the Prefect server.

    Args:
        url: The API's URL.
        path: Below it.
        body: JSON to post.
        method: Other than GET, or POST where there is a body.
        at_most_s: Give up when nothing came for so long, and do not try again.

    Returns:
        The answer; None where there is none.

    Raises:
        ServiceUnavailableError: If it does not answer, or says no.
    """
    headers = {"Content-Type": "application/json", **authorization(url)}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    pauses = iter(_PAUSES_S if at_most_s is None else ())
    while True:
        try:
            with urllib.request.urlopen(request, timeout=at_most_s or _TIMEOUT_S) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except (OSError, ValueError) as error:
            busy = isinstance(error, urllib.error.HTTPError) and error.code == 503  # its SQLite was
            if busy and (pause := next(pauses, None)):
                time.sleep(pause)
                continue
            if isinstance(error, urllib.error.HTTPError) and error.code == 401:
                raise ServiceUnavailableError(
                    "the Prefect server does not know us",
                    expected="its secret in PREFECT_API_AUTH_STRING",
                    got=str(error),
                    remedy="set it as .expunge/accounts/prefect.env of the stack's workspace does",
                ) from error
            raise ServiceUnavailableError(
                "the Prefect server does not answer",
                got=str(error),
                remedy="see `expunge status` and .expunge/logs",
            ) from error


def start(url: str, deployment: str, after_s: float = 0.0) -> str:
    """Start a deployment.

    Args:
        url: The API's URL.
        deployment: ``flow/name``.
        after_s: In how many seconds.

    Returns:
        The run's id.

    Raises:
        ServiceUnavailableError: If the server does not answer, or has no such deployment.
    """
    found = api(url, f"/deployments/name/{deployment}")["id"]
    at = datetime.now(UTC) + timedelta(seconds=after_s)
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at.isoformat()}}
    return str(api(url, f"/deployments/{found}/create_flow_run", {"state": state})["id"])


def crash(url: str, run_id: str, why: str) -> None:
    """Mark a run crashed, which gives its slots of concurrency limits back.

    Args:
        url: The API's URL.
        run_id: Of the run.
        why: For whoever looks at it.

    Raises:
        ServiceUnavailableError: If the server does not answer.
    """
    state = {"type": "CRASHED", "name": "Crashed", "message": why}
    api(url, f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})


def crash_runs_of(url: str, pool: str, worker: str, *, starting: bool = True) -> int:
    """Mark those runs of a worker crashed whose process is gone: Prefect itself would show them running for ever.

    Args:
        url: The API's URL.
        pool: The work pool.
        worker: The worker's name, on this machine.
        starting: Whether that worker has not begun; else it may be about to start a run's process.

    Returns:
        How many.

    Raises:
        ServiceUnavailableError: If the server does not answer.
    """
    chosen = {
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [pool]}},
        "limit": _PAGE,
    }
    count = 0
    for run in api(url, "/flow_runs/filter", chosen):
        begun = starting or (run["state_type"] == "RUNNING" and run["infrastructure_pid"])
        if begun and run["labels"].get("prefect.worker.name") == worker and not _runs(run):
            crash(url, run["id"], "its process is gone")
            count += 1
    return count


def count_waiting(url: str, deployment: str) -> int:
    """How many runs of a deployment are about to start: due, or within minutes.

    Args:
        url: The API's URL.
        deployment: ``flow/name``.

    Returns:
        Their number.

    Raises:
        ServiceUnavailableError: If the server does not answer, or has no such deployment.
    """
    found = api(url, f"/deployments/name/{deployment}")["id"]
    soon = datetime.now(UTC) + timedelta(seconds=_SOON_S)
    chosen = {
        "deployment_id": {"any_": [found]},
        "state": {"type": {"any_": ["SCHEDULED", "PENDING"]}},
        "expected_start_time": {"before_": soon.isoformat()},
    }
    return int(api(url, "/flow_runs/count", {"flow_runs": chosen}))


def crash_orphans(url: str, deployment_id: str) -> int:
    """Mark the runs crashed that a crashed run of a deployment had begun inside itself: they ended with its process.

    Args:
        url: The API's URL.
        deployment_id: Whose runs.

    Returns:
        How many.

    Raises:
        ServiceUnavailableError: If the server does not answer.
    """
    crashed = {"deployment_id": {"any_": [deployment_id]}, "state": {"type": {"any_": ["CRASHED"]}}}
    newest = {"flow_runs": crashed, "sort": "END_TIME_DESC", "limit": _PAGE}
    parents = [run["id"] for run in api(url, "/flow_runs/filter", newest)]
    inside = {"parent_flow_run_id": {"any_": parents}, "state": {"type": {"any_": ["RUNNING"]}}}
    orphans = api(url, "/flow_runs/filter", {"flow_runs": inside, "limit": _PAGE}) if parents else []
    for run in orphans:
        crash(url, run["id"], "the process of the run around it was killed")
    return len(orphans)


def _runs(run: dict[str, Any]) -> bool:
    """Whether the run's process is there; a later process with its id is another one."""
    with suppress(psutil.Error, TypeError, ValueError):
        process = psutil.Process(int(run["infrastructure_pid"]))
        return process.environ().get("PREFECT__FLOW_RUN_ID") == run["id"]
    return False


def last_run(url: str, flow: str) -> dict[str, Any] | None:
    """The run of a flow that ended last; cancelled ones do not count, for they did nothing.

    Args:
        url: The API's URL.
        flow: The flow's name.

    Returns:
        ``{outcome, ended_at, message}``, or None if there is none.

    Raises:
        ServiceUnavailableError: If the server does not answer within seconds.
    """
    chosen = {
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        "sort": "END_TIME_DESC",
        "limit": 1,
    }
    for run in api(url, "/flow_runs/filter", chosen, at_most_s=_GLANCE_S):
        message = str(run["state"]["message"] or "")
        return {"outcome": run["state_type"].lower(), "ended_at": run["end_time"], "message": message}
    return None


def cancel_waiting(url: str, deployment_id: str, why: str) -> int:
    """Cancel the runs of a deployment that should have started by now and have not.

    Args:
        url: The API's URL.
        deployment_id: Whose runs.
        why: For whoever looks at them.

    Returns:
        How many.

    Raises:
        ServiceUnavailableError: If the server does not answer.
    """
    chosen = {
        "deployment_id": {"any_": [deployment_id]},
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
    }
    body = {"flow_runs": chosen, "state": {"type": "CANCELLED", "message": why}}
    count = 0
    while True:
        results = api(url, "/flow_runs/bulk_set_state", body)["results"]
        accepted = sum(result["status"] == "ACCEPT" for result in results)
        count += accepted
        if not accepted or len(results) < _PAGE:
            return count
