"""Commands on purging."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, showing_progress, table, use_workspace

if TYPE_CHECKING:
    from expunge.tickets.purge_journal import Item

app = typer.Typer(help="Preview what would be purged, and verify that nothing is left.", no_args_is_help=True)


@app.command()
def preview(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show what a purge would destroy now. Changes nothing."""
    from tasks.destruction import preview as look

    found = look(use_workspace(workspace, reading=True))
    if json:
        emit([item.to_json() for item in found])
        return
    _show(found)


@app.command()
def approve(
    batch_id: Annotated[str, typer.Argument(help="The batch that waits.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not show the preview, and do not ask.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Approve what a batch's purge destroys: the next run carries it out."""
    from expunge.errors import InputError
    from expunge.tickets.purge_waits import approve as record
    from tasks.destruction import preview as look

    state = use_workspace(workspace)
    if json and not yes:
        raise InputError("nobody can be asked with --json", expected="--yes with it")
    if not yes:
        _show(look(state, batch_id))
        typer.confirm("Destroy this?", abort=True, err=True)
    at = record(state.batches, batch_id)
    if json:
        emit({"batch_id": batch_id, "approved_at": at})
        return
    out.print(f"{batch_id}: approved at {at}; `expunge run` purges it", markup=False)


def _show(found: "list[Item]") -> None:
    for title, kept in (("Would be destroyed", False), ("Would be kept", True)):
        rows = [(f"{i.kind} {i.what}", i.where, i.bytes, i.why) for i in found if i.kept == kept]
        if rows or not kept:
            table(title, ("what", "where", "bytes", "why"), rows)
    total = sum(item.bytes or 0 for item in found if not item.kept)
    out.print(f"{sum(not item.kept for item in found)} items, {total:,} bytes")


@app.command()
def verify(
    subject: Annotated[list[str] | None, typer.Option(help="Also search for these ids, as they are.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Search every store of the workspace for everyone who was erased; exit code 1 if anything is found."""
    from expunge.errors import ResidueError
    from tasks.residue import erased, scan_workspace

    state = use_workspace(workspace, reading=True)
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
