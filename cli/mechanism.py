"""Commands on mechanisms: which are suspect, and clearing one."""

from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace

app = typer.Typer(help="Mechanisms that an attack contradicted: list and clear them.", no_args_is_help=True)


@app.command(name="list")
def list_mechanisms(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List every mechanism, and whether an attack made it suspect."""
    from expunge.evidence.ledger import suspects_of
    from expunge.mechanisms.planner import MECHANISMS

    state = use_workspace(workspace, reading=True)
    entries = state.ledger.entries(state.lineage)
    suspects = suspects_of(entries)
    found = [
        {
            "mechanism": mechanism.name,
            "guarantee": mechanism.guarantee,
            "suspect": mechanism.name in suspects,
            "incident": suspects.get(mechanism.name),
            "batch": entries[suspects[mechanism.name]].batch if mechanism.name in suspects else None,
        }
        for mechanism in MECHANISMS
    ]
    if json:
        emit(found)
        return
    rows = [
        (
            m["mechanism"],
            m["guarantee"],
            f"suspect since entry {m['incident']}, batch {m['batch']}" if m["suspect"] else "",
        )
        for m in found
    ]
    table("Mechanisms", ("mechanism", "guarantee", "suspect"), rows)


@app.command()
def clear(
    mechanism: Annotated[str, typer.Argument(help="Its name.")],
    reason: Annotated[str, typer.Option(help="What was found out; the ledger keeps it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Let a suspect mechanism be planned again: an entry of the ledger says who was wrong, and why."""
    from tasks.incidents import clear as say

    entry = say(use_workspace(workspace), mechanism, reason)
    if json:
        emit(entry.to_json())
        return
    out.print(f"{mechanism} is not suspect any more: entry {entry.sequence} of the ledger", markup=False)
