"""Commands that steer tickets: one, several, or all of a state; of several all or none, after a look and a yes."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, err, out, use_workspace

TicketArgument = Annotated[str, typer.Argument(help="Ticket id, t-...")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; required. Never the person's id.")]
_TicketsArgument = Annotated[list[str] | None, typer.Argument(help="Ticket ids, t-...", metavar="TICKET")]
_AllOfOption = Annotated[
    str | None, typer.Option("--all-of", help="All tickets of this state, in place of ids.", metavar="STATE")
]
_YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask, though it is several tickets.")]
_PREVIEW = 10


def add_to(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: The group `ticket`.
    """
    for command in (hold, release, extend, withdraw, reject, note):
        app.command()(command)


def hold(
    reason: ReasonOption,
    ticket: _TicketsArgument = None,
    all_of: _AllOfOption = None,
    yes: _YesOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Put tickets on hold, legal holds too: at any state, until their purge has begun."""
    state = use_workspace(workspace)
    _steer(state, "hold", ticket, all_of, yes, json, lambda ids: state.tickets.hold_all(ids, reason))


def release(
    ticket: _TicketsArgument = None,
    all_of: _AllOfOption = None,
    yes: _YesOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Release held tickets: a deadline moves by the time held, and the batch continues."""
    state = use_workspace(workspace)
    _steer(state, "release", ticket, all_of, yes, json, state.tickets.release_all)


def extend(
    ticket: TicketArgument,
    reason: ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Extend a deadline, once, as its law allows: by two months (GDPR), 45 days (CCPA). Tell the person why."""
    state = use_workspace(workspace)
    due = state.deadlines.extend(ticket, reason)
    if json:
        emit(state.tickets.get(ticket).to_json())
        return
    out.print(f"{ticket} is due {due:%Y-%m-%d} now; tell the person, and why", markup=False)


def withdraw(
    reason: ReasonOption,
    ticket: _TicketsArgument = None,
    all_of: _AllOfOption = None,
    yes: _YesOption = False,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Withdraw tickets before removal."""
    from expunge.tickets.lifecycle import TicketState

    state = use_workspace(workspace)
    _steer(
        state, "withdraw", ticket, all_of, yes, json,
        lambda ids: state.tickets.end_all(ids, TicketState.WITHDRAWN, reason),
    )  # fmt: skip


def reject(
    ticket: TicketArgument,
    reason: ReasonOption,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Reject a ticket before removal."""
    _report([use_workspace(workspace).tickets.reject(ticket, reason)], json, single=True)


def note(
    ticket: TicketArgument,
    text: Annotated[str, typer.Argument(help="Any text but the person's id.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Add a note to the history of an open ticket."""
    state = use_workspace(workspace)
    state.tickets.note(ticket, text)
    if json:
        emit({**state.tickets.get(ticket).to_json(), "history": state.tickets.history(ticket)})
        return
    out.print(f"{ticket}: noted", markup=False)


def _steer(
    state: Any,
    what: str,
    named: Sequence[str] | None,
    all_of: str | None,
    yes: bool,
    json: bool,
    act: Callable[[Sequence[str]], list[Any]],
) -> None:
    """Do it to the tickets that were chosen: shown first, and agreed to, if it is more than one."""
    chosen = _chosen(state, named, all_of)
    if all_of is not None or len(chosen) > 1:
        for ticket in chosen[:_PREVIEW]:
            line = f"  {ticket.ticket_id} {ticket.state}, due {ticket.due_at:%Y-%m-%d}, {ticket.pseudonym}"
            err.print(line, markup=False, highlight=False)
        if len(chosen) > _PREVIEW:
            err.print(f"  and {len(chosen) - _PREVIEW} more")
        if chosen and not yes:
            _agree(what, len(chosen), json)
    done = act([ticket.ticket_id for ticket in chosen]) if chosen else []
    _report(done, json, single=all_of is None and len(chosen) == 1)


def _chosen(state: Any, named: Sequence[str] | None, all_of: str | None) -> list[Any]:
    from expunge.errors import TicketError
    from expunge.tickets.lifecycle import TicketState

    if bool(named) == (all_of is not None):
        raise TicketError(
            "which tickets is not clear",
            expected="ticket ids, or --all-of STATE",
            got="both" if named else "neither",
        )
    if named:
        return [state.tickets.get(ticket_id) for ticket_id in dict.fromkeys(named)]
    if all_of not in list(TicketState):
        raise TicketError("unknown state", expected=", ".join(TicketState), got=str(all_of))
    found: list[Any] = state.tickets.select(states=[all_of])
    return found


def _agree(what: str, number: int, json: bool) -> None:
    from expunge.errors import TicketError

    tickets = "ticket" if number == 1 else "tickets"
    if json or not sys.stdin.isatty():
        raise TicketError(
            f"{number} {tickets} would be changed",
            expected="--yes, where nobody can be asked",
            got="none",
            remedy="look at them above; nothing was changed",
        )
    typer.confirm(f"{what.capitalize()} {number} {tickets}?", abort=True, err=True)


def _report(tickets: Sequence[Any], json: bool, *, single: bool) -> None:
    if json:
        emit(tickets[0].to_json() if single else [ticket.to_json() for ticket in tickets])
        return
    for ticket in tickets:
        out.print(f"{ticket.ticket_id} {ticket.state}", markup=False)
    if not tickets:
        out.print("no ticket is in that state; nothing was changed")
