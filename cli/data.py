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
    append: Annotated[
        bool,
        typer.Option("--append", help="Add rows of people who are there too, where they are not there yet."),
    ] = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Add the people of a dump who are new; the removed are dropped, no row that is there changes."""
    from tasks import ingest

    with showing_progress():
        done = ingest.import_dump(use_workspace(workspace), path, append=append, dry_run=dry_run)
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


@app.command()
def checkout(
    revision: Annotated[
        str, typer.Argument(help="Commit, branch or tag whose dataset to take out.")
    ] = "HEAD",
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Take a version of the dataset out; a purged one, or one with a removed person, is refused unharmed."""
    from tasks.checkout import checkout as take

    with showing_progress():
        done = take(use_workspace(workspace), revision)
    if json:
        emit(done)
        return
    out.print(f"data/dataset {'is now' if done['changed'] else 'stays'} {done['dataset_md5']}", markup=False)
    if revision != "HEAD":
        out.print("`expunge data checkout` goes back to the version of the commit that is checked out.")


@app.command()
def share(
    folder: Annotated[
        Path, typer.Argument(help="A new folder on a share that colleagues reach by the same path.")
    ],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Move the dataset's storage to a shared folder, so that `git clone` and `dvc pull` work for colleagues."""
    from tasks import sharing

    with showing_progress():
        done = sharing.share(use_workspace(workspace), folder)
    if json:
        emit(done)
        return
    state = f"{done['objects']:,} files moved" if done["changed"] else "nothing to move"
    out.print(f"The dataset is stored in {done['folder']} now: {state}.", markup=False)
    out.print(
        "  Whoever can enter that folder can read people's rows: set its owner and mode. A purge destroys there, too, "
        "but not in a colleague's clone: declare each with `expunge coverage add`, and let `dvc pull` and `dvc gc -w` "
        "be run in it after a deletion."
    )


@app.command()
def guard(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Install the git hook that keeps purged versions from being checked out by plain git and DVC."""
    from tasks.adapters.guard import install

    changed = install(use_workspace(workspace).workspace.root)
    if json:
        emit({"installed": True, "changed": changed})
        return
    out.print("The guard is installed." if changed else "The guard is there already.")


def _print(done: dict[str, Any], json: bool) -> None:
    if json:
        emit(done)
        return
    for name, what in (
        ("read", "read"),
        ("suppressed", "dropped: removed before, and suppressed"),
        ("present", "in the dataset already"),
        ("further", f"further rows of people who are there: {_of_further(done)}"),
        ("added", "of new people would be added" if done["dry_run"] else "of new people added"),
    ):
        figures = done[name]
        out.print(f"{figures['subjects']:>9,} people, {figures['rows']:>9,} rows  {what}", markup=False)
    for pseudonym in done["suppressed"]["pseudonyms"]:
        out.print(f"  suppressed {pseudonym}", markup=False)
    if done["spelled_otherwise"]:
        out.print(f"  {done['spelled_otherwise']:,} of them spelled otherwise than when they were removed")
    if both := done["in_both_splits"]:
        out.print(
            f"  {both:,} of these people have rows in train and in test: attack gates stay off for them; put each "
            "person wholly into one split"
        )
    state = "is now" if done["changed"] else "stays"
    out.print(f"The dataset {state} version {done['dataset_md5']}", markup=False)


def _of_further(done: dict[str, Any]) -> str:
    if done["further"]["added"]:
        return "added"
    return "would be added with --append" if done["further"]["rows"] else "none"
