"""Commands that plan and process batches."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.output import (
    JsonOption,
    WorkspaceOption,
    emit,
    err,
    out,
    paragraph,
    showing_progress,
    table,
    use_workspace,
)


def add_to(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: The command line.
    """
    app.command()(plan)
    app.command()(run)
    app.command()(rollback)


def plan(
    ticket: Annotated[list[str] | None, typer.Option("--ticket", help="Only these tickets.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Dry run: what the next batch would do, at which guarantee and cost. Changes nothing."""
    from expunge.reports.plain_words import bound, counted
    from tasks.intake import waiting_for
    from tasks.lineages import on_the_same_people
    from tasks.planning import plan_for
    from tasks.preview import records_of

    state = use_workspace(workspace, reading=True)
    chosen = [state.tickets.get(name) for name in ticket] if ticket else state.tickets.due_for_batch()
    made, context = plan_for(state)
    limits = context.limits
    left = {
        "accumulated_error": limits.accumulated_error - context.account.accumulated_error,
        "releases": limits.releases - context.account.step,
    }
    records = records_of(state, [t.ticket_id for t in chosen])
    chosen_one = next((a for a in made.assessments if a.mechanism == made.choice), None)
    ratio = state.policy.attacks.guards.max_cost_ratio
    cost = {
        "seconds": chosen_one.seconds if chosen_one and context.timed else None,
        "seconds_a_ticket": chosen_one.seconds / len(chosen)
        if chosen_one and chosen and context.timed
        else None,
        "products_at_most": ratio * context.training_products
        if ratio is not None and context.timed
        else None,
    }
    fewest = state.policy.attacks.difference.minimum_people
    waiting = waiting_for(chosen, state.policy.batch, datetime.now(UTC), fewest=fewest)
    asked = max((t.received_at for t in chosen), default=None)
    unresolved = state.coverage.unresolved(len(chosen), asked)
    for line in on_the_same_people(state):
        err.print(f"warning: {line}", markup=False, soft_wrap=True)
    if json:
        assessed = [
            {k: (None if v == float("inf") else v) for k, v in a.to_json().items()}
            | {"trainings": a.seconds / context.training_seconds}
            | ({} if context.timed else {"seconds": None})
            for a in made.assessments
        ]
        emit(
            {
                "tickets": [t.ticket_id for t in chosen],
                "records": records,
                "mechanisms": assessed,
                "order": list(made.order),
                "choice": made.choice,
                "why": made.why,
                "ledger_left": left,
                "cost": cost,
                "waiting": waiting,
                "unresolved": [item.to_json() for item in unresolved],
            }
        )
        return
    out.print(
        f"Next batch: {counted(len(chosen), 'ticket')}, {counted(records, 'record')} (dry run: nothing is changed)"
    )
    if waiting:
        out.print(f"It does not start yet: {waiting}.", markup=False)
    rows = [
        (
            a.mechanism,
            a.guarantee,
            bound(a.epsilon),
            bound(a.delta),
            f"{a.error_bound:.3g}",
            f"{a.seconds:.1f} s" if context.timed else f"{a.seconds:.2g} trainings",
            a.utility,
            ("chosen" if a.mechanism == made.choice else "admitted") if a.admissible else "refused",
        )
        for a in made.assessments
    ]
    table(
        "Plan",
        ("mechanism", "guarantee", "epsilon", "delta", "error bound", "predicted", "accuracy", "verdict"),
        rows,
    )
    out.print(
        f"Ledger left: accumulated error {left['accumulated_error']:.4g}, {counted(int(left['releases']), 'release')}"
    )
    paragraph(made.why)
    if cost["seconds_a_ticket"] is not None:
        out.print(f"Predicted cost: {cost['seconds_a_ticket']:.1f} s a ticket, before attacks on the release")
    if not context.timed:
        paragraph(
            "What a training takes is not known: the figures of the last one told of people who left, and went with "
            "them. Costs are in trainings, until a batch is retrained."
        )
    for a in made.assessments:
        if a.refusal:
            paragraph(f"  {a.mechanism} is refused: {a.refusal}; {a.remedy}", after="    ")
    for item in unresolved:
        out.print(f"Nobody has said what becomes of {item.label}: `expunge coverage resolve`.", markup=False)
    if not made.order:
        out.print("Tickets would fail. See policy.yaml.")


def run(
    watch: Annotated[bool, typer.Option("--watch", help="Go on processing what becomes due.")] = False,
    every: Annotated[int, typer.Option(help="Seconds between looks, with --watch.", min=1)] = 60,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> int:
    """Process what is due; continues what was interrupted."""
    from expunge.permissions import require_private
    from tasks.adapters.prefect_server import prefect_server
    from tasks.planning import champion_context

    state = use_workspace(workspace)
    require_private(state.workspace)
    champion_context(state)
    done: list[dict[str, Any]] = []
    with showing_progress():
        left = {batch.batch_id for batch in state.batches.unfinished()} - set(state.waiting())
        if not left and not state.tickets.due_for_batch() and not watch:
            code = 0
        else:
            with prefect_server(state.workspace.prefect_home):
                code = _process(state, done)
                while watch:
                    time.sleep(every)
                    _process(state, done)
    reported = {batch["batch_id"] for batch in done}
    done += [summary(state, name) for name in state.waiting() if name not in reported]
    if json:
        emit(done)
        return code
    if not done:
        out.print("Nothing is due.")
    for batch in done:
        _print_batch(batch)
    return code


def rollback(
    version: Annotated[int, typer.Argument(help="Of the parent of the version that serves.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Let the parent version serve again; its batch is unlearned anew. Data never comes back."""
    from expunge.errors import InputError
    from tasks.rollback import roll_back, undone_by

    state = use_workspace(workspace)
    batch = undone_by(state, version)
    if json and not yes:
        raise InputError("nobody can be asked", expected="--yes with --json")
    people = f"{len(batch.tickets)} {'person' if len(batch.tickets) == 1 else 'people'}"
    if not yes:
        typer.confirm(
            f"{people} of batch {batch.batch_id} will be in the model that serves, until the batch is unlearned "
            f"again. Roll back to version {version}?",
            abort=True,
        )
    batch = roll_back(state, version)
    if json:
        emit(
            {
                "version": version,
                "batch_id": batch.batch_id,
                "stage": str(batch.stage),
                "tickets": batch.tickets,
            }
        )
        return
    out.print(
        f"version {version} serves; {people} of batch {batch.batch_id} are in it: `expunge run` unlearns them again",
        markup=False,
    )


def _process(state: Any, done: list[dict[str, Any]]) -> int:
    """Process what is due; a batch that failed keeps its reason."""
    from flows.sweep import process_due

    failure = process_due(state, lambda batch_id: done.append(summary(state, batch_id)))
    if failure is None:
        return 0
    err.print(f"error: batch {done[-1]['batch_id']}: {failure}", markup=False, soft_wrap=True)
    return failure.exit_code


def summary(state: Any, batch_id: str) -> dict[str, Any]:
    """One batch, as `run --json` prints it.

    Args:
        state: The workspace.
        batch_id: Of the batch.

    Returns:
        Plain data.
    """
    batch = state.batches.get(batch_id)
    release = batch.data.get("release", {})
    return {
        "batch_id": batch_id,
        "stage": str(batch.stage),
        "tickets": list(batch.tickets),
        "records": batch.data.get("records"),
        "mechanism": batch.data.get("mechanism"),
        "guarantee": release.get("guarantee"),
        "epsilon": release.get("epsilon"),
        "delta": release.get("delta"),
        "model_version": batch.data.get("model_version"),
        "certificate_id": batch.data.get("certificate_id"),
        "refusals": batch.data.get("refusals", []),
        "metrics": batch.data.get("metrics"),
        # a batch of an earlier release has it among the metrics
        "parent_accuracy": batch.data.get(
            "parent_accuracy", (batch.data.get("metrics") or {}).get("parent_accuracy")
        ),
        "scan": batch.data.get("scan_report"),
        "seconds": batch.data.get("seconds", {}),
        "error": batch.error,
        "waiting": state.waiting().get(batch_id),
    }


def _print_batch(batch: dict[str, Any]) -> None:
    if batch["waiting"]:
        out.print(f"{batch['batch_id']}: {batch['stage']}, waits: {batch['waiting']}", markup=False)
        return
    if batch["error"]:
        out.print(f"{batch['batch_id']}: FAILED, {batch['error']}", markup=False)
        return
    from expunge.reports.plain_words import bound, counted

    asked = f"{counted(len(batch['tickets']), 'ticket')}, {counted(batch['records'], 'record')}"
    out.print(
        f"{batch['batch_id']}: {asked if batch['tickets'] else 'trained again'}, "
        f"{batch['mechanism']} ({batch['guarantee']}, "
        f"epsilon {bound(batch['epsilon'])}, delta {bound(batch['delta'])}), "
        f"model version {batch['model_version']}, certificate {batch['certificate_id']}",
        markup=False,
    )
    for refusal in batch["refusals"]:
        paragraph(f"  {refusal['mechanism']} was refused: {refusal['reason']}", after="    ")
    before, after = batch["parent_accuracy"], batch["metrics"]["accuracy"]
    out.print(f"  test accuracy {before:.4f} as published before, {after:.4f} after; superseded bytes purged")
    out.print("  " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in batch["seconds"].items()))
