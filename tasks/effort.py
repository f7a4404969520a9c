"""What the training of a version took: kept for forecasts and the cost guard until its people leave."""

from pathlib import Path

from expunge.models.effort import Effort, effort_in_files, effort_path, load_effort
from expunge.state import State
from tasks.adapters import access
from tasks.adapters.registry import Version


def effort_of(state: State, version: Version, model: Path) -> Effort | None:
    """What the training of a version took, where that may still be used.

    Args:
        state: The workspace.
        version: Which.
        model: Folder of its files: those of a first version of an earlier release of Expunge tell it.

    Returns:
        The effort; None for noised releases: the last training saw people who left since.
    """
    known = load_effort(state.workspace.effort_dir, version.tags["model_digest"])
    return known if known or "parent_version" in version.tags else effort_in_files(model)


def superseded_efforts(state: State, first: int) -> list[Path]:
    """Files on trainings that saw people who are not in a version any more.

    Args:
        state: The workspace.
        first: The first version without them.

    Returns:
        Every file but those of that version and later ones; of releases that were discarded, too.
    """
    folder = state.workspace.effort_dir
    spared = {
        effort_path(folder, version.tags["model_digest"])
        for version in access.registry(state).versions()
        if version.version >= first
    }
    return sorted(set(folder.glob("*")) - spared)
