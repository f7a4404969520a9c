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
from tasks.intake import batches_to_run, may_be_overtaken
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
        Why the last batch that failed did, if one did: it is the last that `done` is called with. Others wait then,
        because a lineage is unlearned in order, and a later release built on this dataset would be overtaken by this
        one. They do not wait for a batch in which a search found people, if it has removed nobody yet or its model is
        registered: that is tried again when others are done, which may have removed what was found.
    """
    failures: dict[str, ExpungeError] = {}
    finished = 0
    with lineage_lease(state):
        reconcile()
        record_policy(state)
        for batch_id in batches_to_run(state):
            if (failure := process_batch(state, batch_id)) is None:
                finished += 1
                done(batch_id)
                continue
            failures[batch_id] = failure
            if not may_be_overtaken(state.batches.get(batch_id), failure):
                break
        else:
            for batch_id in list(failures) if finished else ():
                if (failure := process_batch(state, batch_id)) is None:
                    del failures[batch_id]
                    done(batch_id)
                else:
                    failures[batch_id] = failure
    for batch_id in failures:
        done(batch_id)
    return list(failures.values())[-1] if failures else None


def process_batch(state: State, batch_id: str) -> ExpungeError | None:
    """Process one batch under the lineage's lease, or take it; one that fails keeps its reason.

    Args:
        state: The workspace.
        batch_id: Of the batch.

    Returns:
        Why it failed, if it did.

    Raises:
        LeaseHeldError: If another process has it.
    """
    from flows.erase import erase

    state.batches.resume(batch_id)
    try:
        erase(batch_id)
    except LeaseHeldError:
        raise  # the batch is another one's now
    except ExpungeError as error:
        state.batches.fail(batch_id, str(error), outage=isinstance(error, ServiceUnavailableError))
        return error
    except Exception as error:
        state.batches.fail(batch_id, unforeseen(error), outage=of_prefect(error))
        raise
    return None
