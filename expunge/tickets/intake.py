"""Reading tickets from a CSV file: every bad line is reported, and then none is filed."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from expunge.errors import TicketError
from expunge.tickets.lifecycle import REGIMES

COLUMNS = ("subject", "regime", "idempotency_key")


@dataclass(frozen=True)
class IntakeRow:
    """One line of a file.

    Args:
        line: Its number.
        subject: The person.
        regime: gdpr or ccpa.
        idempotency_key: Or None.
    """

    line: int
    subject: str
    regime: str
    idempotency_key: str | None


def read_tickets_csv(path: Path, known: Callable[[set[str]], Mapping[str, int]]) -> list[IntakeRow]:
    """Read a CSV file of requests with a header: subject, and optionally regime and idempotency_key.

    Messages give line numbers, never a subject id.

    Args:
        path: The file, UTF-8.
        known: Counts the rows of subjects in the dataset.

    Returns:
        The rows.

    Raises:
        TicketError: With every bad line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            faults = [f"line 1: unknown column {name!r}" for name in header if name not in COLUMNS]
            if "subject" not in header:
                faults.append("line 1: column 'subject' is missing")
            rows = [] if faults else _rows(reader, faults)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TicketError(
            "the file cannot be read",
            expected="a UTF-8 CSV file",
            got=type(error).__name__,
            remedy="check the path",
        ) from error
    counts = known({row.subject for row in rows})
    faults += [
        f"line {row.line}: nobody of that id is in the dataset" for row in rows if not counts.get(row.subject)
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


def _rows(reader: "csv.DictReader[str]", faults: list[str]) -> list[IntakeRow]:
    rows, seen = [], dict[str, int]()
    for content in reader:
        line = reader.line_num
        subject = (content.get("subject") or "").strip()
        regime = (content.get("regime") or "gdpr").strip().lower()
        key = (content.get("idempotency_key") or "").strip() or None
        if None in content:
            faults.append(f"line {line}: more fields than columns")
        if not subject:
            faults.append(f"line {line}: no subject")
        if regime not in REGIMES:
            faults.append(f"line {line}: unknown regime")
        if subject and subject in seen:
            faults.append(f"line {line}: the same subject as line {seen[subject]}")
        seen.setdefault(subject, line)
        rows.append(IntakeRow(line, subject, regime, key))
    return rows
