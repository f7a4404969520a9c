"""Commands on the coverage map: what saw people, what Expunge cannot see, and what is said of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace

app = typer.Typer(
    help="What saw people: list it, declare what is elsewhere, resolve it.", no_args_is_help=True
)


@app.command(name="list")
def list_artefacts(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List every artefact that saw people, and what became of it."""
    state = use_workspace(workspace, reading=True)
    waiting = state.coverage.resolutions(None)
    found = [
        {**item.to_json(), "next_batch": _next_batch(item, waiting.get(item.artefact_id))}
        for item in state.coverage.every()
    ]
    if json:
        emit(found)
        return
    rows = [
        (a["artefact_id"], a["kind"], a["name"], a["status"], a["batch_id"], a["reason"], a["next_batch"]["status"])
        for a in found
    ]  # fmt: skip
    table(
        f"Coverage of {state.lineage}",
        ("id", "kind", "name", "status", "batch", "reason", "next batch"),
        rows,
    )


@app.command()
def add(
    kind: Annotated[str, typer.Option(help="checkpoint, embedding, derived-model, ...")],
    name: Annotated[str, typer.Option(help="What it is called; no person's name.")],
    where: Annotated[str, typer.Option(help="Where it is.")] = "",
    from_version: Annotated[int | None, typer.Option(help="Model version that it was made from.")] = None,
    from_dataset: Annotated[str | None, typer.Option(help="Dataset version that it was made from.")] = None,
    parent: Annotated[str | None, typer.Option(help="Artefact that it was made from, a-...")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Declare what Expunge cannot see; it saw whomever saw what it was made from."""
    from expunge.errors import InputError
    from expunge.evidence.coverage import DECLARABLE
    from tasks.declarations import declare

    chosen = next((k for k in DECLARABLE if k == kind), None)
    if chosen is None:
        raise InputError(
            "this kind cannot be declared",
            expected=", ".join(DECLARABLE),
            got=kind,
            remedy="choose one; Expunge registers all others itself",
        )
    made = declare(
        use_workspace(workspace),
        chosen,
        name,
        where,
        from_version=from_version,
        from_dataset=from_dataset,
        parent=parent,
    )
    _report(made, json)


@app.command()
def resolve(
    artefact: Annotated[str, typer.Argument(help="Its id, a-...")],
    status: Annotated[str | None, typer.Option(help="purged, recomputed or not-covered.")] = None,
    reason: Annotated[str, typer.Option(help="Of the status; certificates show it.")] = "",
    exception: Annotated[
        str | None, typer.Option(help="Leave it as it is, for this reason; certificates show it.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="certificate.json of its own workspace's batch, with ledger.json beside it."),
    ] = None,
    standing: Annotated[
        bool, typer.Option("--standing", help="For every batch, not the next alone.")
    ] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Say what becomes of a declared artefact when the next batch's people leave."""
    from expunge.errors import InputError
    from tasks.declarations import resolve as say

    said = [status is not None, exception is not None, certificate is not None]
    if sum(said) != 1 or (status is not None and status not in ("purged", "recomputed", "not-covered")):
        raise InputError(
            "what became of it",
            expected="--status purged|recomputed|not-covered --reason TEXT, --exception REASON or "
            "--certificate FILE",
            remedy="give one of them",
        )
    if standing and (certificate is not None or status == "purged"):
        raise InputError(
            "this cannot be standing",
            expected="an exception, not-covered or recomputed",
            got="a certificate, which speaks of one batch's people" if certificate else "purged",
            remedy="leave out --standing",
        )
    reason = exception if exception is not None else reason
    _report(
        say(
            use_workspace(workspace),
            artefact,
            status=status,
            reason=reason,
            certificate=certificate,
            standing=standing,
        ),
        json,
    )


def _next_batch(item: Any, said: Any) -> dict[str, Any]:
    """What the next batch's certificate would say of a declared artefact, if it is resolved."""
    if not item.declared or item.status == "purged":
        return {"status": None, "reason": None, "standing": False}
    if said is None:
        return {"status": "unresolved", "reason": None, "standing": False}
    return {"status": said.status, "reason": said.reason, "standing": said.standing}


def _report(item: Any, json: bool) -> None:
    if json:
        emit(item.to_json())
        return
    out.print(f"{item.label}: {item.status}", markup=False)
