"""The erase flow: one batch of deletion tickets, from removal to proof. Its only parameter is the batch id."""

from prefect import flow

from expunge.errors import BatchWaitsError, CertificateRefusedError, NotConvergedError
from expunge.state import open_state
from flows.unlearn import unlearn_somewhere
from tasks.certification import certify
from tasks.curvature import keep_curvature
from tasks.leases import lineage_lease, require_leases
from tasks.planning import plan
from tasks.purge import close, purge
from tasks.registration import register
from tasks.removal import remove
from tasks.rollback import finish_rollback
from tasks.screening import screen
from tasks.summary import report_stage, report_waiting, summarise
from tasks.unlearning import discard
from tasks.validation import validate


@flow(name="erase", persist_result=False, validate_parameters=False)
def erase(batch_id: str) -> None:
    """Process one batch; calling it again continues from the last durable stage. A hold ends it, which is no failure.

    Args:
        batch_id: Of the batch.

    Raises:
        LeaseHeldError: If another process is at work on the lineage; nothing is changed then.
    """
    stages = (plan, screen, remove, release, certify, register, purge, keep_curvature, close)
    state = open_state()
    with lineage_lease(state):
        finish_rollback(state, batch_id)
        for done, stage in enumerate(stages):
            require_leases(state)
            report_stage(batch_id, stage.__name__, done, len(stages))
            try:
                state.require_free(batch_id)
                stage(batch_id)
            except BatchWaitsError as hold:
                report_waiting(batch_id, str(hold))
                return
        summarise(batch_id)


def release(batch_id: str) -> None:
    """Try the admissible mechanisms, cheapest first, until one passes every gate; one noise draw each.

    Args:
        batch_id: Of the batch.

    Raises:
        CertificateRefusedError: By the plan, when no mechanism is left.
    """
    while True:
        mechanism = plan(batch_id)[0]
        try:
            unlearn_somewhere(batch_id, mechanism)
        except (CertificateRefusedError, NotConvergedError) as refusal:
            discard(batch_id, mechanism, str(refusal))
            continue
        failed = validate(batch_id)
        if not failed:
            return
        discard(batch_id, mechanism, f"gates not passed: {', '.join(failed)}")
