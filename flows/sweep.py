"""The sweep: process what is due."""

from prefect import flow

from expunge.errors import ExpungeError
from expunge.state import open_state
from flows.erase import erase
from tasks.intake import batches_to_run, holder_alive, lease_holder


@flow(name="sweep", persist_result=False, validate_parameters=False)
def sweep() -> None:
    """Do everything that is due in the workspace.

    Raises:
        ExpungeError: If a batch failed.
    """
    state, holder = open_state(), lease_holder()
    state.batches.acquire_lease(state.lineage, holder, 24 * 3600.0, alive=holder_alive)
    try:
        for batch_id in batches_to_run(state):
            state.batches.resume(batch_id)
            try:
                erase(batch_id)
            except ExpungeError as error:
                state.batches.fail(batch_id, str(error))
                raise
    finally:
        state.batches.release_lease(state.lineage, holder)
