"""Prefect artifacts: what its pages show of a run. For display only: nothing waits for it or fails with it.

Over plain HTTP, because Prefect's client repeats a call for minutes while its server is away.
"""

import json
import logging
import os
import time
from typing import Any
from urllib.parse import quote, urlsplit

from prefect.runtime import flow_run

from tasks.adapters.prefect_api import api

_PATIENCE_S = 3.0  # with one request
_PAUSE_S = 60.0  # after one in vain: an outage costs a batch seconds, not seconds a stage
_log = logging.getLogger("expunge.artifacts")
_pause_ends = 0.0


def show_progress(key: str, percent: float, description: str) -> bool:
    """Show how far something is; again with its key, that changes.

    Args:
        key: Lower-case letters, digits and dashes.
        percent: 0 to 100.
        description: Without personal data.

    Returns:
        Whether Prefect shows it.
    """
    return _show(key, "progress", percent, description)


def show_table(key: str, rows: list[dict[str, Any]], description: str, *, each_run: bool = False) -> bool:
    """Show a table; again with its key, its rows change.

    Args:
        key: Lower-case letters, digits and dashes.
        rows: Cells by column, without personal data.
        description: Without personal data.
        each_run: Keep what other runs showed with this key, as earlier versions.

    Returns:
        Whether Prefect shows it.
    """
    return _show(key, "table", json.dumps(rows), description, each_run=each_run)


def show_link(key: str, url: str, text: str, description: str) -> bool:
    """Show a link; again with its key, it changes.

    Args:
        key: Lower-case letters, digits and dashes.
        url: Where it leads.
        text: What is underlined.
        description: Without personal data.

    Returns:
        Whether Prefect shows it.
    """
    return _show(key, "markdown", f"[{text}]({url})", description)


def mlflow_page(name: str, version: int) -> str | None:
    """Address of a model version in MLflow's pages.

    Args:
        name: Of the registered model.
        version: Its number.

    Returns:
        On the server of ``MLFLOW_TRACKING_URI``, else on the stack's; None where neither is named.
    """
    named = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    host, port = os.environ.get("EXPUNGE_HOST"), os.environ.get("EXPUNGE_MLFLOW_PORT")
    if named.scheme in ("http", "https"):
        # what stands before an @ is a password
        base = named._replace(netloc=named.netloc.rpartition("@")[2], query="", fragment="").geturl()
    elif host and port:
        base = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    else:
        return None
    return f"{base.rstrip('/')}/#/models/{quote(name, safe='')}/versions/{version}"


def _show(key: str, kind: str, data: Any, description: str, *, each_run: bool = False) -> bool:
    global _pause_ends
    url, run = os.environ.get("PREFECT_API_URL"), flow_run.id
    if not url or not run or time.monotonic() < _pause_ends:
        return False
    chosen: dict[str, Any] = {"artifacts": {"key": {"any_": [key]}}, "limit": 1}
    if each_run:
        chosen["flow_runs"] = {"id": {"any_": [run]}}
    content = {"data": data, "description": description}
    try:
        there = api(url, "/artifacts/filter", chosen, at_most_s=_PATIENCE_S)
        if there:
            api(url, f"/artifacts/{there[0]['id']}", content, "PATCH", at_most_s=_PATIENCE_S)
        else:
            made = {"key": key, "type": kind, "flow_run_id": run, **content}
            api(url, "/artifacts/", made, at_most_s=_PATIENCE_S)
    except Exception as error:  # of whatever kind: the batch goes on
        _pause_ends = time.monotonic() + _PAUSE_S
        _log.warning("Prefect does not show %s: %s", key, error, extra={"artifact": key})
        return False
    return True
