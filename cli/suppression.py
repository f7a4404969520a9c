"""Commands on the suppression list and its keys."""

import sys
from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace
from expunge.errors import InputError

app = typer.Typer(
    help="Who may not come back, under which keys, and the end of a key's retention.", no_args_is_help=True
)
_RESTART = "Services that run (`expunge up`, `expunge serve`) hold the old keys until they are restarted."


@app.command(name="list")
def list_epochs(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List key epochs: how many removed people are recognised under each, and which are past their retention."""
    state = use_workspace(workspace, reading=True)
    epochs = state.epochs.every(state.policy.suppression.retention_days)
    if json:
        emit([epoch.to_json() for epoch in epochs])
        return
    rows = [
        (
            e.epoch,
            "past its retention" if e.past_retention else e.state,
            f"{e.suppressed:,}",
            f"{e.last_added_at:%Y-%m-%d}" if e.last_added_at else None,
            f"{e.superseded_at:%Y-%m-%d}" if e.superseded_at else None,
            f"{e.destroyed_at:%Y-%m-%d}" if e.destroyed_at else None,
        )
        for e in epochs
    ]
    table("Key epochs", ("epoch", "state", "suppressed", "last one", "superseded", "destroyed"), rows)


@app.command()
def rotate(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Make a new pseudonym key: new pseudonyms are made with it, the earlier ones are still recognised."""
    epoch = use_workspace(workspace).epochs.rotate()
    if json:
        emit({"epoch": epoch})
        return
    out.print(f"Key epoch {epoch} is the current one. Back up .expunge/keys.", markup=False)
    out.print(_RESTART, markup=False)


@app.command()
def destroy(
    epoch: Annotated[int, typer.Option(help="Number of the key epoch, see `list`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Destroy an old pseudonym key for ever, after telling what that means."""
    state = use_workspace(workspace)
    days = state.policy.suppression.retention_days
    found = [one for one in state.epochs.every(days) if one.epoch == epoch]
    if not json:
        for one in found:
            out.print(
                f"Without the key of epoch {epoch}, of which {one.suppressed:,} people are on the suppression list:\n"
                "  - nobody recognises these people when a dump or a backup with them is imported: they come back in;\n"
                f"  - nobody can tell that they ({one.closed_tickets:,} closed tickets) were erased already;\n"
                "  - `expunge purge verify` cannot search for them any more;\n"
                "  - a program that repeats one of its requests from that time files a new one;\n"
                "  - their pseudonyms on certificates and in the ledger can be linked to nobody, by nobody.\n"
                "Certificates and the ledger stay verifiable. It cannot be undone, and is done only when no backup\n"
                "of .expunge/keys holds the key any more.",
                markup=False,
            )
            if one.state == "living" and not one.past_retention:
                kept = "for ever" if days is None else f"{days} days after the last removal"
                out.print(f"Policy keeps it {kept} (suppression.retention_days).", markup=False)
    if found and not yes:
        if json or not sys.stdin.isatty():
            raise InputError(
                "destroying a key cannot be undone",
                expected="--yes",
                got="nobody to ask",
                remedy="read what it means without --json, then add --yes; nothing was changed",
            )
        typer.confirm("Destroy it?", abort=True)
    state.epochs.destroy(epoch)
    if json:
        emit({"epoch": epoch, "destroyed": True})
        return
    out.print(f"The key of epoch {epoch} is destroyed, and was looked for: it is not there.", markup=False)
    out.print(_RESTART, markup=False)
