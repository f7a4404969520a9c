"""What became of the artefacts that a certificate calls "purge pending": what the ledger's purge entry proves since."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from expunge.reports.plain_words import counted

DATA: Final = (
    "rows in earlier dataset versions"  # of which a purge may have had to leave some to somebody else
)
_DECLARED = re.compile(r"\(a-[0-9a-f]{12}\)\Z")  # an artefact's id: its fate is what the operator said


def is_declared(artefact: str) -> bool:
    """Whether an artefact of the coverage map is one that the operator declared.

    Args:
        artefact: As the map names it.

    Returns:
        Whether it is: its fate is what the operator said, and no purge entry proves it.
    """
    return _DECLARED.search(artefact) is not None


def purge_of(
    certificate: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The last purge entry of a certificate's batch.

    Args:
        certificate: As plain data.
        entries: Of the ledger, as plain data.

    Returns:
        The entry; None where there is none yet.
    """
    found = [
        entry for entry in entries if entry["kind"] == "purge" and entry["batch"] == certificate["batch"]
    ]
    return found[-1] if found else None


def fate(item: Mapping[str, Any], purge: Mapping[str, Any] | None) -> str | None:
    """What became of an artefact since its certificate was issued.

    Args:
        item: Of the certificate's coverage map.
        purge: The purge entry of its batch.

    Returns:
        In words; None where the certificate promised no purge, or the ledger proves none.
    """
    if item["status"] != "purge pending" or purge is None or is_declared(item["artefact"]):
        return None
    kept = purge["details"].get("kept", [])
    part = " in part" if kept and item["artefact"].startswith(DATA) else ""
    hits = (
        "" if purge["details"].get("scan", {}).get("clean", True) else "; the search afterwards was not clean"
    )
    return f"purged{part} on {purge['issued_at'][:10]} (ledger entry {purge['sequence']}){hits}"


def since_issued(certificate: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str | None:
    """What the ledger says today of what was "purge pending" when the certificate was issued.

    Args:
        certificate: As plain data.
        entries: Of the ledger, as plain data.

    Returns:
        A sentence or several; None where nothing was pending.
    """
    if not any(item["status"] == "purge pending" for item in certificate["coverage"]):
        return None
    purge = purge_of(certificate, entries)
    if purge is None:
        return "The ledger that this was made with has no purge entry of this batch yet."
    kept = purge["details"].get("kept", [])
    left = (
        f" Of it were kept, because another dataset needs them: {counted(len(kept), 'object')}."
        if kept
        else ""
    )
    return (
        f"The ledger that this was made with has the purge entry of this batch: entry {purge['sequence']} of "
        f"{purge['issued_at']}. So what was pending when the certificate was issued is destroyed since; the "
        f"certificate itself stays as it was signed.{left}"
    )
