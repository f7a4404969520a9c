"""The training flow: reproduce the pipeline, register the first version, open the ledger, keep the curvature."""

from prefect import flow

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
