"""What `expunge status` says of the work itself: what waits, what is at work, how the last runs ended, what is left."""

from collections import Counter
from datetime import datetime
from typing import Any

from cli.output import out
from expunge.evidence.ledger import left_of
from expunge.privacy.accountant import LedgerLimits
from expunge.state import State
from expunge.tickets.activity import OpenBatch, count_near_deadline, open_batches
from expunge.tickets.figures import read_figures
from tasks.leases import heartbeats, unlearning_name

_WATCHED = ("sweep", "verify")


def read_activity(state: State, prefect_api: str | None) -> dict[str, Any]:
    """Look at tickets, batches, leases, ledger and the last scheduled runs.

    Args:
        state: The workspace.
        prefect_api: URL of Prefect's API, if there is one.

    Returns:
        Plain data: ``queue``, ``at_work``, ``waiting``, ``last_runs``, ``ledger_left``.
    """
    counts, batches = read_figures(state.database).tickets, open_batches(state.database)
    entries, waiting = state.ledger.since_exact(state.lineage), state.waiting()
    return {
        "queue": {
            "waiting": counts["verified"],
            "on_hold": counts["on_hold"],
            "due_within_7d": sum(count_near_deadline(state.database).values()),
            "batches": dict(sorted(Counter(batch.stage for batch in batches).items())),
        },
        "at_work": _at_work(state, [batch for batch in batches if batch.batch_id not in waiting]),
        "waiting": waiting,
        "last_runs": {name: _last_run(prefect_api, name) for name in _WATCHED},
        "ledger_left": vars(left_of(entries, LedgerLimits(**state.policy.ledger.model_dump()))),
    }


def _at_work(state: State, batches: list[OpenBatch]) -> list[dict[str, Any]]:
    """The batch under the lineage's lease, and those that are unlearned on another pool.

    The lineage's holder takes batches in order and resumes failed ones before it works on them: the first that is not
    failed is at work; if there is none, the holder is between two batches.
    """
    first = next((batch for batch in batches if batch.stage != "failed"), None)
    leases = {state.lineage: first} | {unlearning_name(batch.batch_id): batch for batch in batches}
    return [
        {
            "work": "batches" if name == state.lineage else "unlearning",
            "batch_id": batch.batch_id if batch else None,
            "stage": batch.stage if batch else None,
            "tickets": batch.tickets if batch else 0,
            "holder": holder,
            "heartbeat_age_s": round(age, 1),
        }
        for name, (holder, age) in sorted(heartbeats(state, list(leases)).items())
        for batch in [leases[name]]
    ]


def _last_run(prefect_api: str | None, flow: str) -> dict[str, Any]:
    from expunge.errors import ServiceUnavailableError
    from tasks.adapters.prefect_api import last_run

    unknown = {"outcome": "unknown", "ended_at": None, "message": ""}
    try:
        found = last_run(prefect_api, flow) if prefect_api else unknown
    except ServiceUnavailableError:
        return unknown
    return found or {**unknown, "outcome": "none"}


def print_activity(activity: dict[str, Any]) -> None:
    """Say it in plain words.

    Args:
        activity: From :func:`read_activity`.
    """
    queue, left = activity["queue"], activity["ledger_left"]
    batches = ", ".join(f"{count} {stage}" for stage, count in queue["batches"].items()) or "none"
    lines = [
        f"Queue: {queue['waiting']} tickets wait for a batch, {queue['on_hold']} are on hold, "
        f"{queue['due_within_7d']} are due within 7 days; open batches: {batches}"
    ]
    lines += [f"At work: {_words(work)}" for work in activity["at_work"]] or ["At work: nothing"]
    lines += [f"Waits: batch {batch_id}, {why}" for batch_id, why in activity["waiting"].items()]
    for name, run in activity["last_runs"].items():
        when = f" at {_time(run['ended_at'])}" if run["ended_at"] else ""
        why = f": {run['message']}" if run["outcome"] in ("failed", "crashed") and run["message"] else ""
        lines.append(f"Last {name}: {run['outcome']}{when}{why}")
    lines.append(
        f"Ledger left: accumulated error {left['accumulated_error']:.4g}, {left['releases']} releases, "
        f"composed epsilon {left['composed_epsilon']:.4g}"
    )
    for line in lines:
        out.print(line, markup=False)


def _words(work: dict[str, Any]) -> str:
    batch = (
        f"batch {work['batch_id']} of {work['tickets']} tickets" if work["batch_id"] else "between batches"
    )
    doing = " is unlearned" if work["work"] == "unlearning" else f", {work['stage']}" if work["stage"] else ""
    return f"{batch}{doing}; {work['holder']}, heartbeat {work['heartbeat_age_s']:.0f} s ago"


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
