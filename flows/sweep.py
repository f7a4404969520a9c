"""The sweep: continue what was interrupted, process what is due, tell of deadlines, verify the ledger.

For a nightly schedule, for tickets as they come, and for `expunge run`. What a batch needs is imported when there is
one: a sweep starts in a few seconds, and one that has nothing to do ends at once.
"""

from collections.abc import Callable

from prefect import flow

from expunge.errors import ExpungeError, LeaseHeldError, ServiceUnavailableError
from expunge.state import State, open_state
from tasks.absorption import absorb_waiting, sweep_again
from tasks.alarms import raise_alarms
from tasks.intake import batches_to_run
from tasks.leases import lineage_lease
from tasks.policy import record_policy
from tasks.reconcile import reconcile
from tasks.summary import summarise_sweep
from tasks.verification import check_ledger
from tasks.watch import of_prefect, unforeseen


@flow(name="sweep", persist_result=False, validate_parameters=False)
def sweep() -> None:
    """Do everything that is due in the workspace.

    Raises:
        ExpungeError: If a batch failed; alarms were raised and the ledger was verified all the same. If a service is
            away, or another process is at work, another sweep was asked for.
    """
    absorb_waiting()
    done: list[str] = []
    try:
        try:
            failure = process_due(open_state(), done.append)
        finally:
            summarise_sweep(done, raise_alarms())
        check_ledger()
        if failure is not None:
            raise failure
    except (ServiceUnavailableError, LeaseHeldError):
        sweep_again()
        raise


def process_due(state: State, done: Callable[[str], None] = lambda batch_id: None) -> ExpungeError | None:
    """Process batches under the lineage's lease, until none is due or one fails.

    Args:
        state: The workspace.
        done: Called with the id of each batch that was worked on.

    Returns:
        Why the last batch failed, if it did. Others wait then: a lineage is unlearned in order, and a later release
        built on this dataset would be overtaken by this one.
    """
    with lineage_lease(state):
        reconcile()
        record_policy(state)
        for batch_id in batches_to_run(state):
            from flows.erase import erase

            state.batches.resume(batch_id)
            try:
                erase(batch_id)
            except LeaseHeldError:
                raise  # the batch is another one's now
            except ExpungeError as error:
                state.batches.fail(batch_id, str(error), outage=isinstance(error, ServiceUnavailableError))
                done(batch_id)
                return error
            except Exception as error:
                state.batches.fail(batch_id, unforeseen(error), outage=of_prefect(error))
                raise
            done(batch_id)
    return None
