"""Nobody is left behind under another spelling: what a batch must find before it removes anyone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from expunge.datasets.alike import alike, require_told_apart
from expunge.datasets.partitions import find_subjects
from expunge.datasets.spellings import others_alike
from expunge.errors import DatasetError, ResidueError, TicketError
from expunge.residue.scan import ScanReport, Target, scan
from expunge.residue.stores import folder
from expunge.state import State
from expunge.subjects import Identity, folded
from expunge.tickets.batches import Batch, BatchStage
from expunge.tickets.store import Submission
from tasks.adapters import access

CONTRACT = "data/contract.yaml"


def alike_in_dataset(state: State, subject_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Ids of the dataset that differ from some people's in their form only.

    Args:
        state: The workspace.
        subject_ids: Of the people.

    Returns:
        Rows by id, by folded form. For this process and the officer's terminal only.
    """
    return others_alike(state.workspace.dataset_dir, subject_ids, state.contract.identity)


def columns_of_people(state: State) -> dict[str, Any]:
    """What the dataset's source calls its columns of people, for a search.

    Args:
        state: The workspace.

    Returns:
        Arguments of a target.
    """
    columns = state.contract.subject_columns
    return {"subject_column": columns[0]} if len(columns) == 1 else {"subject_parts": columns}


def searched_forms(state: State, subject_ids: Collection[str]) -> frozenset[str]:
    """Folded forms of people that a search may look for: without those of people who are others by the contract.

    Args:
        state: The workspace.
        subject_ids: Of the people.

    Returns:
        The forms.
    """
    forms = {folded(one) for one in subject_ids}
    if state.contract.identity.settled and forms:
        forms -= set(alike_in_dataset(state, subject_ids))
    return frozenset(forms)


def require_all_spellings(state: State, subject_ids: Collection[str]) -> None:
    """Refuse to remove people who are in the dataset under other spellings too, until it is said who those are.

    Args:
        state: The workspace.
        subject_ids: Whom to remove.

    Raises:
        ResidueError: If there are such spellings; nothing is changed.
    """
    if state.contract.identity.settled:
        return
    found = alike_in_dataset(state, subject_ids)
    if not found:
        return
    ids = {other for group in found.values() for other in group}
    rows = sum(sum(group.values()) for group in found.values())
    told = alike(
        {*ids, *subject_ids}, state.contract.identity.rules or (), parts=state.contract.identity.parts
    )
    try:
        require_told_apart(told, state.contract.subject_columns or ("record_id",), where=CONTRACT)
    except DatasetError as error:
        names = ", ".join(
            sorted({state.pseudonymiser.of(one) for one in subject_ids if folded(one) in found})[:5]
        )
        raise ResidueError(
            f"{len(ids):,} other spellings of {len(found):,} of the batch's people stay in the dataset",
            expected=error.expected,
            got=f"column {', '.join(state.contract.subject_columns)}: {rows:,} rows beside those of {names}",
            remedy=f"{error.remedy}; then `expunge run`: nothing was removed",
        ) from error


def require_no_file(state: State, subject_ids: Collection[str]) -> None:
    """Refuse to remove people whom a file in the workspace's folder names: the residue scan would find it too late.

    Args:
        state: The workspace.
        subject_ids: Whom to remove.

    Raises:
        ResidueError: If there is such a file; nothing is changed.
    """
    target = Target(
        frozenset(subject_ids),
        forms=searched_forms(state, subject_ids),
        pseudonymiser=state.pseudonymiser,
        **columns_of_people(state),
    )
    report = scan([folder(state.workspace.root, "workspace", skip=known_places(state))], target)
    places = sorted({_told(hit) for hit in report.hits})
    if places:
        several = f" and {len(places) - 5} more" if len(places) > 5 else ""
        raise ResidueError(
            "files in the workspace's folder name people of this batch, or cannot be searched",
            expected="people in the dataset and the tickets only",
            got=f"{', '.join(places[:5])}{several}",
            remedy="delete them or move them elsewhere, then `expunge run`: nothing was removed",
        )


def known_places(state: State) -> list[Path]:
    """Where the workspace itself keeps people, and where a purge looks after them.

    Args:
        state: The workspace.

    Returns:
        Files and folders.
    """
    workspace, repository = state.workspace, access.repository(state)
    remotes = [path for path in repository.remotes().values() if path is not None]
    own = state.database.path
    return [
        workspace.dataset_dir,
        workspace.state,
        workspace.build_dir,
        workspace.root / ".git",
        workspace.root / ".dvc",
        repository.cache.parents[1],
        *remotes,
        *([own] if own is not None else []),
    ]


def is_searched(state: State, path: Path) -> bool:
    """Whether a file lies where the residue scan would find people in it.

    Args:
        state: The workspace.
        path: The file.

    Returns:
        True if so.
    """
    return path.resolve().is_relative_to(state.workspace.root.resolve())


def left_behind(state: State, batch: Batch) -> dict[str, dict[str, int]]:
    """What is in the dataset of a batch's people who were removed, in whatever spelling.

    Args:
        state: The workspace.
        batch: That has removed them.

    Returns:
        Rows by id, by folded form.
    """
    subjects = state.tickets.subject_ids(batch.batch_id)
    forms = searched_forms(state, subjects)
    found = others_alike(state.workspace.dataset_dir, subjects, Identity(("exact",)))
    there = {form: group for form, group in found.items() if form in forms}
    for subject in subjects:
        if rows := find_subjects(state.workspace.dataset_dir, [subject])[subject]:
            there.setdefault(folded(subject), {})[subject] = rows
    return there


def residue_found(state: State, batch: Batch, report: ScanReport) -> ResidueError:
    """What a purge's residue scan found, and the way out.

    Args:
        state: The workspace.
        batch: That is purged.
        report: Of the scan.

    Returns:
        The error to raise: places, columns, rows and pseudonyms; no id.
    """
    left = left_behind(state, batch)
    dataset = state.workspace.dataset_dir.relative_to(state.workspace.root)
    if left:
        tickets = dict(zip(batch.pseudonyms, batch.tickets, strict=True))
        rows = sum(sum(group.values()) for group in left.values())
        whose = sorted(
            {
                name
                for one in state.tickets.subject_ids(batch.batch_id)
                if folded(one) in left
                for name in state.pseudonymiser.every(one)
                if name in tickets
            }
        )
        named = ", ".join(f"{name} (ticket {tickets[name]})" for name in whose[:5])
        return ResidueError(
            "the residue scan found rows of the batch's people under other spellings",
            expected="none",
            got=f"{rows:,} rows in {dataset}, column subject_id, under {sum(map(len, left.values()))} spellings of "
            f"{named}",
            remedy=f"`expunge ticket file-rest {batch.batch_id}` files tickets for them, then `expunge run`; they are "
            "in the model that serves until then",
        )
    places = [_told(hit) for hit in report.hits]
    several = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return ResidueError(
        "the residue scan found something",
        expected="nothing",
        got=f"{'; '.join(sorted(set(places))[:5])}{several}",
        remedy="delete these files or move them out of the workspace, then `expunge run`",
    )


def _told(hit: Mapping[str, Any]) -> str:
    if "column" not in hit:
        return f"{hit['where']} ({hit['kind']})"
    whose = f" of {', '.join(hit['whose'][:3])}" if hit["whose"] else ""
    return f"{hit['where']} (column {hit['column']}, {hit['rows']:,} rows{whose})"


def file_rest(state: State, batch_id: str) -> list[Submission]:
    """File tickets for what a batch's removal left of its people in the dataset, under whatever spelling.

    Args:
        state: The workspace.
        batch_id: Of the batch.

    Returns:
        Outcomes.

    Raises:
        TicketError: If the batch has removed nobody yet, or left nobody.
    """
    batch = state.batches.get(batch_id)
    reached = BatchStage(batch.failed_stage or batch.stage)
    if reached in (BatchStage.PLANNED, BatchStage.CLOSED):
        raise TicketError(
            "there is nothing to file for this batch",
            expected="a batch that has removed its people and is not closed",
            got=str(reached),
            remedy="see `expunge status`",
        )
    found = left_behind(state, batch)
    if not found:
        raise TicketError(
            "the dataset holds no row of this batch's people",
            got="none in any spelling",
            remedy="`expunge run`",
        )
    regimes = _regimes(state, batch)
    asked = [
        (other, regimes.get(form, "gdpr"), None) for form, group in found.items() for other in sorted(group)
    ]
    return state.tickets.submit_all(dict.fromkeys(asked), present=True, beside=batch_id)


def _regimes(state: State, batch: Batch) -> Mapping[str, str]:
    return {
        folded(subject): state.tickets.get(ticket_id).regime
        for ticket_id in batch.tickets
        for subject in state.tickets.subjects_of([ticket_id])
    }
