"""Search every store of a workspace for the ids and the rows of erased people."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from expunge.reports.plain_words import counted, plural
from expunge.residue.canary import try_canary
from expunge.residue.embedded import FEWEST
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.search import SHORTEST_TOKEN, Scanner
from expunge.residue.stores import Store
from expunge.residue.target import Target

__all__ = ["ScanReport", "Target", "scan"]

_ALWAYS = (
    "not seen: what is encrypted, what a table without column names or another coding of numbers holds, "
    "a database server's dead rows and its log"
)


@dataclass(frozen=True)
class ScanReport:
    """What was searched and found; without personal data.

    Args:
        hits: ``{where, kind}``: kind is subject-id, row, or unreadable (it could hold anything).
        searched: ``{store, kind, files, bytes}``.
        notes: What the search could not see.
    """

    hits: tuple[dict[str, Any], ...]
    searched: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.hits

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the ledger and the people: an exact size of compressed rows would depend on each of them.

        Returns:
            ``{clean, hits, searched, notes}``; bytes are rounded up to a power of two, at least 1 MiB.
        """
        return {
            "clean": self.clean,
            "hits": list(self.hits),
            "searched": [{**item, "bytes": _coarse(item["bytes"])} for item in self.searched],
            "notes": list(self.notes),
        }


def _coarse(size: int) -> int:
    return 1 << max(20, (size - 1).bit_length())


def scan(
    stores: Sequence[Store],
    target: Target,
    *,
    retained: Callable[[], Iterable[pd.DataFrame]] = tuple,
    notes: Sequence[str] = (),
) -> ScanReport:
    """Search stores, after proving on planted canaries that the search works.

    Args:
        stores: All of them.
        target: Whom and which rows to look for.
        retained: Rows that stay, some at a time: read where numbers of a removed row are found, which may be
            those of somebody else too.
        notes: What else the reader should know.

    Returns:
        The report.

    Raises:
        ResidueError: If a canary was not found: no search is no proof.
    """
    try_canary()
    scanner = Scanner(target)
    for store in stores:
        scanner.store = store.name
        store.search(scanner)
    said = [*notes, *_blind(scanner, target)]
    if scanner.owners:
        shared = _shared(scanner, target, retained())
        for where, owners in scanner.owners:
            if owners - shared:
                scanner.found(where, "row")
    searched = tuple(
        {"store": store, "kind": kind, "files": number, "bytes": scanner.bytes[store, kind]}
        for (store, kind), number in sorted(scanner.files.items())
    )
    return ScanReport(tuple(scanner.hits), searched, tuple(said))


def _shared(scanner: Scanner, target: Target, retained: Iterable[pd.DataFrame]) -> set[str]:
    """Which of the rows that were found as numbers are equal to a retained one there."""
    found = set().union(*(owners for _, owners in scanner.owners))
    shared: set[str] = set()
    for frame in retained:
        for columns in scanner.numbers.columns:
            shared.update(found.intersection(row_fingerprints(frame, columns, target.key)))
    return shared


def _blind(scanner: Scanner, target: Target) -> list[str]:
    """What the search could not see."""
    notes = [_ALWAYS]
    if target.pseudonyms:
        notes.append(
            "people whose ids are erased are recognised by pseudonym: in subject columns, and in tokens of "
            f"at least {SHORTEST_TOKEN} characters elsewhere; their rows were searched for at the purge"
        )
    short = sum(len(subject) < SHORTEST_TOKEN for subject in target.subjects)
    if short:
        notes.append(
            f"{counted(short, 'id')} shorter than {SHORTEST_TOKEN} characters "
            f"{plural(short, 'was', 'were')} searched in subject columns and "
            "fields only"
        )
    if target.embedded:
        notes.append(
            f"rows were searched for as numbers in files where they have {FEWEST['float32']} distinct ones or "
            f"more ({FEWEST['uint8']} as bytes); those that a retained row has too are no hits"
        )
    return notes
