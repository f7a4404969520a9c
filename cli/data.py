"""Commands on the dataset: whatever comes into it comes past the suppression list."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, showing_progress, use_workspace

app = typer.Typer(
    help="Bring data in, and go back to earlier versions, without whoever was removed.", no_args_is_help=True
)
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command(name="import")
def import_dump(
    path: Annotated[
        str, typer.Argument(help="Your folder of data, or the source of the workspace's catalogue dataset.")
    ],
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Add the people of a dump who are new; the removed are dropped, those who are there stay as they are."""
    from tasks import ingest

    with showing_progress():
        done = ingest.import_dump(use_workspace(workspace), path, dry_run=dry_run)
    _print(done, json)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(help="Backup: a folder of the dataset's Parquet partitions.")],
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Add the people of a backup who are missing; the removed are dropped."""
    from tasks import ingest

    with showing_progress():
        done = ingest.restore(use_workspace(workspace), path, dry_run=dry_run)
    _print(done, json)


def _print(done: dict[str, Any], json: bool) -> None:
    if json:
        emit(done)
        return
    for name, what in (
        ("read", "read"),
        ("suppressed", "dropped: removed before, and suppressed"),
        ("present", "left as they are in the dataset"),
        ("added", "would be added" if done["dry_run"] else "added"),
    ):
        figures = done[name]
        out.print(f"{figures['subjects']:>9,} people, {figures['rows']:>9,} rows  {what}", markup=False)
    for pseudonym in done["suppressed"]["pseudonyms"]:
        out.print(f"  suppressed {pseudonym}", markup=False)
    state = "is now" if done["changed"] else "stays"
    out.print(f"The dataset {state} version {done['dataset_md5']}", markup=False)
