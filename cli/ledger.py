"""Commands on the ledger."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, report_outcome, table, use_workspace
from cli.trust import AcceptEndorsedOption, KeyOption, TsaRootOption, trusted_keys

app = typer.Typer(help="Show, verify, export and witness the ledger.", no_args_is_help=True)


@app.command()
def show(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show the ledger of the workspace's model."""
    state = use_workspace(workspace, reading=True)
    entries = [entry.to_json() for entry in state.ledger.entries(state.lineage)]
    if json:
        emit(entries)
        return
    rows = [
        (e["sequence"], e["kind"], e["issued_at"], e["batch"], _done(e), f"{e['epsilon']:.4g}",
         f"{e['error_bound']:.3g}", f"{e['accumulated_error']:.4g}")
        for e in entries
    ]  # fmt: skip
    heads = ("#", "kind", "issued", "batch", "mechanism", "epsilon", "error bound", "accumulated")
    table(f"Ledger of {state.lineage}", heads, rows)


def _done(entry: dict[str, Any]) -> str | None:
    """Mechanism of a release; which way the alias moved; what became of an incident; digest of a policy."""
    if entry["kind"] == "incident":
        return f"{entry['details']['mechanism']}: {entry['details']['event']}"
    if entry["kind"] == "policy":
        return f"policy {entry['details']['new'][7:19]}"
    if entry["kind"] != "alias":
        mechanism: str | None = entry["mechanism"]
        return mechanism
    move = entry["details"]
    return f"{move['alias']}: {move['from_version'] or 'none'} to {move['to_version']}"


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="An exported ledger; the workspace's own by default.")
    ] = None,
    key: KeyOption = None,
    accept_endorsed: AcceptEndorsedOption = None,
    tsa_root: TsaRootOption = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier head that the ledger must continue; may be repeated."),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Verify the ledger's chain, arithmetic, head and witnesses.

    Exit code 1 if something does not hold, 4 if no signature was checked.
    """
    from expunge.evidence.time_stamp import load_roots
    from expunge.evidence.witness import read_witness

    found = [read_witness(path) for path in witness or ()]
    keys = trusted_keys(key, accept_endorsed, () if tsa_root is None else load_roots(tsa_root))
    if file is not None:
        from expunge.evidence.verify_ledger import verify_ledger

        outcome = verify_ledger(_read(file), keys=keys, witnesses=found)
    else:
        from tasks.verification import verify_own_ledger

        state = use_workspace(workspace, reading=True)
        outcome = verify_own_ledger(state, state.ledger.read(state.lineage), keys, found)
    report_outcome(outcome, json, "ledger")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it.")], workspace: WorkspaceOption = None
) -> None:
    """Write the ledger with its signed head to a file, for whoever verifies it elsewhere."""
    from expunge.files import write_json

    ledger = _signed(use_workspace(workspace, reading=True))
    try:
        write_json(file, ledger.to_json())
    except OSError as error:
        raise _not_written(file, error) from error
    out.print(f"{file}: {len(ledger.entries)} entries", markup=False)


@app.command()
def witness(
    file: Annotated[Path, typer.Argument(help="Where to write it; an earlier witness there is replaced.")],
    workspace: WorkspaceOption = None,
) -> None:
    """Write the ledger's signed head to a file, which is to be kept where the operator cannot change it."""
    from expunge.evidence.witness import write_witness

    state = use_workspace(workspace, reading=True)
    ledger = _signed(state)
    try:
        write_witness(file, ledger, state.signing.keyring())
    except OSError as error:
        raise _not_written(file, error) from error
    out.print(
        f"{file}: witness of {len(ledger.entries)} entries. Keep it where whoever can change the workspace cannot "
        "change it: with the auditor, or in a store where files are only added.",
        markup=False,
    )


def _signed(state: Any) -> Any:
    """The workspace's ledger; one that was made before heads is signed now."""
    from expunge.errors import VerificationError

    ledger = state.ledger.seal(state.lineage)
    if not ledger.entries:
        raise VerificationError(
            "the ledger is empty", expected="a trained model", remedy="run `expunge train`"
        )
    return ledger


def _not_written(file: Path, error: OSError) -> Exception:
    from expunge.errors import InputError, storage_full

    return storage_full(error) or InputError(
        "the file cannot be written",
        expected="a file in a folder that is there",
        got=f"{file}: {error.strerror}",
    )


def _read(file: Path) -> Any:
    from expunge.errors import InputError, VerificationError
    from expunge.evidence.canonical import read_json
    from expunge.evidence.ledger_file import parse_ledger

    try:
        content = read_json(file)
    except (OSError, VerificationError) as error:
        raise InputError("the ledger cannot be read", expected="a JSON file", got=file.name) from error
    return parse_ledger(content)
