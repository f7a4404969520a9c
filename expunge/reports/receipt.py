"""The receipt of a closed ticket: what became of the person, when backups forget, and what is not covered."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from expunge.reports.page import environment
from expunge.reports.plain_words import CLASS_WORDS, verdict

_DESTROYED = ("purge pending", "purged")  # at issue of the certificate; the purge entry proves the rest
_DATA = "rows in earlier dataset versions"  # of which a purge may have had to leave some to somebody else

_DECLARED = re.compile(r"\(a-[0-9a-f]{12}\)\Z")  # an artefact's id: its fate is what the operator said


def make_receipt(
    ticket: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    certificate: Mapping[str, Any],
    purge: Mapping[str, Any],
    backups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Put a receipt together from evidence.

    Args:
        ticket: A closed ticket as plain data; no subject id is in it.
        history: Its steps, ``{at, from, to, reason}``.
        certificate: Of its batch, as plain data.
        purge: The batch's purge entry of the ledger, as plain data.
        backups: Declared when it was purged, ``{name, holds, expires_days}``.

    Returns:
        A JSON-able dict.
    """
    removed_at = next((event["at"] for event in reversed(history) if event["to"] == "removed"), None)
    purged_at, details = datetime.fromisoformat(purge["issued_at"]), purge["details"]
    coverage, kept = certificate["coverage"], details.get("kept", [])
    in_part = [item for item in coverage if kept and item["artefact"].startswith(_DATA)]
    return {
        **{
            name: ticket[name]
            for name in ("ticket_id", "pseudonym", "regime", "received_at", "due_at", "closed_at", "batch_id")
        },
        "removed_at": removed_at,
        "certificate_id": certificate["certificate_id"],
        "model": {"name": certificate["model"]["name"], "version": certificate["model"]["version"]},
        "guarantee": {
            "class": certificate["guarantee"],
            "epsilon": certificate["epsilon"],
            "delta": certificate["delta"],
            "verdict": verdict(dict(certificate)),
            "words": CLASS_WORDS[certificate["guarantee"]],
        },
        "purged": {
            "at": purge["issued_at"],
            "ledger_entry": purge["sequence"],
            "what": [
                item["artefact"]
                for item in coverage
                if item["status"] in _DESTROYED
                and item not in in_part
                and not _DECLARED.search(item["artefact"])
            ],
        },
        "scan": {
            "clean": details["scan"]["clean"],
            "hits": len(details["scan"]["hits"]),
            "searched": details["scan"]["searched"],
            "notes": details["scan"]["notes"],
        },
        "backups": [
            {
                "name": backup["name"],
                "holds": backup["holds"],
                "expired_by": (purged_at + timedelta(days=backup["expires_days"])).date().isoformat(),
            }
            for backup in backups
        ],
        "declared": [
            item
            for item in coverage
            if item["status"] != "not covered" and _DECLARED.search(item["artefact"])
        ],
        "not_covered": [
            *(
                {"artefact": item["artefact"], "reason": item["reason"]}
                for item in coverage
                if item["status"] == "not covered"
            ),
            *(
                {"artefact": item["artefact"], "reason": "destroyed but for what is named below"}
                for item in in_part
            ),
            *({"artefact": item["what"], "reason": item["why"]} for item in kept),
            *(
                {
                    "artefact": label,
                    "reason": "declared after the certificate was issued; nothing was said of it",
                }
                for label in details.get("declared_late", [])
            ),
        ],
    }


def render_receipt(receipt: Mapping[str, Any]) -> str:
    """Render a receipt for people.

    Args:
        receipt: From :func:`make_receipt`.

    Returns:
        HTML, self-contained.
    """
    return environment().get_template("receipt.html").render(r=receipt)
