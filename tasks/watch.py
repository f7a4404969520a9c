"""What a worker looks after while it lives: runs whose process is gone, batches that nobody continues.

Prefect notices neither: a run whose end could not be told, because its server was away, is shown as running for ever.
No module of Prefect is imported here, for this runs in a process that only watches.
"""

from contextlib import suppress

from expunge.errors import ServiceUnavailableError
from expunge.processes import may_be_alive
from expunge.state import State
from expunge.tickets.batches import BatchStage
from tasks.adapters.prefect_api import count_waiting, crash_runs_of, start

SWEEP = "sweep/sweep"


def look_after(state: State | None, url: str, pool: str, worker: str, *, starting: bool = False) -> None:
    """Mark lost runs of a worker crashed; the worker of `cpu` asks for a sweep if a batch is left to nobody.

    Args:
        state: The workspace, if there is one.
        url: The Prefect API's URL.
        pool: The worker's pool.
        worker: Its name.
        starting: Whether the worker has not begun: then no run of its can be about to start either.

    Raises:
        ServiceUnavailableError: If Prefect or the tickets database does not answer.
    """
    crash_runs_of(url, pool, worker, starting=starting)
    if state is not None and pool == "cpu" and left_to_nobody(state):
        with suppress(ServiceUnavailableError):  # before the flows are deployed there is none to ask for
            if not count_waiting(url, SWEEP):
                start(url, SWEEP)


def left_to_nobody(state: State) -> bool:
    """Whether a batch is unfinished and no process is at work on the lineage.

    Args:
        state: The workspace.

    Returns:
        False too where a gate said no, or a hold stops the batch: a person has to look at that first.
    """
    waiting = state.waiting()
    left = [
        batch
        for batch in state.batches.unfinished()
        if (batch.stage is not BatchStage.FAILED or batch.data.get("outage"))
        and batch.batch_id not in waiting
    ]
    return bool(left) and not state.batches.lease_held(state.lineage, alive=may_be_alive)


def of_prefect(error: Exception) -> bool:
    """Whether an error nobody foresaw is Prefect's client's: its server was away.

    Args:
        error: Any.

    Returns:
        Whether it is worth trying again.
    """
    return type(error).__module__.partition(".")[0] in ("prefect", "httpx", "httpcore")


def unforeseen(error: Exception) -> str:
    """What may be kept of an error nobody foresaw: its text may quote anything.

    Args:
        error: Any.

    Returns:
        One line.
    """
    return (
        f"{type(error).__name__}, which nobody foresaw; look at the run's log, then run `expunge run` again"
    )
