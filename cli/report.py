"""The compliance report of a period."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.output import (
    JsonOption,
    WorkspaceOption,
    emit,
    out,
    showing_progress,
    table,
    use_workspace,
    write_files,
)


def add_to(app: typer.Typer) -> None:
    """Register the command.

    Args:
        app: The command line.
    """
    app.command(name="report")(report)


def report(
    quarter: Annotated[str | None, typer.Option(help="Such as 2026Q3; the present one by default.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First day, such as 2026-07-01.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, included.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="Write the PDF here.")] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Report on all tickets of a quarter, or of any days: counts, deadlines, guarantees, ledger; names nobody."""
    from expunge.errors import InputError
    from expunge.reports.compliance import compliance_document
    from expunge.reports.page import render_page
    from expunge.reports.pdf import render_pdf
    from tasks.compliance import collect, days
    from tasks.compliance import quarter as quarter_of

    now = datetime.now(UTC)
    if (first is None) != (last is None) or (first is not None and quarter is not None):
        raise InputError(
            "the period is not clear",
            expected="--quarter, or --from and --to together",
            remedy="give one of them",
        )
    period = (
        days(first, last)
        if first is not None and last is not None
        else quarter_of(quarter if quarter is not None else f"{now.year}Q{(now.month + 2) // 3}")
    )
    state = use_workspace(workspace, reading=True)
    with showing_progress():
        found = collect(state, period, now)
    document = compliance_document(found.figures, found.times, found.entries)
    files = {html: lambda: render_page(document).encode(), pdf: lambda: render_pdf(document)}
    write_files({path: make() for path, make in files.items() if path is not None})
    if json:
        emit(found.figures)
        return
    out.print(f"{document.title}: {period.label}, as of {found.figures['period']['as_of']}", markup=False)
    out.print(document.verdict, markup=False)
    table("Figures", ("what", "how many"), [(label, value) for value, label in document.figures])
    for path in (html, pdf):
        if path is not None:
            out.print(f"{path}", markup=False)
