"""The training flow: reproduce the pipeline, register the first version, open the ledger, keep the curvature.

Training again is an erase flow that removes nobody.
"""

from prefect import flow

from expunge.errors import BatchWaitsError
from expunge.state import open_state
from flows.sweep import process_batch
from tasks.again import open_training
from tasks.curvature import keep_curvature
from tasks.training import register_opening, reproduce


@flow(name="train", persist_result=False, validate_parameters=False)
def train() -> int:
    """Train the workspace's first model.

    Returns:
        The version's number.
    """
    reproduce()
    version = int(register_opening())
    keep_curvature()
    return version


def train_again() -> int:
    """Train the workspace's model again, from nothing, on the dataset as it is.

    Returns:
        The version's number.

    Raises:
        ExpungeError: If it failed; the version before serves, and repeating it goes on.
        BatchWaitsError: If the purge of the superseded version waits; the new one serves.
    """
    state = open_state()
    batch_id = open_training(state)
    if (failure := process_batch(state, batch_id)) is not None:
        raise failure
    if (why := state.waiting().get(batch_id)) is not None:
        raise BatchWaitsError(f"the model is trained again, and the purge of the one before waits: {why}")
    return int(state.batches.get(batch_id).data["model_version"])
