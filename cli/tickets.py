"""Commands on tickets."""

import re
import sys
from datetime import UTC, datetime, timedelta
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import (
    JsonOption,
    WorkspaceOption,
    emit,
    err,
    out,
    report_outcome,
    table,
    use_workspace,
    write_files,
)
from cli.trust import AcceptEndorsedOption, TsaRootOption, trusted_keys

app = typer.Typer(help="File, look at and steer deletion tickets.", no_args_is_help=True)
_TicketArgument = Annotated[str, typer.Argument(help="Ticket id, t-...")]
_ReasonOption = Annotated[str, typer.Option("--reason", help="Why; required.")]


@app.command()
def submit(
    subject: Annotated[str, typer.Option(help="Id of the person; `-` reads it from standard input.")],
    regime: Annotated[str, typer.Option(help="gdpr or ccpa.")] = "gdpr",
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same ticket.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """File a ticket; filing it twice does no harm."""
    from expunge.errors import NearMatchError
    from tasks.intake import require_known

    subject = sys.stdin.readline().rstrip("\r\n") if subject == "-" else subject
    state = use_workspace(workspace)
    try:
        present = require_known(state, subject, near=True)
    except NearMatchError as error:
        for one in error.near[:5]:  # on the officer's terminal, and in no log
            err.print(f"{one!r} differs only in its form", markup=False, highlight=False)
        raise
    done = state.tickets.submit(subject, regime=regime, idempotency_key=idempotency_key, present=present)
    if json:
        emit(done.ticket.to_json())
        return
    t = done.ticket
    if not done.created:
        out.print(
            f"{t.ticket_id} is there already for this person ({t.state}); nothing was filed.", markup=False
        )
        return
    out.print(f"{t.ticket_id} {t.state}, due {t.due_at:%Y-%m-%d}, pseudonym {t.pseudonym}", markup=False)


@app.command(name="import")
def import_file(
    file: Annotated[
        Path, typer.Argument(help="CSV with a column subject, and optionally regime, idempotency_key.")
    ],
    delete_file: Annotated[
        bool | None,
        typer.Option("--delete-file/--keep-file", help="Delete the file afterwards: it names people."),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """File tickets from a CSV file: all of them or none."""
    from expunge.datasets.partitions import find_subjects
    from expunge.tickets.intake import read_tickets_csv
    from tasks.spellings import alike_in_dataset, is_searched

    state = use_workspace(workspace)
    dataset, placement = state.workspace.dataset_dir, state.placement
    rows = read_tickets_csv(
        file,
        lambda subjects: find_subjects(dataset, subjects, placement),
        canonical=state.contract.identity.canonical,
        near=lambda subjects: alike_in_dataset(state, subjects),
    )
    asked = ((row.subject, row.regime, row.idempotency_key) for row in rows)
    done = state.tickets.submit_all(asked, present=True)  # the file was refused if one of them is not
    inside = is_searched(state, file)
    if inside and delete_file is None and not json and sys.stdin.isatty():
        delete_file = typer.confirm(f"{file.name} names people inside the workspace. Delete it?", err=True)
    if delete_file:
        file.unlink()
    left = inside and not delete_file
    if json:
        emit([outcome.ticket.to_json() for outcome in done])
    else:
        created = sum(outcome.created for outcome in done)
        out.print(f"{created} filed, {len(done) - created} were there already")
    if left:
        err.print(
            f"{file.name} names these people inside the workspace: no batch of theirs starts while it is there. "
            "Delete it, or move it elsewhere (--delete-file).",
            markup=False,
        )


@app.command(name="list")
def list_tickets(
    due: Annotated[str | None, typer.Option(help="Open tickets due within this time, such as 7d.")] = None,
    state_name: Annotated[str | None, typer.Option("--state", help="Only tickets in this state.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """List tickets, soonest deadline first."""
    from expunge.errors import TicketError
    from expunge.tickets.lifecycle import TicketState

    before = None
    if due is not None:
        match = re.fullmatch(r"(\d{1,4})d", due)
        if match is None:
            raise TicketError("invalid --due", expected="a number of days such as 7d", got=due)
        before = datetime.now(UTC) + timedelta(days=int(match[1]))
    if state_name is not None and state_name not in list(TicketState):
        raise TicketError("unknown state", expected=", ".join(TicketState), got=state_name)
    opened = use_workspace(workspace, reading=True)
    tickets = opened.tickets.select(states=[state_name] if state_name else None, due_before=before)
    if json:
        emit([ticket.to_json() for ticket in tickets])
        return
    rows = [
        (t.ticket_id, t.state, t.regime, f"{t.due_at:%Y-%m-%d}", t.pseudonym, t.batch_id, t.reason)
        for t in tickets
    ]
    table("Tickets", ("ticket", "state", "regime", "due", "pseudonym", "batch", "reason"), rows)


@app.command()
def show(ticket: _TicketArgument, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show a ticket and its history."""
    state = use_workspace(workspace, reading=True)
    found, history = state.tickets.get(ticket), state.tickets.history(ticket)
    if json:
        emit({**found.to_json(), "history": history})
        return
    for name, value in found.to_json().items():
        out.print(f"{name:15} {'' if value is None else value}", markup=False)
    table("History", ("at", "from", "to", "reason"), [tuple(event.values()) for event in history])


@app.command()
def receipt(
    ticket: _TicketArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Write the PDF here.")] = None,
    signed: Annotated[Path | None, typer.Option(help="Write the signed receipt (DSSE) here.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show what became of the person of a closed ticket; names nobody."""
    from expunge.reports.page import render_page
    from expunge.reports.pdf import render_pdf
    from expunge.reports.receipt import receipt_document
    from tasks.receipt import receipt_of
    from tasks.signing import sign_receipt

    state = use_workspace(workspace, reading=True)
    found, files = receipt_of(state, ticket), dict[Path, bytes]()
    signed_by = state.signing.signer().public_key.keyid if signed is not None else None
    document = receipt_document(found, signed_by)
    if html is not None:
        files[html] = render_page(document).encode()
    if pdf is not None:
        files[pdf] = render_pdf(document)
    if signed is not None:
        files[signed] = dumps(sign_receipt(state, found), indent=1).encode()
    write_files(files)
    if json:
        emit(found)
        return
    purged, scan = found["purged"], found["scan"]
    out.print(f"{found['ticket_id']} ({found['pseudonym']}) closed {found['closed_at']}", markup=False)
    out.print(found["guarantee"]["verdict"], markup=False)
    out.print(found["guarantee"]["words"], markup=False)
    out.print(f"Batch {found['batch_id']}, certificate {found['certificate_id']}", markup=False)
    out.print(f"Purged {purged['at']}: {'; '.join(purged['what'])}", markup=False)
    searched = sum(item["files"] for item in scan["searched"])
    out.print(f"Residue scan of {searched:,} files and objects: {scan['hits']} hits", markup=False)
    backups = [tuple(backup.values()) for backup in found["backups"]]
    table("Backups", ("name", "holds", "forgotten by"), backups)
    table("Not covered", ("artefact", "reason"), [tuple(item.values()) for item in found["not_covered"]])


@app.command(name="verify-receipt")
def verify_receipt(
    file: Annotated[
        Path, typer.Argument(help="A signed receipt: `expunge ticket receipt ID --signed FILE`.")
    ],
    key: Annotated[
        Path, typer.Option(help="Public keys that are trusted, and no others: a keyring, or one key as PEM.")
    ],
    accept_endorsed: AcceptEndorsedOption = None,
    tsa_root: TsaRootOption = None,
    json: JsonOption = False,
) -> None:
    """Verify a signed receipt alone, without a workspace; exit code 1 if it does not hold."""
    from expunge.errors import InputError, VerificationError
    from expunge.evidence.canonical import read_json
    from expunge.evidence.signed_receipt import verify_receipt as verify
    from expunge.evidence.time_stamp import load_roots

    try:
        envelope = read_json(file)
    except (OSError, VerificationError) as error:
        raise InputError("the receipt cannot be read", expected="a JSON file", got=str(file)) from error
    keys = trusted_keys(key, accept_endorsed, () if tsa_root is None else load_roots(tsa_root))
    outcome, found = verify(envelope, keys)
    report_outcome(outcome, json, f"receipt {found.get('ticket_id', file.name)}", {"receipt": found})


@app.command(name="file-rest")
def file_rest_of(
    batch_id: Annotated[str, typer.Argument(help="The batch whose residue scan found rows in the dataset.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """File tickets for rows of a batch's people that are in the dataset under other spellings."""
    from tasks.spellings import file_rest

    done = file_rest(use_workspace(workspace), batch_id)
    if json:
        emit([outcome.ticket.to_json() for outcome in done])
        return
    created = [outcome.ticket.ticket_id for outcome in done if outcome.created]
    out.print(f"{len(created)} filed: {', '.join(created[:5])}; `expunge run` removes them", markup=False)


@app.command()
def hold(
    ticket: _TicketArgument,
    reason: _ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Put a ticket on hold, a legal one too: at any state, until its purge has begun."""
    _report(use_workspace(workspace).tickets.hold(ticket, reason), json)


@app.command()
def release(ticket: _TicketArgument, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Release a held ticket: its deadline moves by the time held, and its batch continues."""
    _report(use_workspace(workspace).tickets.release(ticket), json)


@app.command()
def extend(
    ticket: _TicketArgument,
    reason: _ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Extend a deadline, once: by two months (GDPR) or 45 days (CCPA). The person must be told why."""
    state = use_workspace(workspace)
    due = state.deadlines.extend(ticket, reason)
    if json:
        emit(state.tickets.get(ticket).to_json())
        return
    out.print(f"{ticket} is due {due:%Y-%m-%d} now; tell the person, and why", markup=False)


@app.command()
def withdraw(
    ticket: _TicketArgument,
    reason: _ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Withdraw a ticket before removal."""
    _report(use_workspace(workspace).tickets.withdraw(ticket, reason), json)


@app.command()
def reject(
    ticket: _TicketArgument,
    reason: _ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Reject a ticket before removal."""
    _report(use_workspace(workspace).tickets.reject(ticket, reason), json)


def _report(ticket: Any, json: bool) -> None:
    if json:
        emit(ticket.to_json())
        return
    out.print(f"{ticket.ticket_id} {ticket.state}", markup=False)
