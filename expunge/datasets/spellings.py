"""Ids in a dataset that differ from some people's in their form only."""

from collections.abc import Collection
from pathlib import Path

import pyarrow.compute as pc

from expunge.datasets.partitions import partition_files, subject_column
from expunge.subjects import Identity, folded


def others_alike(
    directory: Path, subject_ids: Collection[str], identity: Identity
) -> dict[str, dict[str, int]]:
    """Ids that the contract tells apart from these people's, though only their form differs.

    Args:
        directory: The dataset.
        subject_ids: Of the people, in the dataset or not.
        identity: Which spellings are one person.

    Returns:
        Rows by id, by folded form.
    """
    forms, people = {folded(one) for one in subject_ids}, {identity.canonical(one) for one in subject_ids}
    found: dict[str, dict[str, int]] = {}
    for path in partition_files(directory):
        for column in subject_column(path):
            for cell in pc.value_counts(column).to_pylist():
                other, rows = cell["values"], int(cell["counts"])
                if other is None or (form := folded(other)) not in forms:
                    continue
                if identity.canonical(other) not in people:
                    ids = found.setdefault(form, {})
                    ids[other] = ids.get(other, 0) + rows
    return found
