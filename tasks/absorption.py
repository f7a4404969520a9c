"""Sweeps that follow one another: one serves all that wait, and one that met an outage asks for the next."""

import os

from prefect.runtime import deployment

from expunge.errors import ServiceUnavailableError
from tasks.adapters.prefect_api import cancel_waiting, crash_orphans, start
from tasks.step import log, step
from tasks.watch import SWEEP

_AGAIN_S = 200.0  # longer than a lease that a lost machine may have left


@step
def absorb_waiting() -> int:
    """Cancel the sweeps that wait: what they were asked for is done by this one, which reads the tickets after this.

    A hundred tickets would else start a hundred processes, one after the other. What killed sweeps had begun is marked
    crashed: Prefect would show it running for ever.

    Returns:
        Number of runs.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url or not deployment.id:
        return 0  # called in a process, not started by a worker
    try:
        count = cancel_waiting(url, str(deployment.id), "a sweep that began later does its work")
        crash_orphans(url, str(deployment.id))
    except ServiceUnavailableError as error:
        log(f"waiting sweeps were left as they are: {error}")
        return 0
    if count:
        log(f"{count} sweeps that waited are done by this one")
    return count


@step
def sweep_again() -> bool:
    """Ask for another sweep after some minutes: nobody has to notice when a service is back, or a lease is free.

    Returns:
        Whether there will be one; a sweep that no worker started leaves it to whoever called it.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url or not deployment.id:
        return False
    try:
        start(url, SWEEP, _AGAIN_S)
    except ServiceUnavailableError as error:
        log(f"no further sweep was asked for, the nightly one continues: {error}")
        return False
    log(f"another sweep begins in {_AGAIN_S:g} s")
    return True
