"""Commands on certificates."""

import json as json_text
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, report_outcome, table, use_workspace

certificates = typer.Typer(help="List, show, verify and export certificates.", no_args_is_help=True)
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
    from expunge.errors import InputError
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
    report_outcome(outcome, json, f"certificate {parsed.certificate_id}")


@certificates.command()
def export(
    certificate: _IdArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Export a certificate as a self-contained HTML page."""
    from expunge.errors import InputError

    if html is None:
        raise InputError("nothing to export to", expected="--html FILE", remedy="name a file")
    shutil.copyfile(_folder(use_workspace(workspace), certificate) / "certificate.html", html)
    out.print(f"{html}", markup=False)


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
