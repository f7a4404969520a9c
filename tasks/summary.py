"""What Prefect's pages show of batches and sweeps: how far, with which outcome, where the model is.

Ids, counts and what the public certificate states; no times, which depend on the forget set. Nothing here may fail a
batch: it is done by then.
"""

import re
from collections.abc import Mapping
from typing import Any

from expunge.errors import ExpungeError
from expunge.reports.plain_words import bound, counted, plural
from expunge.state import State, open_state
from expunge.tickets.batches import Batch
from expunge.tickets.figures import read_figures
from expunge.tickets.lifecycle import TicketState
from tasks.adapters.artifacts import mlflow_page, show_link, show_progress, show_table
from tasks.step import log, step

_TICKETS_SHOWN = 20


def report_stage(batch_id: str, name: str, done: int, total: int) -> None:
    """Show which stage of a batch is at work.

    Args:
        batch_id: Of the batch.
        name: Of the stage that begins.
        done: Stages before it.
        total: Stages in all.
    """
    words = name.replace("_", " ")
    said = f"Batch {batch_id}: {words}, {done} of {total} done"
    show_progress(f"{batch_id}-progress", 100 * done / total, said)


def report_waiting(batch_id: str, why: str) -> None:
    """Show that a hold stops a batch.

    Args:
        batch_id: Of the batch.
        why: Without personal data.
    """
    show_progress(f"{batch_id}-progress", 0.0, f"Batch {batch_id} waits: {why}")
    log(f"batch {batch_id} waits: {why}")


@step
def summarise(batch_id: str) -> bool:
    """Show the outcome of a closed batch and where its model version is.

    Args:
        batch_id: Of the batch.

    Returns:
        Whether Prefect shows it.
    """
    try:
        state = open_state()
        batch = state.batches.get(batch_id)
    except ExpungeError as error:  # the database went away: the batch is closed all the same
        log(f"batch {batch_id}: no summary, {error}")
        return False
    facts = _facts(state, batch)
    rows = [{"": name, "value": value} for name, value in facts.items()]
    shown = show_table(f"{batch_id}-summary", rows, f"Batch {batch_id} of {state.lineage}")
    show_progress(f"{batch_id}-progress", 100.0, f"Batch {batch_id}: {batch.stage}")
    version = batch.data.get("model_version")
    page = mlflow_page(state.lineage, version) if version else None
    if page:
        text = f"{state.lineage}, version {version}"
        show_link(f"{batch_id}-model", page, text, f"The version that batch {batch_id} registered, in MLflow")
    return shown


@step
def summarise_sweep(batch_ids: list[str], alarms: int) -> bool:
    """Show what a sweep did: its batches, the alarms it raised, what waits.

    Args:
        batch_ids: Of the batches that it worked on.
        alarms: How many it raised.

    Returns:
        Whether Prefect shows it.
    """
    try:
        state = open_state()
        batches = [state.batches.get(batch_id) for batch_id in batch_ids]
        waiting = read_figures(state.database).tickets[TicketState.VERIFIED]
    except ExpungeError as error:
        log(f"no summary: {error}")
        return False
    rows = [{"batch": b.batch_id, "stage": str(b.stage), **_facts(state, b)} for b in batches]
    key = f"sweep-{re.sub('[^a-z0-9]+', '-', state.lineage.lower())}"
    said = (
        f"{counted(len(batches), 'batch', 'batches')}, {counted(alarms, 'alarm')} raised, "
        f"{counted(waiting, 'ticket')} {plural(waiting, 'waits', 'wait')} for a batch"
    )
    return show_table(key, rows, f"Sweep of {state.lineage}: {said}", each_run=True)


def _facts(state: State, batch: Batch) -> dict[str, Any]:
    data, release = batch.data, batch.data.get("release", {})
    names = ", ".join(batch.tickets[:_TICKETS_SHOWN])
    return {
        "tickets": len(batch.tickets),
        "ticket ids": names + (" ..." if len(batch.tickets) > _TICKETS_SHOWN else ""),
        "records": data.get("records"),
        "mechanism": data.get("mechanism"),
        "guarantee": release.get("guarantee"),
        "epsilon": _bound(release, "epsilon"),
        "delta": _bound(release, "delta"),
        "noise draws": batch.draws,
        "model version": data.get("model_version"),
        "certificate": data.get("certificate_id"),
    }


def _bound(release: Mapping[str, Any], name: str) -> str | None:
    """As every other page states it."""
    return bound(release[name]) if name in release else None
