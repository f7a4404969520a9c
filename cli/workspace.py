"""Commands on the workspace: init, train, doctor, demo, and the stages that dvc.yaml calls."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, showing_progress, shown, table, use_workspace


def add_to(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: The command line.
    """
    app.command()(init)
    app.command()(train)
    app.command()(doctor)
    app.command()(demo)
    app.command(hidden=True)(stage)


def init(
    path: Annotated[Path, typer.Argument(help="Folder of the workspace.")] = Path("."),
    dataset: Annotated[
        str, typer.Option(help="Name in the catalogue, or your own folder.")
    ] = "breast-cancer",
    source: Annotated[
        Path | None, typer.Option(help="The dataset's file or folder, if it is not bundled.")
    ] = None,
    draft_contract: Annotated[
        bool, typer.Option("--draft-contract", help="Only write a contract.yaml into your own folder.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a workspace: git, DVC, dataset, policy, keys."""
    if draft_contract:
        from expunge.datasets.draft import draft

        lines = draft(Path(dataset))
        if json:
            emit({"contract": str(Path(dataset) / "contract.yaml"), "notes": lines})
            return
        out.print(
            f"Wrote {Path(dataset) / 'contract.yaml'}, a draft: read it before `expunge init`", markup=False
        )
        for line in lines:
            out.print(f"  {line}", markup=False)
        return
    from tasks.workspace import create

    with showing_progress():
        made = create(path, dataset, source)
    if json:
        emit(made)
        return
    out.print(
        f"Workspace {made['workspace']}: {made['rows']:,} rows of {made['subjects']:,} people", markup=False
    )
    out.print(f"  in {made['partitions']} partitions, dataset version {made['dataset_md5']}", markup=False)
    for line in made["read"]:
        out.print(shown(f"  {line}"), markup=False)
    for line in made["warnings"]:
        out.print(shown(f"  warning: {line}"), markup=False)
    if made["normalise"] is not None:
        rules = ", ".join(made["normalise"]) or "none: each spelling is another person"
        out.print(
            f"  ids: {made['spellings']:,} spellings; rules in data/contract.yaml: {rules}", markup=False
        )
    out.print(
        "  .expunge/keys/auditor.key opens sealed annexes: hand it to your auditor and remove it from here."
    )
    if made["others_shut_out"]:
        out.print("  The folder is yours alone now (mode 700): personal data is in it.")
    out.print(
        "  The data are stored in the workspace alone; `expunge data share FOLDER` lets clones of it `dvc pull`."
    )
    out.print("Next: expunge train")


def train(
    again: Annotated[
        bool,
        typer.Option("--again", help="Train from nothing on the dataset as it is now: an exact release."),
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Train and register the first model; or train it again, on data that have grown since."""
    from expunge.permissions import require_private
    from tasks.adapters.prefect_server import prefect_server

    state = use_workspace(workspace)
    require_private(state.workspace)  # the model's code is run
    with showing_progress(), prefect_server(state.workspace.prefect_home):
        from flows.train import train as flow
        from flows.train import train_again

        version = train_again() if again else flow()
    from tasks.adapters import access

    registry = access.registry(state)
    registered = registry.get(version)
    metrics = registry.metrics(registered)
    if json:
        emit({"model": state.lineage, "version": version, "metrics": metrics, "tags": dict(registered.tags)})
        return
    out.print(
        f"{state.lineage} version {version} serves: test accuracy {metrics['accuracy']:.4f}", markup=False
    )


def stage(
    name: Annotated[str, typer.Argument(help="prepare, train or evaluate")], workspace: WorkspaceOption = None
) -> None:
    """Run one stage of dvc.yaml."""
    from expunge import stages
    from expunge.errors import InputError
    from expunge.settings import Workspace

    if name not in stages.STAGES:
        raise InputError("unknown stage", expected=", ".join(stages.STAGES), got=name, remedy="see dvc.yaml")
    with showing_progress():
        getattr(stages, name)(Workspace.find(workspace))


def doctor(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Check tools, services, keys and the state of the workspace."""
    from cli.checks import run_checks
    from expunge.errors import ServiceUnavailableError

    checks = run_checks(workspace)
    if json:
        emit({"healthy": all(c["ok"] for c in checks), "checks": checks})
    else:
        table(
            "Doctor",
            ("check", "state", "detail"),
            [(c["check"], "ok" if c["ok"] else "NO", c["detail"]) for c in checks],
        )
    if not all(check["ok"] for check in checks):
        raise ServiceUnavailableError("something is not as it must be", remedy="see the lines marked NO")


def demo(
    dataset: Annotated[str, typer.Option(help="Of the catalogue.")] = "breast-cancer",
    source: Annotated[Path | None, typer.Option(help="The dataset's file or folder.")] = None,
    model: Annotated[str, typer.Option(help="linearized-mlp or mlp.")] = "linearized-mlp",
    workspace: Annotated[Path | None, typer.Option(help="Keep the workspace here.")] = None,
) -> None:
    """Show the whole path on a throw-away workspace."""
    from cli.demo import run_demo

    run_demo(dataset, source, model, workspace)
