"""What comes in is checked here. From a CSV file, every bad line is reported, and then none is filed."""

import csv
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from expunge.errors import TicketError
from expunge.regimes import LAWS
from expunge.subjects import folded

COLUMNS = ("subject", "regime", "idempotency_key", "received_at")
_OLDEST = timedelta(days=366)  # a request that is older is a mistyped date
_CLOCKS = timedelta(minutes=5)  # that two machines' clocks may differ


def receipt_moment(text: str, now: datetime) -> datetime:
    """When a request was received, as somebody wrote it; deadlines count from it.

    Args:
        text: A date, or a date and time, in ISO 8601; in UTC without a time zone, its first moment
            without a time.
        now: The time, with its zone.

    Returns:
        UTC.

    Raises:
        TicketError: If it is no date, in the future, or more than a year ago; it is not repeated: it may be
            anything.

    Example:
        >>> receipt_moment("2026-03-02", datetime(2026, 3, 4, tzinfo=UTC)).isoformat()
        '2026-03-02T00:00:00+00:00'
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        fault = "something else"
    else:
        if moment > now + _CLOCKS:
            fault = "one in the future"
        elif moment < now - _OLDEST:
            fault = "one more than a year ago"
        else:
            return moment
    raise TicketError(
        "the date of receipt cannot be",
        expected="an ISO 8601 date such as 2026-03-02 or 2026-03-02T09:00+01:00, not in the future, of the last year",
        got=fault,
        remedy="correct it; nothing was filed",
    )


def check_subject(subject_id: str) -> None:
    """Refuse what cannot be a subject id; it is not repeated.

    Args:
        subject_id: Any text.

    Raises:
        TicketError: If it is blank, holds NUL, or is not encodable as UTF-8.
    """
    if not subject_id.strip() or re.search("[\x00\ud800-\udfff]", subject_id):
        raise TicketError(
            "this cannot be a subject id",
            expected="text in UTF-8",
            got="nothing, or characters outside it",
            remedy="check the id; nothing was filed",
        )


def check_reason(reason: str, subject_id: str | None) -> None:
    """Refuse a reason that is missing, or that names the person: reasons are shown, and kept for ever.

    Args:
        reason: Any text.
        subject_id: The person, while known.

    Raises:
        TicketError: If it may not be kept.
    """
    if not reason.strip():
        raise TicketError("a reason is needed", expected="--reason TEXT", got="none", remedy="say why")
    if subject_id and re.search(
        rf"(?<![0-9A-Za-z]){re.escape(subject_id)}(?![0-9A-Za-z])", reason, re.IGNORECASE
    ):
        raise TicketError(
            "the reason names the person",
            expected="a reason without the subject id",
            remedy="say it in other words; nothing was changed",
        )


@dataclass(frozen=True)
class IntakeRow:
    """One line of a file.

    Args:
        line: Its number.
        subject: The person.
        regime: Name of a law.
        idempotency_key: Or None.
        received_at: When the request came, in UTC; None for now.
    """

    line: int
    subject: str
    regime: str
    idempotency_key: str | None
    received_at: datetime | None = None


def read_tickets_csv(
    path: Path,
    known: Callable[[set[str]], Mapping[str, int]],
    *,
    canonical: Callable[[str], str] = str,
    near: Callable[[set[str]], Collection[str]] = lambda _: (),
    regimes: Collection[str] = tuple(LAWS),
) -> list[IntakeRow]:
    """Read a CSV file of requests with a header: subject, and optionally the other columns.

    Messages give line numbers, never a subject id.

    Args:
        path: The file, UTF-8.
        known: Counts the rows of subjects in the dataset.
        canonical: The one form of a person's id.
        near: Folded forms of unknown ids that somebody's id shares.
        regimes: Names of laws.

    Returns:
        The rows.

    Raises:
        TicketError: With every bad line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            # A file without a header has people in line 1: columns are numbered, never repeated.
            faults = [
                f"line 1: column {number} is none of {', '.join(COLUMNS)}, or is there twice"
                for number, name in enumerate(header, 1)
                if name not in COLUMNS or name in header[: number - 1]
            ]
            if "subject" not in header:
                faults.append("line 1: column 'subject' is missing")
            rows = [] if faults else _rows(reader, faults, canonical, regimes)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TicketError(
            "the file cannot be read",
            expected="a UTF-8 CSV file",
            got=type(error).__name__,
            remedy="check the path",
        ) from error
    # Blanks around an id are the file's, unless the dataset has an id with them.
    counts = known({one for row in rows if row.subject for one in (row.subject, row.subject.strip())})
    rows = [row if counts.get(row.subject) else replace(row, subject=row.subject.strip()) for row in rows]
    unknown = [row for row in rows if row.subject and not counts.get(row.subject)]
    forms = set(near({row.subject for row in unknown})) if unknown else set()
    faults += [
        f"line {row.line}: nobody of that id is in the dataset"
        + (", but of one that differs only in its form" if folded(row.subject) in forms else "")
        for row in unknown
    ]
    if not rows and not faults:
        faults.append("there are no lines after the header")
    if faults:
        raise TicketError(
            "no ticket was imported",
            got="; ".join(faults),
            remedy="correct these lines and import the file again",
        )
    return rows


def _rows(
    reader: "csv.DictReader[str]",
    faults: list[str],
    canonical: Callable[[str], str],
    regimes: Collection[str],
) -> list[IntakeRow]:
    rows: list[IntakeRow] = []
    now = datetime.now(UTC)
    seen, keys = dict[str, int](), dict[str, int]()
    while True:
        try:
            content = next(reader)
        except StopIteration:
            return rows
        except csv.Error:
            faults.append(f"line {reader.reader.line_num}: not CSV; what follows was not read")
            return rows
        line = reader.line_num
        subject = canonical(content.get("subject") or "")
        regime = (content.get("regime") or "gdpr").strip().lower()
        key = (content.get("idempotency_key") or "").strip() or None
        if None in content:
            faults.append(f"line {line}: more fields than columns")
        if not subject.strip():
            faults.append(f"line {line}: no subject")
        if regime not in regimes:
            faults.append(f"line {line}: unknown regime")
        if subject and subject in seen:
            faults.append(f"line {line}: the same subject as line {seen[subject]}")
        if key in keys:
            faults.append(f"line {line}: the same idempotency key as line {keys[key]}")
        seen.setdefault(subject, line)
        if key:
            keys.setdefault(key, line)
        received: datetime | None = None
        if written := (content.get("received_at") or "").strip():
            try:
                received = receipt_moment(written, now)
            except TicketError as error:
                faults.append(f"line {line}: {error.message}: {error.got}")
        rows.append(IntakeRow(line, subject, regime, key, received))
