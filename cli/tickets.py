"""Commands on tickets."""

import re
import sys
from datetime import UTC, datetime, timedelta
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from cli import steering
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
from cli.steering import TicketArgument
from cli.trust import AcceptEndorsedOption, KeyOption, TsaRootOption, trusted_keys
from expunge.tickets.lifecycle import TicketState

app = typer.Typer(help="File, look at and steer deletion tickets.", no_args_is_help=True)
_STATES = ", ".join(TicketState)


@app.command()
def submit(
    subject: Annotated[str, typer.Option(help="Id of the person; `-` reads it from standard input.")],
    regime: Annotated[str, typer.Option(help="gdpr, ccpa, uk-gdpr, lgpd, or one of policy.yaml.")] = "gdpr",
    received_at: Annotated[
        str | None,
        typer.Option(
            help="When the request came, such as 2026-03-02 or 2026-03-02T09:00+01:00: its deadline counts from "
            "then. In UTC without a time zone; now by default.",
            metavar="DATE",
        ),
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same ticket.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """File a ticket; filing it twice does no harm."""
    from expunge.errors import NearMatchError
    from expunge.tickets.intake import receipt_moment
    from tasks.intake import require_known

    now = datetime.now(UTC)
    received = None if received_at is None else min(receipt_moment(received_at, now), now)
    subject = sys.stdin.readline().rstrip("\r\n") if subject == "-" else subject
    state = use_workspace(workspace)
    try:
        present = require_known(state, subject, near=True)
    except NearMatchError as error:
        for one in error.near[:5]:  # on the officer's terminal, and in no log
            err.print(f"{one!r} differs only in its form", markup=False, highlight=False)
        raise
    done = state.tickets.submit(
        subject, regime=regime, idempotency_key=idempotency_key, received_at=received, present=present
    )
    if json:
        emit(done.ticket.to_json())
        return
    t = done.ticket
    if not done.created:
        out.print(
            f"{t.ticket_id} is there already for this person ({t.state}, due {t.due_at:%Y-%m-%d}); nothing was filed.",
            markup=False,
        )
        return
    came = "" if received is None else f"received {t.received_at:%Y-%m-%d %H:%M} UTC, "
    late = " (overdue)" if t.due_at <= now else ""
    out.print(
        f"{t.ticket_id} {t.state}, {came}due {t.due_at:%Y-%m-%d}{late}, pseudonym {t.pseudonym}", markup=False
    )


@app.command(name="import")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV with a column subject, and optionally regime, idempotency_key, received_at."
        ),
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
        regimes=list(state.policy.laws),
    )
    now = datetime.now(UTC)
    asked = (
        (row.subject, row.regime, row.idempotency_key, min(row.received_at, now) if row.received_at else None)
        for row in rows
    )
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
    state_name: Annotated[
        str | None, typer.Option("--state", help=f"Only tickets in this state: {_STATES}.", metavar="STATE")
    ] = None,
    search: Annotated[
        str | None, typer.Option(help="Only tickets whose id or pseudonym has this in it.")
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """List tickets, soonest deadline first."""
    from expunge.errors import TicketError

    before = None
    if due is not None:
        match = re.fullmatch(r"(\d{1,4})d", due)
        if match is None:
            raise TicketError("invalid --due", expected="a number of days such as 7d", got=due)
        before = datetime.now(UTC) + timedelta(days=int(match[1]))
    if state_name is not None and state_name not in list(TicketState):
        raise TicketError("unknown state", expected=_STATES, got=state_name)
    opened = use_workspace(workspace, reading=True)
    tickets = opened.tickets.select(
        states=[state_name] if state_name else None, due_before=before, search=search
    )
    if json:
        emit([ticket.to_json() for ticket in tickets])
        return
    rows = [
        (t.ticket_id, t.state, t.regime, f"{t.due_at:%Y-%m-%d}", t.pseudonym, t.batch_id, t.reason)
        for t in tickets
    ]
    table("Tickets", ("ticket", "state", "regime", "due", "pseudonym", "batch", "reason"), rows)


@app.command()
def show(ticket: TicketArgument, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
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
    ticket: TicketArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Write the PDF here.")] = None,
    signed: Annotated[Path | None, typer.Option(help="Write the signed receipt (DSSE) here.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Show what became of a ticket that is closed, was rejected or withdrawn; names nobody."""
    from expunge.reports.decision import NOTHING_ERASED
    from expunge.reports.organisation import organisation_lines
    from expunge.reports.page import render_page
    from expunge.reports.pdf import render_pdf
    from expunge.reports.plain_words import counted
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
    if "decision" in found:
        out.print(
            f"{found['ticket_id']} ({found['pseudonym']}) {found['decision']} {found['decided_at']}",
            markup=False,
        )
        out.print(f"Reason: {found['reason']}", markup=False)
        out.print(" ".join([NOTHING_ERASED, *organisation_lines(found)]), markup=False)
        return
    purged, scan = found["purged"], found["scan"]
    out.print(f"{found['ticket_id']} ({found['pseudonym']}) closed {found['closed_at']}", markup=False)
    out.print(found["guarantee"]["verdict"], markup=False)
    out.print(found["guarantee"]["words"], markup=False)
    out.print(f"Batch {found['batch_id']}, certificate {found['certificate_id']}", markup=False)
    out.print(f"Purged {purged['at']}: {'; '.join(purged['what'])}", markup=False)
    searched = sum(item["files"] for item in scan["searched"])
    out.print(
        f"Residue scan of {counted(searched, 'file or object', 'files and objects')}: {counted(scan['hits'], 'hit')}",
        markup=False,
    )
    backups = [tuple(backup.values()) for backup in found["backups"]]
    table("Backups", ("name", "holds", "forgotten by"), backups)
    table("Not covered", ("artefact", "reason"), [tuple(item.values()) for item in found["not_covered"]])
    out.print(" ".join(organisation_lines(found)), markup=False)


@app.command(name="verify-receipt")
def verify_receipt(
    file: Annotated[
        Path, typer.Argument(help="A signed receipt: `expunge ticket receipt ID --signed FILE`.")
    ],
    key: KeyOption = None,
    accept_endorsed: AcceptEndorsedOption = None,
    tsa_root: TsaRootOption = None,
    json: JsonOption = False,
) -> None:
    """Verify a signed receipt alone: exit code 1 if it does not hold, 4 if its signature was not checked."""
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


steering.add_to(app)
