"""What a plan may count in advance, without changing anything."""

from collections.abc import Sequence

from expunge.datasets.partitions import find_subjects
from expunge.state import State


def records_of(state: State, ticket_ids: Sequence[str]) -> int:
    """How many records some tickets are about.

    Args:
        state: The workspace.
        ticket_ids: Which tickets.

    Returns:
        Number of rows in the current dataset version.
    """
    subjects = [state.tickets.subject_of(ticket_id) for ticket_id in ticket_ids]
    known = [subject for subject in subjects if subject is not None]
    return sum(find_subjects(state.workspace.dataset_dir, known).values()) if known else 0
