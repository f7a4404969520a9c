"""Commands on certificates and the ledger."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace, write_files

certificates = typer.Typer(help="List, show, verify and export certificates.", no_args_is_help=True)
ledgers = typer.Typer(help="Show and verify the ledger.", no_args_is_help=True)
_IdArgument = Annotated[str, typer.Argument(help="Certificate id, c-...")]


@certificates.command(name="list")
def list_certificates(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List certificates, oldest first."""
    state = use_workspace(workspace)
    found = [_read(path) for path in state.workspace.evidence_dir.glob("c-*/certificate.json")]
    found.sort(key=lambda c: (c["issued_at"], c["model"]["version"] or 0))
    if json:
        emit(found)
        return
    undone = {
        release["certificate_id"]
        for batch in state.batches.every()
        for release in batch.data.get("rolled_back", [])
    }
    rows = [
        (c["certificate_id"], c["issued_at"], c["model"]["version"], c["mechanism"], c["guarantee"],
         f"{c['epsilon']:.4g}", f"{c['delta']:.2g}", c["forget"]["records"])
        for c in found
    ]  # fmt: skip
    table(
        "Certificates",
        ("id", "issued", "version", "mechanism", "guarantee", "epsilon", "delta", "records"),
        rows,
    )
    for c in found:
        if c["certificate_id"] in undone:
            out.print(f"{c['certificate_id']}: rolled back", markup=False)


@certificates.command()
def show(certificate: _IdArgument, workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show a certificate: the verdict first, or the certificate itself with --json."""
    state = use_workspace(workspace)
    content = _read(_folder(state, certificate) / "certificate.json")
    if json:
        emit(content)
        return
    from expunge.reports.plain_words import verdict

    out.print(verdict(content), markup=False)
    from tasks.verification import rolled_back

    if rolled_back(state.batches.get(content["batch"]), content["certificate_id"]):
        out.print("ROLLED BACK: this version was undone; the batch is unlearned again.", markup=False)
    out.print(
        f"\n{content['guarantee']}; epsilon {content['epsilon']:.6g}, delta {content['delta']:.6g}",
        markup=False,
    )
    out.print(f"Compared with: {content['reference']}", markup=False)
    for title, lines in (("Assumes", content["assumptions"]), ("Does not prove", content["scope"])):
        for line in lines:
            out.print(f"{title}: {line}", markup=False)
    rows = [(item["artefact"], item["status"], item["reason"]) for item in content["coverage"]]
    table("Coverage", ("artefact", "status", "reason"), rows)


@certificates.command()
def verify(
    certificate: Annotated[str, typer.Argument(help="Certificate id, or the file certificate.json.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Recompute everything a certificate states; exit code 1 if something does not hold."""
    from expunge.errors import InputError, VerificationError
    from expunge.evidence.certificate import parse_certificate
    from tasks.verification import verify_one

    path = Path(certificate)
    state = use_workspace(workspace)
    if not path.is_file():
        path = _folder(state, certificate) / "certificate.json"
    try:
        content = _read(path)
    except ValueError as error:
        raise InputError(
            "the certificate is not JSON", got=path.name, remedy="ask for the original"
        ) from error
    parsed = parse_certificate(content)
    outcome = verify_one(state, parsed)
    _report(outcome, json, f"certificate {parsed.certificate_id}")
    if not outcome.verified:
        raise VerificationError("the certificate does not hold", got="; ".join(outcome.findings))


@certificates.command()
def export(
    certificate: _IdArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Write the PDF here.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Export a certificate as a self-contained HTML page, as PDF, or both, as of today's ledger."""
    from expunge.errors import InputError
    from expunge.reports.page import render_certificate
    from expunge.reports.pdf import render_certificate_pdf
    from tasks.evidence import printable

    if html is None and pdf is None:
        raise InputError("nothing to export to", expected="--html FILE or --pdf FILE", remedy="name a file")
    state = use_workspace(workspace)
    shown = printable(state, _folder(state, certificate))
    files: dict[Path, bytes] = {}
    if html is not None:
        files[html] = render_certificate(**shown).encode()
    if pdf is not None:
        files[pdf] = render_certificate_pdf(**shown)
    write_files(files)
    for path in files:
        out.print(f"{path}", markup=False)


@ledgers.command(name="show")
def show_ledger(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Show the ledger of the workspace's model."""
    state = use_workspace(workspace)
    entries = [entry.to_json() for entry in state.ledger.entries(state.lineage)]
    if json:
        emit(entries)
        return
    rows = [
        (e["sequence"], e["kind"], e["issued_at"], e["batch"], e["mechanism"], f"{e['epsilon']:.4g}",
         f"{e['error_bound']:.3g}", f"{e['accumulated_error']:.4g}")
        for e in entries
    ]  # fmt: skip
    heads = ("#", "kind", "issued", "batch", "mechanism", "epsilon", "error bound", "accumulated")
    table(f"Ledger of {state.lineage}", heads, rows)


@ledgers.command(name="verify")
def verify_ledger_command(
    file: Annotated[
        Path | None, typer.Argument(help="An exported ledger.json; the workspace's own by default.")
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Recompute the ledger's chain and arithmetic; exit code 1 if something does not hold."""
    from expunge.errors import InputError, VerificationError
    from expunge.evidence.ledger import parse_entries
    from expunge.evidence.verify import verify_ledger

    if file is None:
        state = use_workspace(workspace)
        entries = state.ledger.entries(state.lineage)
    else:
        try:
            entries = parse_entries(_read(file))
        except (OSError, ValueError) as error:
            raise InputError("the ledger cannot be read", expected="a JSON file", got=file.name) from error
    outcome = verify_ledger(entries)
    _report(outcome, json, "ledger")
    if not outcome.verified:
        raise VerificationError("the ledger does not hold", got="; ".join(outcome.findings))


def _report(outcome: Any, json: bool, what: str) -> None:
    if json:
        emit(outcome.to_json())
        return
    out.print(f"{what}: {'VERIFIED' if outcome.verified else 'DOES NOT HOLD'}", markup=False)
    for mark, lines in (
        ("holds", outcome.checked),
        ("missing", outcome.missing),
        ("WRONG", outcome.findings),
    ):
        for line in lines:
            out.print(f"  {mark}: {line}", markup=False)


def _folder(state: Any, certificate_id: str) -> Path:
    from expunge.errors import InputError

    folder: Path = state.workspace.evidence_dir / certificate_id
    if not certificate_id.startswith("c-") or not (folder / "certificate.json").is_file():
        raise InputError(
            "no such certificate", expected="an id such as c-0123456789abcdef, or a file", got=certificate_id,
            remedy="see `expunge certificate list`",
        )  # fmt: skip
    return folder


def _read(path: Path) -> Any:
    return json_text.loads(path.read_text(encoding="utf-8"))
