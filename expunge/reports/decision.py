"""The receipt of a ticket that was rejected or withdrawn: what was decided, when and why; no erasure is claimed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from expunge.reports.document import Code, Document, Facts, Line, Paragraph, Section
from expunge.reports.organisation import organisation_section

_WORDS: Final = {
    "rejected": "Your request was rejected.",
    "withdrawn": "Your request was withdrawn.",
}
NOTHING_ERASED: Final = (
    "Nothing was erased because of it, and no model was changed: data about you may still be in the dataset and in "
    "models."
)


def make_decision(
    ticket: Mapping[str, Any], history: Sequence[Mapping[str, Any]], organisation: Mapping[str, str | None]
) -> dict[str, Any]:
    """Put the receipt of a rejected or withdrawn ticket together.

    Args:
        ticket: As plain data; no subject id is in it.
        history: Its steps, ``{at, from, to, reason}``.
        organisation: That answers for the data, ``{name, contact, authority}``; None of what it does not state.

    Returns:
        A JSON-able dict; ``erased`` is false.
    """
    last = [event for event in history if event["to"] == ticket["state"]][-1]
    names = ("ticket_id", "pseudonym", "regime", "received_at", "due_at", "closed_at")
    return {
        **{name: ticket[name] for name in names},
        "decision": ticket["state"],
        "decided_at": last["at"],
        "reason": last["reason"],
        "erased": False,
        "organisation": dict(organisation),
    }


def decision_document(receipt: Mapping[str, Any], signed_by: Line) -> Document:
    """Say to the person what was decided, and that nothing was erased.

    Args:
        receipt: From :func:`make_decision`.
        signed_by: How to check it.

    Returns:
        The document.
    """
    r = receipt
    facts = (
        ("Request received", f"{_time(r['received_at'])} ({r['regime']})"),
        ("Due", _time(r["due_at"])),
        ("Decided", _time(r["decided_at"])),
        ("Decision", r["decision"]),
        ("Reason", r["reason"]),
    )
    return Document(
        title="Receipt of a decision",
        name=r["ticket_id"],
        about=(f"{r['ticket_id']} · {r['decision']} · you are ", Code(r["pseudonym"]), " here (a pseudonym)"),
        verdict=f"{_WORDS[r['decision']]} {NOTHING_ERASED}",
        tone="wait",
        sections=(
            Section("What was decided", (Facts("Decision", [(name, (value,)) for name, value in facts]),)),
            organisation_section(r),
            Section("How to check this receipt", (Paragraph(signed_by),)),
        ),
    )


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
