"""The residue scan of a workspace: nothing of an erased person may be left in any of its stores."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq

from expunge.datasets.partitions import partition_files
from expunge.errors import ResidueError
from expunge.pseudonyms import epoch_of
from expunge.reports.plain_words import counted
from expunge.residue.scan import ScanReport, Target, scan
from expunge.state import State, open_state
from tasks.adapters import access, dvc_objects
from tasks.adapters.stores import every_store
from tasks.spellings import columns_of_people, searched_forms
from tasks.step import log, step


@step
def search_residue() -> int:
    """Search the whole workspace for everyone who was erased.

    Returns:
        Number of files and objects searched.

    Raises:
        ResidueError: If anything is found.
    """
    state = open_state()
    report = scan_workspace(state, erased(state))
    if not report.clean:
        raise ResidueError(
            "the residue scan found something",
            got=f"{len(report.hits)} hits",
            remedy="see `expunge purge verify`",
        )
    searched = sum(int(item["files"]) for item in report.searched)
    log(f"residue scan of {searched} files and objects: clean")
    return searched


def erased(state: State, also: Iterable[str] = ()) -> Target:
    """Everyone who was erased, by pseudonym.

    Args:
        state: The workspace.
        also: Subject ids to look for, in any spelling.

    Returns:
        What to search for.
    """
    closed = state.tickets.select(states=["closed"])
    people = frozenset(state.contract.identity.canonical(one) for one in also)
    return Target(
        subjects=people | frozenset(also),
        pseudonyms=frozenset(ticket.pseudonym for ticket in closed),
        pseudonymiser=state.pseudonymiser,
        forms=searched_forms(state, people),
        codes=state.suppressed.codes(ticket.batch_id for ticket in closed if ticket.batch_id),
    )


def scan_workspace(state: State, target: Target, *, with_tickets: bool = True) -> ScanReport:
    """Search every store of a workspace.

    Args:
        state: The workspace.
        target: Whom and which rows to look for.
        with_tickets: Whether the tickets database is searched too; open tickets hold their ids there.

    Returns:
        The report.
    """
    shared = state.purges.kept() if state.policy.purge.shared_remotes else []
    left = dvc_objects.left_to_others(access.repository(state), shared) if shared else []
    stores, notes = every_store(state, with_tickets=with_tickets, skip=left)
    if left:
        notes.append(
            f"not searched: {counted(len(left), 'object')} that another dataset needs; remove the people there too"
        )
    lost = Counter(epoch_of(one) for one in target.pseudonyms)
    notes += [
        f"{counted(people, 'person', 'people')} erased under key epoch {epoch}, whose key is destroyed, "
        "cannot be searched for"
        for epoch, people in sorted(lost.items())
        if epoch not in state.pseudonymiser.epochs
    ]
    target = replace(target, **columns_of_people(state))
    return scan(stores, target, retained=lambda: _retained(state), notes=notes)


def _retained(state: State) -> Iterator[pd.DataFrame]:
    for path in partition_files(state.workspace.dataset_dir):
        yield pq.read_table(path).to_pandas()
