"""One sweep for many tickets: every ticket's event asks for a sweep, and the first that starts serves them all."""

import os

from prefect.runtime import deployment

from expunge.errors import ServiceUnavailableError
from tasks.adapters.prefect_api import cancel_waiting
from tasks.step import log, step


@step
def absorb_waiting() -> int:
    """Cancel the sweeps that wait: what they were asked for is done by this one, which reads the tickets after this.

    A hundred tickets would else start a hundred processes, one after the other.

    Returns:
        Number of runs.
    """
    url, deployed = os.environ.get("PREFECT_API_URL"), deployment.id
    if not url or not deployed:
        return 0  # called in a process, not started by a worker
    try:
        count = cancel_waiting(url, str(deployed), "a sweep that began later does its work")
    except ServiceUnavailableError as error:
        log(f"waiting sweeps were left as they are: {error}")
        return 0
    if count:
        log(f"{count} sweeps that waited are done by this one")
    return count
