"""Commands that say what became of a workspace that lies elsewhere than it says: moved, or copied."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, use_workspace

app = typer.Typer(
    help="Say that a workspace was moved, or that it is a copy: until then nothing writes in it.",
    no_args_is_help=True,
)


@app.command()
def relocate(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """This is the workspace, and it was moved here: by `mv`, from a backup, by another mount."""
    from tasks.place import relocate as settle

    done = _alone(workspace, settle)
    if json:
        emit(done)
        return
    out.print(f"The workspace lies at {done['is']}; until now at {done['was']}.", markup=False)
    out.print(f"  {done['paths']} of MLflow's paths were changed. Next: expunge doctor", markup=False)


@app.command()
def fork(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """This is a copy of another workspace, and goes its own way: a new identity, which its ledger tells."""
    from tasks.place import fork as settle

    done = _alone(workspace, settle)
    if json:
        emit(done)
        return
    out.print(f"Workspace {done['id']} at {done['is']} is a fork of the one at {done['was']}.", markup=False)
    out.print(
        "  Evidence up to now is of both. A deletion here deletes nothing there: remove whoever asked from both."
    )


def _alone(workspace: Path | None, settle: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Settle a workspace, wherever it lies, while no batch is at work on it."""
    from tasks.leases import lineage_lease

    state = use_workspace(workspace, reading=True)
    with lineage_lease(state, anywhere=True):
        return settle(state)
