"""Commands on purging."""

from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, showing_progress, table, use_workspace

app = typer.Typer(help="Preview what would be purged, and verify that nothing is left.", no_args_is_help=True)


@app.command()
def preview(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show what a purge would destroy now. Changes nothing."""
    from tasks.purge import preview as look

    found = look(use_workspace(workspace))
    if json:
        emit(found)
        return
    table("Would be destroyed", ("what", "where", "bytes", "why"), [tuple(item.values()) for item in found])
    out.print(f"{len(found)} items")


@app.command()
def verify(
    subject: Annotated[list[str] | None, typer.Option(help="Also search for these ids, as they are.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Search every store of the workspace for everyone who was erased; exit code 1 if anything is found."""
    from expunge.errors import ResidueError
    from tasks.residue import erased, scan_workspace

    state = use_workspace(workspace)
    target = erased(state, subject or ())
    with showing_progress():
        report = scan_workspace(state, target)
    if json:
        emit(report.to_json())
    else:
        rows = [
            (item["store"], item["kind"], f"{item['files']:,}", f"{item['bytes']:,}")
            for item in report.searched
        ]
        files, size = (sum(item[name] for item in report.searched) for name in ("files", "bytes"))
        rows.append(("all", "", f"{files:,}", f"{size:,}"))
        title = f"Searched for {len(target.pseudonyms)} erased people"
        table(title, ("store", "kind", "files", "bytes"), rows)
        for note in report.notes:
            out.print(f"note: {note}", markup=False)
        for hit in report.hits:
            out.print(f"FOUND {hit['kind']} in {hit['where']}", markup=False)
        out.print("clean: nothing was found" if report.clean else f"NOT CLEAN: {len(report.hits)} hits")
    if not report.clean:
        raise ResidueError(
            "the residue scan found something", got=f"{len(report.hits)} hits", remedy="see the hits"
        )
