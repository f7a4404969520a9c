"""Commands on certificates."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import (
    JsonOption,
    WorkspaceOption,
    emit,
    out,
    report_outcome,
    showing_progress,
    table,
    use_workspace,
    write_files,
)
from cli.trust import AcceptEndorsedOption, KeyOption, TsaRootOption, trusted_keys

certificates = typer.Typer(help="List, show, verify and export certificates.", no_args_is_help=True)
_IdArgument = Annotated[str, typer.Argument(help="Certificate id, c-...")]


@certificates.command(name="list")
def list_certificates(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List certificates, oldest first."""
    state = use_workspace(workspace, reading=True)
    found = [_read(path) for path in state.workspace.evidence_dir.glob("c-*/certificate.json")]
    found.sort(key=lambda c: (c["issued_at"], c["model"]["version"] or 0))
    if json:
        emit(found)
        return
    from expunge.reports.plain_words import bound

    undone = {
        release["certificate_id"]
        for batch in state.batches.every()
        for release in batch.data.get("rolled_back", [])
    }
    rows = [
        (c["certificate_id"], c["issued_at"], c["model"]["version"], c["mechanism"], c["guarantee"],
         bound(c["epsilon"]), bound(c["delta"]), c["forget"]["records"])
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
    state = use_workspace(workspace, reading=True)
    content = _read(_folder(state, certificate) / "certificate.json")
    if json:
        emit(content)
        return
    from expunge.reports.plain_words import bound, delta_parts, gate_words, verdict
    from expunge.reports.purged import fate, purge_of, since_issued

    out.print(verdict(content), markup=False)
    from tasks.verification import rolled_back

    if rolled_back(state.batches.get(content["batch"]), content["certificate_id"]):
        out.print("ROLLED BACK: this version was undone; the batch is unlearned again.", markup=False)
    out.print(
        f"\n{content['guarantee']}; epsilon {bound(content['epsilon'])}, delta {bound(content['delta'])}",
        markup=False,
    )
    if composed := delta_parts(content):
        out.print(composed, markup=False)
    out.print(f"Compared with: {content['reference']}", markup=False)
    for title, lines in (("Assumes", content["assumptions"]), ("Does not prove", content["scope"])):
        for line in lines:
            out.print(f"{title}: {line}", markup=False)
    for gate in content["validation"]["gates"]:
        outcome = "passed" if gate["passed"] else "FAILED"
        out.print(
            f"Gate {outcome}: {gate['name']}: {gate_words(gate['name'])} ({gate['limit']})", markup=False
        )
    entries = [entry.to_json() for entry in state.ledger.entries(state.lineage)]
    purge = purge_of(content, entries)
    rows = [
        (item["artefact"], " then ".join(filter(None, (item["status"], fate(item, purge)))), item["reason"])
        for item in content["coverage"]
    ]
    if since := since_issued(content, entries):
        out.print(since, markup=False)
    table("Coverage", ("artefact", "status", "reason"), rows)


@certificates.command()
def verify(
    certificate: Annotated[
        list[str],
        typer.Argument(
            help="certificate.json, certificate.dsse.json or an evidence folder, verified alone; or an id of the "
            "workspace, verified against its stores.",
            metavar="FILE|ID...",
        ),
    ],
    key: KeyOption = None,
    accept_endorsed: AcceptEndorsedOption = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the model that it is about.")] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="A ledger in place of the one beside the certificate.")
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier head that the ledger must continue; may be repeated."),
    ] = None,
    annex_key: Annotated[
        Path | None, typer.Option(help="The auditor's private key, which opens the sealed annex.")
    ] = None,
    tsa_root: TsaRootOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Recompute everything a certificate states; exit code 1 if something does not hold, 4 if no signature was checked.

    A file without --key is at best consistent: anybody can have written it. An id in a workspace is verified with the
    workspace's own keys, which is the operator's own word.
    """
    from expunge import progress
    from expunge.errors import InputError
    from expunge.evidence.bundle import Trust, Verifier, find_evidence
    from expunge.evidence.time_stamp import load_roots
    from expunge.evidence.witness import read_witness

    if model is not None and len(certificate) > 1:
        raise InputError("one model for many certificates", expected="--model with one certificate")
    authorities = () if tsa_root is None else load_roots(tsa_root)
    trust = Trust(
        keys=trusted_keys(key, accept_endorsed, authorities),
        ledger=ledger,
        witnesses=[read_witness(path) for path in witness or ()],
        annex_key=annex_key,
        authorities=authorities,
    )
    alone = Verifier(trust)
    files = all(Path(name).exists() for name in certificate)
    own: Any = None if files else _own_evidence(certificate, workspace, trust)
    found = [  # all of them before the first is verified: a name that is wrong shows at once
        (name, find_evidence(Path(name)), alone)
        if Path(name).exists()
        else (name, find_evidence(_folder(own.state, name)), own)
        for name in certificate
    ]
    answers = []
    with showing_progress():
        for done, (name, evidence, verifier) in enumerate(found):
            if len(found) > 1:
                progress.report("verifying certificates", done, len(found))
            answers.append((name, evidence, verifier.verify(evidence, model=model)))
    _report(answers, json)


def _own_evidence(names: list[str], workspace: Path | None, trust: Any) -> Any:
    """The workspace's stores, for what are ids and no files."""
    wrong = next((name for name in names if not Path(name).exists() and not name.startswith("c-")), None)
    if wrong is not None:
        raise _unknown(wrong)
    state = use_workspace(workspace, reading=True)
    from tasks.verification import OwnEvidence

    return OwnEvidence(state, trust)


def _report(answers: list[Any], json: bool) -> None:
    """One certificate in full; of many, what is wrong with which."""
    if len(answers) == 1:
        ((name, evidence, outcome),) = answers
        report_outcome(outcome, json, f"certificate {name}", {"taken": evidence.taken})
        return
    from expunge.evidence.result import VerificationResult, least

    every = VerificationResult(
        tuple(f"{name}: {line}" for name, _, outcome in answers for line in outcome.findings),
        tuple(dict.fromkeys(line for _, _, outcome in answers for line in outcome.missing)),
        (f"{sum(outcome.consistent for _, _, outcome in answers)} of {len(answers)} certificates",),
        least(outcome.vouched for _, _, outcome in answers),
    )
    told = [
        {"certificate": name, **outcome.to_json(), "taken": evidence.taken}
        for name, evidence, outcome in answers
    ]
    report_outcome(every, json, f"{len(answers)} certificates", {"certificates": told})


@certificates.command()
def annex(
    certificate: Annotated[
        str, typer.Argument(help="An annex.sealed, or an id of the workspace.", metavar="FILE|ID")
    ],
    annex_key: Annotated[Path, typer.Option(help="The auditor's private key, which opens it.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Open a sealed annex, for the auditor alone: the mechanism's figures and what attacks found."""
    from expunge.evidence.annex import ANNEX_FILE, open_annex
    from expunge.reports.attacks import attack_lines, attack_rows

    path = Path(certificate)
    if not path.is_file():
        path = _folder(use_workspace(workspace, reading=True), certificate) / ANNEX_FILE
    content = open_annex(path.read_bytes(), annex_key)
    if json:
        emit(content)
        return
    figures = {name: value for name, value in content.items() if not isinstance(value, dict | list)}
    table("Figures of the mechanism", ("figure", "value"), [(k, str(v)) for k, v in sorted(figures.items())])
    attacks = content.get("attacks")
    for line in attack_lines(attacks):
        out.print(line, markup=False)
    heads = ("attack on", "people", "never trained", "AUC", "p-value", "alarm")
    table("Attacks", heads, attack_rows(attacks))
    for number, earlier in enumerate(content.get("discarded", []), 1):
        table(f"Attacks on discarded release {number}", heads, attack_rows(earlier.get("attacks")))


@certificates.command()
def export(
    certificate: _IdArgument,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Write the PDF here.")] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Export a certificate as a self-contained HTML page, as PDF, or both, as of today's ledger."""
    from expunge.errors import InputError
    from expunge.reports.page import render_page
    from expunge.reports.pdf import render_pdf
    from tasks.evidence import document_of

    if html is None and pdf is None:
        raise InputError("nothing to export to", expected="--html FILE or --pdf FILE", remedy="name a file")
    state = use_workspace(workspace, reading=True)
    document = document_of(state, _folder(state, certificate))
    files: dict[Path, bytes] = {}
    if html is not None:
        files[html] = render_page(document).encode()
    if pdf is not None:
        files[pdf] = render_pdf(document)
    write_files(files)
    for path in files:
        out.print(f"{path}", markup=False)


def _folder(state: Any, certificate_id: str) -> Path:
    folder: Path = state.workspace.evidence_dir / certificate_id
    if not certificate_id.startswith("c-") or not (folder / "certificate.json").is_file():
        raise _unknown(certificate_id)
    return folder


def _unknown(certificate_id: str) -> Exception:
    from expunge.errors import InputError

    return InputError(
        "no such certificate", expected="an id such as c-0123456789abcdef, or a file", got=certificate_id,
        remedy="see `expunge certificate list`",
    )  # fmt: skip


def _read(path: Path) -> Any:
    return json_text.loads(path.read_text(encoding="utf-8"))
