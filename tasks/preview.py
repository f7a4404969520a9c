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
    known = state.tickets.subjects_of(ticket_ids)
    return sum(find_subjects(state.workspace.dataset_dir, known, state.placement).values()) if known else 0
