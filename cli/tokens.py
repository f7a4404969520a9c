"""Commands on access tokens of the HTTP intake."""

from typing import Annotated

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace

app = typer.Typer(help="Make, list and revoke access tokens of the HTTP intake.", no_args_is_help=True)


@app.command()
def create(
    role: Annotated[str, typer.Option(help="intake, officer or auditor.")],
    name: Annotated[str, typer.Option(help="Who will use it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Make a token and print it, once."""
    from expunge.tickets.tokens import TokenStore

    made, token = TokenStore(use_workspace(workspace).database).create(role, name)
    if json:
        emit({**made.to_json(), "token": token})
        return
    out.print(f"{made.token_id} {made.role}; keep it now, it is not shown again:", markup=False)
    out.print(token, markup=False)


@app.command(name="list")
def list_tokens(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List tokens; the tokens themselves are not kept."""
    from expunge.tickets.tokens import TokenStore

    tokens = TokenStore(use_workspace(workspace).database).every()
    if json:
        emit([token.to_json() for token in tokens])
        return
    rows = [
        (
            t.token_id,
            t.role,
            t.name,
            f"...{t.last_four}",
            f"{t.created_at:%Y-%m-%d}",
            f"{t.revoked_at:%Y-%m-%d}" if t.revoked_at else None,
        )
        for t in tokens
    ]
    table("Tokens", ("token", "role", "name", "ends in", "made", "revoked"), rows)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Token id, a-...")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a token, from the next request on."""
    from expunge.tickets.tokens import TokenStore

    revoked = TokenStore(use_workspace(workspace).database).revoke(token)
    if json:
        emit(revoked.to_json())
        return
    out.print(f"{revoked.token_id} is revoked", markup=False)
