"""Intake: which people a batch is about, and opening batches of due tickets."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from expunge.datasets.partitions import find_subjects
from expunge.errors import ExpungeError, NearMatchError, ResidueError, TicketError
from expunge.settings import BatchPolicy
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.intake import check_subject
from expunge.tickets.requests import RequestStore
from expunge.tickets.store import Submission, Ticket
from tasks.spellings import alike_in_dataset


def require_known(state: State, subject_id: str, *, near: bool = False) -> bool:
    """Refuse a subject who is not in the dataset; one whose rows left it already has an open ticket.

    Args:
        state: The workspace.
        subject_id: The person.
        near: Whether to look for ids that differ in their form only, which reads all ids; for an officer.

    Returns:
        Whether they are in the dataset; somebody erased may be back by plain DVC, and is erased again.

    Raises:
        TicketError: If nobody of that id is there, or they are erased already; the id is not repeated.
        NearMatchError: If an id that is there differs in its form only.
    """
    if state.tickets.open_for(subject_id) is not None:
        return False
    dataset, placement = state.workspace.dataset_dir, state.placement
    if not subject_id.strip() or not find_subjects(dataset, [subject_id], placement)[subject_id]:
        state.tickets.require_not_erased(subject_id)  # the better answer
        if near and (found := alike_in_dataset(state, [subject_id])):
            raise NearMatchError(tuple(sorted(other for group in found.values() for other in group)))
        raise TicketError(
            "nobody of that id is in the dataset",
            expected="a subject id of the current dataset version",
            got="an unknown one",
            remedy="check the id; nothing was filed",
        )
    return True


def waiting_for(due: Sequence[Ticket], policy: BatchPolicy, now: datetime, *, fewest: int = 1) -> str | None:
    """Why the due tickets do not make a batch yet.

    Args:
        due: Verified tickets.
        policy: When a batch starts.
        now: The time, with its zone.
        fewest: People whom no batch may be without, whatever the deadline (attacks.difference.minimum_people).

    Returns:
        The reason, or None if a batch may start.

    Example:
        >>> waiting_for([], BatchPolicy(), datetime.now(UTC))
        'nothing is due'
    """
    if not due:
        return "nothing is due"
    if len(due) < fewest:
        return (
            f"{len(due)} of at least {fewest} people are due; attacks.difference.minimum_people in policy.yaml lets no "
            "smaller batch start, whatever the deadline"
        )
    waited = now - min(ticket.received_at for ticket in due)
    left = min(ticket.due_at for ticket in due) - now
    if (
        len(due) >= policy.minimum_size
        or waited >= timedelta(days=policy.maximum_wait_days)
        or left <= timedelta(days=policy.deadline_margin_days)
    ):
        return None
    return (
        f"{len(due)} of at least {policy.minimum_size} tickets are due; the batch starts without the others once one "
        f"has waited {policy.maximum_wait_days} days or is due within {policy.deadline_margin_days}"
    )


def file_keyed(
    state: State,
    subject_id: str,
    regime: str,
    idempotency_key: str,
    *,
    received_at: datetime | None = None,
    near: bool = False,
) -> Submission:
    """File a request that another program may repeat: the same key and content give the same ticket for ever.

    Args:
        state: The workspace.
        subject_id: The person.
        regime: Name of a law.
        idempotency_key: Of the request.
        received_at: When it came, checked; now by default.
        near: Whether the caller may be told ids that differ from an unknown one in their form only.

    Returns:
        The new ticket, or the one there is.

    Raises:
        TicketError: If the subject is unknown, or anything given is not valid.
        TicketConflictError: If the key was used for another request, or the subject is erased already.
    """
    check_subject(subject_id)
    state.tickets.require_regime(regime)
    requests = RequestStore(state.database, state.pseudonymiser)
    request = requests.request(idempotency_key, subject_id, regime, received_at)
    answered = requests.ticket_of(request)
    if answered is not None:  # also when the person is erased by now
        return Submission(state.tickets.get(answered), False)
    present = require_known(state, subject_id, near=near)
    # A refused request binds no key: its caller may correct it and send it again.
    requests.reserve(request)
    done = state.tickets.submit(
        subject_id,
        regime=regime,
        idempotency_key=idempotency_key,
        received_at=min(received_at, datetime.now(UTC)) if received_at else None,
        present=present,
    )
    requests.answer(request, done.ticket.ticket_id)
    return done


def open_due_batch(state: State) -> str | None:
    """Open a batch of the due tickets, if policy lets one start.

    Args:
        state: The workspace.

    Returns:
        The batch's id, or None.
    """
    for last in (False, True):
        due = state.tickets.due_for_batch()
        fewest = state.policy.attacks.difference.minimum_people
        if waiting_for(due, state.policy.batch, datetime.now(UTC), fewest=fewest) is not None:
            return None
        try:
            return state.batches.open_batch([ticket.ticket_id for ticket in due]).batch_id
        except TicketError:  # one was held or withdrawn in between
            if last:
                raise
    return None


def may_be_overtaken(batch: Batch, failure: ExpungeError) -> bool:
    """Whether later batches may go on past a batch that failed: as they go past one that a hold stops.

    Args:
        batch: That failed.
        failure: Why.

    Returns:
        True if a search found people, and the batch has removed nobody yet or its model is registered: what later
        batches build on is the same then, whatever becomes of this one.
    """
    if not isinstance(failure, ResidueError):
        return False
    reached = BatchStage(batch.failed_stage or batch.stage)
    return (reached is BatchStage.PLANNED and "before" not in batch.data) or reached in (
        BatchStage.REGISTERED,
        BatchStage.PURGED,
    )


def batches_to_run(state: State) -> Iterable[str]:
    """Batches to process, one after the other: unfinished ones first, then the due tickets.

    Later batches may overtake one that a hold stops: it has removed nothing yet, or its model is registered.

    Args:
        state: The workspace.

    Yields:
        Batch ids.
    """
    # what was rolled back rests on the dataset as it is: nothing is removed from it before
    for batch in sorted(state.batches.unfinished(), key=lambda batch: "before" not in batch.data):
        if batch.batch_id not in state.waiting():
            yield batch.batch_id
    fresh = open_due_batch(state)
    if fresh is not None:
        yield fresh
