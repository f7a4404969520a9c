"""The certificate as one self-contained HTML page: no script, no outside asset."""

import base64
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from expunge.reports.plain_words import CLASS_WORDS, STATUS_WORDS, recognition, verdict
from expunge.reports.plots import accumulated_error_plot

_STATUS_MARKS = {
    "covered": "good",
    "recomputed": "good",
    "purged": "good",
    "not present": "good",
    "purge pending": "wait",
    "not covered": "bad",
}


def render_certificate(certificate: dict[str, Any], entries: Sequence[dict[str, Any]]) -> str:
    """Render a certificate for people.

    Args:
        certificate: As plain data.
        entries: The lineage's ledger up to it, as plain data.

    Returns:
        HTML.
    """
    plot = accumulated_error_plot(entries, certificate["sequential"]["limits"]["accumulated_error"])
    return (
        environment()
        .get_template("certificate.html")
        .render(
            c=certificate,
            verdict=verdict(certificate),
            class_words=CLASS_WORDS[certificate["guarantee"]],
            recognition=recognition(certificate["epsilon"], certificate["delta"]),
            plot=base64.b64encode(plot).decode(),
            marks=_STATUS_MARKS,
            status_words=STATUS_WORDS,
        )
    )


def environment() -> Environment:
    """What pages are rendered with: everything is escaped, and a name that is missing is an error.

    Returns:
        The templates of this package.
    """
    made = Environment(
        loader=PackageLoader("expunge.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["figure"] = _figure
    return made


def _figure(value: float | None) -> str:
    if value is None:
        return "none known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
