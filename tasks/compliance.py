"""The compliance report's figures, from the stores and the evidence of a workspace: counts and times, nobody's id."""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from expunge import progress
from expunge.errors import InputError, VerificationError
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.ledger import LedgerEntry, account_of, check_ledger
from expunge.reports.compliance import REPORT_TYPE
from expunge.state import State
from expunge.tickets.lifecycle import FINAL, RUNNING, TicketState
from expunge.tickets.period import TicketCourse, batches_before, count_tickets, courses

_LATE: Final = (("up to 7 days", 7), ("8 to 30 days", 30), ("more than 30 days", float("inf")))
_FINDINGS: Final = 20
_EPSILONS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 10.0)
_DAY_S = 86400
_ALWAYS: Final = ("gdpr", "ccpa")  # in every report; others where there are requests of theirs


@dataclass(frozen=True)
class Period:
    """A period, in UTC.

    Args:
        label: Its name.
        start: The first moment.
        end: The first moment after it.
    """

    label: str
    start: datetime
    end: datetime


def quarter(text: str) -> Period:
    """A quarter of a year.

    Args:
        text: Such as 2026Q3.

    Returns:
        Its period.

    Raises:
        InputError: If it is none.

    Example:
        >>> quarter("2026Q4").end.isoformat()
        '2027-01-01T00:00:00+00:00'
    """
    year, _, number = text.upper().partition("Q")
    if not (
        len(year) == 4
        and year.isascii()
        and year.isdigit()
        and number in ("1", "2", "3", "4")
        and "0001" <= year < "9999"
    ):
        raise InputError("not a quarter", expected="such as 2026Q3", got=text, remedy="correct --quarter")
    first = 3 * int(number) - 2
    start = datetime(int(year), first, 1, tzinfo=UTC)
    end = datetime(int(year) + first // 10, (first + 2) % 12 + 1, 1, tzinfo=UTC)
    return Period(f"{year} Q{number}", start, end)


def days(first: str, last: str) -> Period:
    """A period of whole days.

    Args:
        first: ISO date.
        last: ISO date, included.

    Returns:
        The period.

    Raises:
        InputError: If a date is none, or they are the wrong way round.
    """
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last) + timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise InputError(
            "not a date",
            expected="such as 2026-07-01",
            got=f"{first}, {last}",
            remedy="correct --from and --to",
        ) from error
    if start >= end:
        raise InputError(
            "the period ends before it begins", expected="--from before --to", got=f"{first} to {last}"
        )
    zero = datetime.min.time()
    return Period(f"{first} to {last}", datetime.combine(start, zero, UTC), datetime.combine(end, zero, UTC))


@dataclass(frozen=True)
class Collected:
    """What a report is made of.

    Args:
        figures: Plain data: what ``expunge report --json`` prints.
        times: Of the tickets closed in the period: when received, days until closed, days until due.
        entries: Of the ledger up to the period's end, as plain data.
    """

    figures: dict[str, Any]
    times: list[tuple[datetime, float, float]]
    entries: list[dict[str, Any]]


def collect(state: State, period: Period, now: datetime) -> Collected:
    """Collect the figures of a period.

    Args:
        state: The workspace.
        period: Which.
        now: When it is made; what is not yet over ends here.

    Returns:
        Figures without a person's id, pseudonym or words.

    Raises:
        InputError: If the period has not begun.
    """
    if period.start > now:
        raise InputError(
            "the period has not begun", expected="one that has", got=period.label, remedy="choose another"
        )
    until = min(period.end, now)
    entries = state.ledger.entries(state.lineage)
    tickets, times = _tickets(state, period.start, until)
    figures = {
        "type": REPORT_TYPE,
        "version": 1,
        "lineage": state.lineage,
        "period": {
            "label": period.label,
            "from": period.start.isoformat(),
            "to": period.end.isoformat(),
            "as_of": until.isoformat(timespec="seconds"),
            "complete": period.end <= now,
        },
        **tickets,
        **_releases(state, entries, period.start, until),
        "ledger": _ledger(state, entries, period.start, until),
    }
    upto = [entry.to_json() for entry in entries if _moment(entry.issued_at) < until]
    return Collected(figures, sorted(times), upto)


def _tickets(
    state: State, start: datetime, until: datetime
) -> tuple[dict[str, Any], list[tuple[datetime, float, float]]]:
    total = count_tickets(state.database, until)
    counts: dict[str, Counter[str]] = {
        name: Counter()
        for name in ("received", "open_at_start", "open_at_end", "states", "rejected", "withdrawn")
    }
    held = extended = overdue = 0
    times: dict[str, list[tuple[datetime, float, float]]] = {regime: [] for regime in _ALWAYS}
    for done, one in enumerate(courses(state.database, until), 1):
        if done % 500 == 0 or done == total:
            progress.report("reading tickets", done, total)
        times.setdefault(one.regime, [])
        was_open = one.received_at < start and (one.closed_at is None or one.closed_at >= start)
        counts["open_at_start"][one.regime] += was_open
        counts["received"][one.regime] += one.received_at >= start
        counts["open_at_end"][one.regime] += one.state not in FINAL
        ended = one.closed_at is not None and one.closed_at >= start
        counts["states"][one.state] += one.state not in FINAL or ended
        overdue += one.state in RUNNING and one.due_at < until
        held += sum(at >= start for at in one.held)
        extended += sum(at >= start for at in one.extended)
        if one.refused is not None and one.refused[1] >= start:
            counts[one.refused[0]][one.refused[2]] += 1
        if one.state == TicketState.CLOSED and ended:
            times[one.regime].append(_time(one))
    figures = {
        "tickets": {
            **{
                name: {regime: counts[name][regime] for regime in times}
                for name in ("received", "open_at_start", "open_at_end")
            },
            "states": {str(s): counts["states"][s] for s in TicketState},
            "overdue_at_end": overdue,
            "on_hold_at_end": counts["states"][TicketState.ON_HOLD],
            "holds": held,
            "extensions": extended,
        },
        "closed": {regime: _closing(times[regime]) for regime in times},
        "refused_requests": {name: dict(sorted(counts[name].items())) for name in ("rejected", "withdrawn")},
    }
    return figures, [one for regime in times for one in times[regime]]


def _time(one: TicketCourse) -> tuple[datetime, float, float]:
    assert one.closed_at is not None
    took, allowed = one.closed_at - one.received_at, one.due_at - one.received_at
    return one.received_at, took.total_seconds() / _DAY_S, allowed.total_seconds() / _DAY_S


def _closing(times: Sequence[tuple[datetime, float, float]]) -> dict[str, Any]:
    took = sorted(t[1] for t in times)
    lateness = [t[1] - t[2] for t in times if t[1] > t[2]]
    late, least = dict[str, int](), 0.0
    for name, most in _LATE:
        late[name] = sum(least < days <= most for days in lateness)
        least = most
    return {
        "closed": len(took),
        "in_time": len(took) - len(lateness),
        "late": len(lateness),
        "late_by": late,
        "median_days": statistics.median(took) if took else None,
        "percentile_95_days": took[-(-95 * len(took) // 100) - 1] if took else None,  # nearest rank
        "longest_days": took[-1] if took else None,
    }


def _releases(
    state: State, entries: Sequence[LedgerEntry], start: datetime, until: datetime
) -> dict[str, Any]:
    batches = draws = 0
    undone, rolled_back, refusals = set[str](), 0, Counter[str]()
    registered = dict[str, tuple[int, float]]()  # certificate -> version, accuracy
    for opened, drawn, data in batches_before(state.database, until):
        undone |= {release["certificate_id"] for release in data.get("rolled_back", [])}
        rolled_back += sum(start <= _moment(r["at"]) < until for r in data.get("rolled_back", []))
        if "model_version" in data and "metrics" in data:
            registered[data["certificate_id"]] = (data["model_version"], data["metrics"]["accuracy"])
        if opened >= start:
            batches, draws = batches + 1, draws + drawn
            refusals.update(note["mechanism"] for note in data.get("refusals", []))
    return {
        "batches": {
            "opened": batches,
            "noise_draws": draws,
            "rolled_back": rolled_back,
            "mechanisms_refused": dict(sorted(refusals.items())),
        },
        "certificates": _certificates(state, undone, start, until),
        "versions": [
            {
                "version": registered[entry.certificate_id][0],
                "epsilon": entry.epsilon,
                "sigma": entry.sigma,
                "accuracy": registered[entry.certificate_id][1],
            }
            for entry in entries
            if entry.kind in ("release", "retraining")
            and entry.certificate_id in registered
            and _moment(entry.issued_at) < until
        ],
    }


def _certificates(state: State, undone: set[str], start: datetime, until: datetime) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("mechanism", "guarantee", "coverage")}
    exceptions, left = Counter[tuple[str, str]](), Counter[str]()
    epsilons, deltas = list[float](), [0.0]
    issued = standing = vacuous = records = people = 0
    for c in _issued(state, start, until):
        issued += 1
        if c.certificate_id in undone:
            continue
        standing, vacuous = standing + 1, vacuous + c.vacuous
        records, people = records + c.forget.records, people + c.forget.subjects
        counts["mechanism"][c.mechanism] += 1
        counts["guarantee"][c.guarantee] += 1
        epsilons.append(c.epsilon)
        deltas.append(c.delta)
        for item in c.coverage:
            counts["coverage"][item.status] += 1
            if item.status == "not covered" and item.reason.startswith("exception: "):
                exceptions[(item.artefact, item.reason.removeprefix("exception: "))] += 1
            elif item.status == "not covered":
                left[item.artefact] += 1
    return {
        "issued": issued,
        "undone": issued - standing,
        "vacuous": vacuous,
        "records_forgotten": records,
        "people_forgotten": people,
        "mechanisms": dict(sorted(counts["mechanism"].items())),
        "guarantees": dict(sorted(counts["guarantee"].items())),
        "epsilon": _distribution(sorted(epsilons)),
        "largest_delta": max(deltas),
        "coverage": dict(sorted(counts["coverage"].items())),
        "not_covered": dict(sorted(left.items())),
        "exceptions": [
            {"artefact": artefact, "reason": reason, "certificates": number}
            for (artefact, reason), number in sorted(exceptions.items())
        ],
    }


def _issued(state: State, start: datetime, until: datetime) -> Iterator[Certificate]:
    """Certificates of a period, one at a time."""
    for path in sorted(state.workspace.evidence_dir.glob("c-*/certificate.json")):
        try:
            certificate = parse_certificate(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise VerificationError(
                "a certificate is not JSON", got=path.parent.name, remedy="restore it from MLflow's artifacts"
            ) from error
        if start <= _moment(certificate.issued_at) < until:
            yield certificate


def _distribution(epsilons: Sequence[float]) -> dict[str, Any]:
    bins, least = dict[str, int](), -1.0
    for most in (0.0, *_EPSILONS):
        bins[f"{least:g} to {most:g}" if least >= 0 else "0"] = sum(least < e <= most for e in epsilons)
        least = most
    bins[f"above {least:g}"] = sum(e > least for e in epsilons)
    return {
        "least": epsilons[0] if epsilons else None,
        "median": statistics.median_high(epsilons) if epsilons else None,
        "largest": epsilons[-1] if epsilons else None,
        "certificates_by_epsilon": bins,
    }


def _ledger(state: State, entries: Sequence[LedgerEntry], start: datetime, until: datetime) -> dict[str, Any]:
    upto = [entry for entry in entries if _moment(entry.issued_at) < until]
    account, kinds = account_of(upto), Counter[str]()
    for entry in upto:
        if _moment(entry.issued_at) >= start:
            kinds[entry.kind] += 1
    findings = check_ledger(entries)
    return {
        "entries": len(upto),
        "entries_in_period": dict(sorted(kinds.items())),
        "head": upto[-1].digest() if upto else None,
        "releases_since_exact_training": account.step,
        "accumulated_error": account.accumulated_error,
        "limits": state.policy.ledger.model_dump(),
        "holds": not findings,
        "findings": findings[:_FINDINGS],
    }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
