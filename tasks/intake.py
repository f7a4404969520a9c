"""Intake: which people a batch is about, and opening batches of due tickets."""

import os
import socket
from collections.abc import Iterable

from expunge.datasets.partitions import find_subjects
from expunge.errors import TicketError
from expunge.state import State


def require_known(state: State, subject_id: str) -> None:
    """Refuse a subject who is not in the dataset.

    Args:
        state: The workspace.
        subject_id: The person.

    Raises:
        TicketError: If nobody of that id is there; the id is not repeated.
    """
    if not subject_id.strip() or not find_subjects(state.workspace.dataset_dir, [subject_id])[subject_id]:
        raise TicketError(
            "nobody of that id is in the dataset",
            expected="a subject id of the current dataset version",
            got="an unknown one",
            remedy="check the id; nothing was filed",
        )


def open_due_batch(state: State) -> str | None:
    """Open a batch of the due tickets, if there are as many as policy wants.

    Args:
        state: The workspace.

    Returns:
        The batch's id, or None.
    """
    due = state.tickets.due_for_batch()
    if len(due) < max(1, state.policy.batch.minimum_size):
        return None
    return state.batches.open_batch([ticket.ticket_id for ticket in due]).batch_id


def lease_holder() -> str:
    """Name of this process as a holder of leases.

    Returns:
        ``host:pid``.
    """
    return f"{socket.gethostname()}:{os.getpid()}"


def holder_alive(holder: str) -> bool:
    """Whether a holder of a lease may still be at work; of another host nothing is known, so it may.

    Args:
        holder: From :func:`lease_holder`.

    Returns:
        False only for a dead process of this host.
    """
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def batches_to_run(state: State) -> Iterable[str]:
    """Batches to process, one after the other: unfinished ones first, then the due tickets.

    Args:
        state: The workspace.

    Yields:
        Batch ids.
    """
    for batch in state.batches.unfinished():
        yield batch.batch_id
    fresh = open_due_batch(state)
    if fresh is not None:
        yield fresh
