"""The receipt of a closed ticket: what became of the person, when backups forget, and what is not covered."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from expunge.reports.page import environment
from expunge.reports.plain_words import CLASS_WORDS, verdict

_DESTROYED = ("purge pending", "purged")  # at issue of the certificate; the purge entry proves the rest


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
    coverage = certificate["coverage"]
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
            "what": [item["artefact"] for item in coverage if item["status"] in _DESTROYED],
        },
        "scan": {
            "clean": details["scan"]["clean"],
            "hits": len(details["scan"]["hits"]),
            "searched": details["scan"]["searched"],
        },
        "backups": [
            {
                "name": backup["name"],
                "holds": backup["holds"],
                "expired_by": (purged_at + timedelta(days=backup["expires_days"])).date().isoformat(),
            }
            for backup in backups
        ],
        "not_covered": [
            *(
                {"artefact": item["artefact"], "reason": item["reason"]}
                for item in coverage
                if item["status"] == "not covered"
            ),
            *({"artefact": item["what"], "reason": item["why"]} for item in details.get("kept", [])),
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
