"""The unlearn flow: one mechanism on one batch, for the gpu work pool. Its parameters name batch and mechanism only."""

from prefect import flow

from expunge.errors import CertificateRefusedError, NotConvergedError, ServiceUnavailableError
from expunge.state import open_state
from tasks import unlearning
from tasks.dispatch import answer, on_pool, unlearn_on_pool
from tasks.leases import unlearning_lease


@flow(name="unlearn", persist_result=False, validate_parameters=False)
def unlearn(batch_id: str, mechanism: str) -> None:
    """Unlearn with one mechanism; a refusal is an answer to the erase flow, anything else a failed run.

    Args:
        batch_id: Of the batch.
        mechanism: Which mechanism.

    Raises:
        LeaseHeldError: If another process is unlearning this batch; nothing is changed then.
        ServiceUnavailableError: If a service is away; the erase flow is told.
    """
    try:
        with unlearning_lease(open_state(), batch_id):
            unlearning.unlearn(batch_id, mechanism)
    except (CertificateRefusedError, NotConvergedError) as refusal:
        answer(batch_id, mechanism, refusal, done=True)
    except ServiceUnavailableError as outage:
        answer(batch_id, mechanism, outage, done=True)
        raise
    else:
        answer(batch_id, mechanism, None, done=True)


def unlearn_somewhere(batch_id: str, mechanism: str) -> None:
    """Unlearn on the gpu work pool where there is one, else in this process.

    Args:
        batch_id: Of the batch.
        mechanism: Which mechanism.

    Raises:
        CertificateRefusedError: If the mechanism cannot state an admissible certificate.
        NotConvergedError: If a solver stopped short.
        ServiceUnavailableError: If the pool's run crashed, or met an outage; the batch stays resumable.
        ExpungeError: If the pool's run failed.
    """
    if on_pool():
        unlearn_on_pool(batch_id, mechanism)
    else:
        unlearning.unlearn(batch_id, mechanism)
