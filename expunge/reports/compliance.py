"""The compliance report: what became of all requests of a period, as a document without personal data."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from expunge.reports.document import (
    Bullets,
    Code,
    Document,
    Facts,
    Line,
    Paragraph,
    Plot,
    Section,
    Table,
    Tag,
    Tone,
)
from expunge.reports.plain_words import CLASS_WORDS, bound, counted, figure, plural
from expunge.reports.plots import (
    accumulated_error_plot,
    accumulated_error_words,
    ticket_times_plot,
    ticket_times_words,
    utility_plot,
    utility_words,
)

REPORT_TYPE: Final = "https://expunge.dev/compliance-report"
_LAWS: Final = {"gdpr": "GDPR", "ccpa": "CCPA", "uk-gdpr": "UK GDPR", "lgpd": "LGPD"}
_SHOWN: Final = 50  # exceptions


def compliance_document(
    figures: Mapping[str, Any],
    times: Sequence[tuple[datetime, float, float]],
    entries: Sequence[Mapping[str, Any]],
) -> Document:
    """Say what the figures of a period say.

    Args:
        figures: As ``expunge report --json`` prints them.
        times: Of the tickets closed in the period: when received, days until closed, days until due.
        entries: Of the ledger up to the period's end, as plain data.

    Returns:
        The document.
    """
    period, closed, tickets = figures["period"], figures["closed"].values(), figures["tickets"]
    number, late = sum(one["closed"] for one in closed), sum(one["late"] for one in closed)
    received, issued = sum(tickets["received"].values()), figures["certificates"]["issued"]
    words, tone = _verdict(figures, number, late)
    so_far = "" if period["complete"] else ", which is not over"
    return Document(
        title="Compliance report on erasure requests",
        name=period["label"],
        about=(f"{period['label']}{so_far} · model {figures['lineage']} · as of {period['as_of']}",),
        verdict=words,
        tone=tone,
        figures=(
            (figure(received), f"{plural(received, 'request')} received"),
            (figure(number), "closed"),
            (figure(late), "of them late"),
            (figure(sum(tickets["open_at_end"].values())), "open at the end"),
            (figure(tickets["overdue_at_end"]), "open and overdue at the end"),
            (figure(issued), f"{plural(issued, 'certificate')} issued"),
        ),
        sections=(
            _requests(tickets),
            _deadlines(figures["closed"], times),
            _refused(figures["refused_requests"]),
            _releases(figures),
            _guarantees(figures),
            _coverage(figures["certificates"]),
            _ledger(figures["ledger"], entries),
            _method(),
        ),
    )


def _verdict(figures: Mapping[str, Any], number: int, late: int) -> tuple[str, Tone]:
    ledger, certificates = figures["ledger"], figures["certificates"]
    overdue = figures["tickets"]["overdue_at_end"]
    standing = sum(figures["tickets"]["open_at_end"].values())
    every = sum(figures["tickets"]["states"].values())
    said, bad = list[str](), False
    if not ledger["holds"]:
        said.append("The ledger does not hold: what rests on it cannot be relied on.")
        bad = True
    said.append(_open(standing, every, overdue))
    if number == 0:
        said.append("No request was closed in this period.")
    elif late:
        said.append(
            f"{late:,} of {counted(number, 'closed request')} {plural(late, 'was', 'were')} closed late."
        )
    else:
        said.append(
            "1 request was closed, in time."
            if number == 1
            else f"All {number:,} closed requests were in time."
        )
    if certificates["vacuous"]:
        vacuous = certificates["vacuous"]
        said.append(
            f"{counted(vacuous, 'certificate')} {plural(vacuous, 'is', 'are')} VACUOUS and "
            f"{plural(vacuous, 'proves', 'prove')} nothing useful."
        )
        bad = True
    if figures["batches"]["rolled_back"]:
        undone = figures["batches"]["rolled_back"]
        said.append(f"{counted(undone, 'release')} {plural(undone, 'was', 'were')} rolled back.")
    return " ".join(said), "bad" if bad or overdue or late else "good"


def _open(standing: int, every: int, overdue: int) -> str:
    """How many of the period's tickets are still to be answered."""
    if not every:
        return "There was no ticket."
    if not standing:
        return f"None of {counted(every, 'ticket')} is open."
    late = f"{overdue:,} {plural(overdue, 'is', 'are')} overdue" if overdue else "none is overdue"
    return f"{standing:,} of {counted(every, 'ticket')} {plural(standing, 'is', 'are')} open, {late}."


def _requests(tickets: Mapping[str, Any]) -> Section:
    rows: list[Sequence[Line]] = [
        (
            (_LAWS.get(regime, regime),),
            *((figure(tickets[name][regime]),) for name in ("open_at_start", "received", "open_at_end")),
        )
        for regime in tickets["received"]
    ]
    states = [(state, number) for state, number in tickets["states"].items() if number]
    return Section(
        "Requests",
        (
            Table(
                "Requests by law",
                ("Law", "Open at the start", "Received", "Open at the end"),
                rows,
                (25, 25, 25, 25),
            ),
            Table(
                "Requests by state",
                ("State at the end", "Requests"),
                [((state.replace("_", " "),), (figure(number),)) for state, number in states],
                (50, 50),
                "There was no request.",
            ),
            Paragraph(
                (
                    "By state are counted those that are open at the end, and those that were closed, rejected or "
                    "withdrawn in the period.",
                )
            ),
        ),
    )


def _deadlines(closed: Mapping[str, Any], times: Sequence[tuple[datetime, float, float]]) -> Section:
    names = ("closed", "in_time", "late", "median_days", "percentile_95_days", "longest_days")
    rows: list[Sequence[Line]] = [
        ((_LAWS.get(regime, regime),), *((_days(one[name]),) for name in names))
        for regime, one in closed.items()
    ]
    late: dict[str, int] = {}
    for one in closed.values():
        for name, number in one["late_by"].items():
            late[name] = late.get(name, 0) + number
    said = "; ".join(f"{name}: {number:,}" for name, number in late.items() if number)
    return Section(
        "Time to close, against deadlines",
        (
            Table(
                "Time to close by law",
                (
                    "Law",
                    "Closed",
                    "In time",
                    "Late",
                    "Median, days",
                    "95th percentile, days",
                    "Longest, days",
                ),
                rows,
                (10, 12, 12, 10, 17, 22, 17),
            ),
            Paragraph((f"Late by {said}." if said else "None was closed late.",)),
            Plot(ticket_times_plot(times), ticket_times_words(times)),
        ),
    )


def _days(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return "under 0.1" if 0 < value < 0.1 else f"{value:,.1f}"


def _refused(refused: Mapping[str, Mapping[str, int]]) -> Section:
    rows: list[Sequence[Line]] = [
        ((how,), (kind,), (figure(number),))
        for how, kinds in refused.items()
        for kind, number in kinds.items()
    ]
    return Section(
        "Requests refused or withdrawn",
        (
            Table(
                "Requests refused or withdrawn, by kind of reason",
                ("Outcome", "Kind of reason", "Requests"),
                rows,
                (25, 50, 25),
                "No request was refused or withdrawn.",
            ),
        ),
    )


def _releases(figures: Mapping[str, Any]) -> Section:
    batches, certificates = figures["batches"], figures["certificates"]
    refused = ", ".join(
        f"{name} {counted(number, 'time')}" for name, number in batches["mechanisms_refused"].items()
    )
    facts = (
        ("Batches opened", figure(batches["opened"])),
        ("Certificates issued", figure(certificates["issued"])),
        ("of them undone by now", figure(certificates["undone"])),
        ("Releases rolled back", figure(batches["rolled_back"])),
        ("Records forgotten", figure(certificates["records_forgotten"])),
        ("People forgotten", figure(certificates["people_forgotten"])),
        ("Noise draws", figure(batches["noise_draws"])),
        ("Mechanisms refused by a gate or check", refused or "none"),
        ("Holds in the period", figure(figures["tickets"]["holds"])),
        ("On hold at the end", figure(figures["tickets"]["on_hold_at_end"])),
        ("Deadlines extended", figure(figures["tickets"]["extensions"])),
    )
    return Section(
        "Batches, releases, holds and extensions",
        (Facts("Batches and releases", [(name, (value,)) for name, value in facts]),),
    )


def _guarantees(figures: Mapping[str, Any]) -> Section:
    certificates = figures["certificates"]
    epsilon = certificates["epsilon"]
    blocks: list[Any] = [
        Table(
            "Certificates by mechanism",
            ("Mechanism", "Certificates"),
            [((name,), (figure(number),)) for name, number in certificates["mechanisms"].items()],
            (60, 40),
            "No certificate stands that was issued in this period.",
        )
    ]
    if certificates["guarantees"]:
        blocks += [
            Table(
                "Certificates by guarantee class",
                ("Guarantee class", "Certificates", "In words"),
                [
                    ((name,), (figure(number),), (CLASS_WORDS[name],))
                    for name, number in certificates["guarantees"].items()
                ],
                (20, 15, 65),
            ),
            Paragraph(
                (
                    f"ε is at most {bound(epsilon['largest'])}, its median {bound(epsilon['median'])}, its least "
                    f"{bound(epsilon['least'])}; δ is at most {bound(certificates['largest_delta'])}. An ε of 0 is "
                    "that of exact retraining. The smaller ε and δ, the less the released model tells about the "
                    "people that it forgot.",
                )
            ),
            Table(
                "Certificates by epsilon",
                ("ε", "Certificates"),
                [
                    ((name,), (figure(number),))
                    for name, number in epsilon["certificates_by_epsilon"].items()
                    if number
                ],
                (60, 40),
            ),
        ]
    if figures["versions"]:
        blocks.append(Plot(utility_plot(figures["versions"]), utility_words(figures["versions"])))
    return Section("Mechanisms and guarantees", blocks)


def _coverage(certificates: Mapping[str, Any]) -> Section:
    exceptions = certificates["exceptions"]
    blocks: list[Any] = [
        Table(
            "Exceptions",
            ("Artefact that stays by exception", "Reason given", "Certificates"),
            [
                ((item["artefact"],), (item["reason"],), (figure(item["certificates"]),))
                for item in exceptions[:_SHOWN]
            ],
            (40, 42, 18),
            "No artefact stays by exception.",
        )
    ]
    if (left := len(exceptions) - _SHOWN) > 0:
        blocks.append(
            Paragraph((f"{left:,} more {plural(left, 'is', 'are')} in the machine form of this report.",))
        )
    blocks += [
        Paragraph(("Not covered by the certificates, with how many of them say so:",)),
        Bullets(
            [
                (f"{name} ({number:,})",)
                for name, number in list(certificates["not_covered"].items())[:_SHOWN]
            ],
            "Nothing: no certificate stands that was issued in this period.",
        ),
    ]
    return Section("What is not covered", blocks)


def _ledger(ledger: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Section:
    limits, kinds = ledger["limits"], ledger["entries_in_period"]
    holds = Tag("holds", "good") if ledger["holds"] else Tag("does not hold", "bad")
    facts: list[tuple[str, Line]] = [
        ("Chain and sums", (holds, " (recomputed for this report)")),
        ("Entries", (figure(ledger["entries"]),)),
        ("of them in the period", (", ".join(f"{kind} {n:,}" for kind, n in kinds.items()) or "none",)),
        ("Digest of the last", (Code(ledger["head"]) if ledger["head"] else "none",)),
        (
            "Releases since the last exact training",
            (f"{figure(ledger['releases_since_exact_training'])} of {figure(limits['releases'])}",),
        ),
        (
            "Accumulated error",
            (f"{bound(ledger['accumulated_error'])} of {figure(limits['accumulated_error'])}",),
        ),
    ]
    blocks: list[Any] = [Facts("Position of the ledger", facts)]
    if ledger["findings"]:
        blocks.append(Bullets([(finding,) for finding in ledger["findings"]]))
    if entries:
        limit = limits["accumulated_error"]
        blocks.append(Plot(accumulated_error_plot(entries, limit), accumulated_error_words(entries, limit)))
    return Section("Ledger", blocks)


def _method() -> Section:
    return Section(
        "How these figures are made",
        (
            Bullets(
                [
                    (
                        "Counts and times are of requests; none is named, and no person, pseudonym or record is.",
                    ),
                    (
                        "Time to close runs from receipt to closing, time on hold included; a deadline is that of the "
                        "law, with the extension taken and time on hold added, as it is known today.",
                    ),
                    (
                        "Kinds of reasons are sorted by words of what operators wrote; what fits none is called "
                        "another reason.",
                    ),
                    (
                        "Records and people are counted in certificates that stand; figures of certificates are what "
                        "they state. This report does not verify them: `expunge certificate verify` does.",
                    ),
                    (
                        "(ε, δ) certified unlearning is a technical measure. No regulator's text accepts it as "
                        "erasure. The superseded data and models are destroyed as well, as purge entries of the "
                        "ledger record.",
                    ),
                ]
            ),
        ),
    )
