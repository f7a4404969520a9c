"""Commands on policy: which one holds, and accepting a change under a batch."""

from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace

app = typer.Typer(
    help="Which policy holds, by the ledger and on each batch; and accepting a change.", no_args_is_help=True
)


@app.command()
def show(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show the digest of the policy that lies there, the ledger's last one, and that of every unfinished batch."""
    from expunge.evidence.canonical import digest
    from expunge.evidence.ledger import policy_of

    state = use_workspace(workspace, reading=True)
    last = policy_of(state.ledger.entries(state.lineage))
    stated = last.policy.new if last is not None and last.policy is not None else None
    batches = [
        {"batch_id": batch.batch_id, "stage": batch.stage, **_pin(batch.data)}
        for batch in state.batches.unfinished()
    ]
    found = {
        "digest": digest(state.policy.guarantee_content()),
        "ledger": stated,
        "entry": last.sequence if last is not None else None,
        "batches": batches,
    }
    if json:
        emit(found)
        return
    out.print(f"policy.yaml  {found['digest']}", markup=False)
    out.print(f"ledger       {stated or 'none yet'}", markup=False)
    rows = [(b["batch_id"], b["stage"], b["digest"] or "", b["pinned_at"] or "") for b in batches]
    table("Unfinished batches", ("batch", "stage", "pinned policy", "pinned at"), rows)


def _pin(data: dict[str, dict[str, str]]) -> dict[str, str | None]:
    pinned = data.get("policy", {})
    return {"digest": pinned.get("digest"), "pinned_at": pinned.get("pinned_at")}


@app.command()
def accept(
    batch: Annotated[str, typer.Argument(help="Of the batch that policy was changed under.")],
    reason: Annotated[str, typer.Option(help="Why the change is to hold for it; the ledger keeps it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Let a change of policy hold for a batch that has begun; the ledger and its certificate tell of it."""
    from tasks.policy import accept as take

    state = use_workspace(workspace)
    take(state, batch, reason)
    pinned = _pin(state.batches.get(batch).data)
    if json:
        emit({"batch_id": batch, **pinned})
        return
    out.print(
        f"batch {batch} goes on under policy {pinned['digest']}; continue it with `expunge run`", markup=False
    )
