"""The receipt of a closed ticket: what became of the person, when backups forget, and what is not covered."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from expunge.reports.decision import decision_document
from expunge.reports.document import (
    Block,
    Bullets,
    Code,
    Document,
    Facts,
    Line,
    Paragraph,
    Section,
    Table,
    Tag,
)
from expunge.reports.organisation import organisation_section
from expunge.reports.plain_words import CLASS_WORDS, bound, counted, figure, verdict
from expunge.reports.purged import DATA, is_declared

_DESTROYED = ("purge pending", "purged")  # at issue of the certificate; the purge entry proves the rest


def make_receipt(
    ticket: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    certificate: Mapping[str, Any],
    purge: Mapping[str, Any],
    backups: Sequence[Mapping[str, Any]],
    organisation: Mapping[str, str | None],
) -> dict[str, Any]:
    """Put a receipt together from evidence.

    Args:
        ticket: A closed ticket as plain data; no subject id is in it.
        history: Its steps, ``{at, from, to, reason}``.
        certificate: Of its batch, as plain data.
        purge: The batch's purge entry of the ledger, as plain data.
        backups: Declared when it was purged, ``{name, holds, expires_days}``.
        organisation: That answers for the data, ``{name, contact, authority}``; None of what it does not state.

    Returns:
        A JSON-able dict.
    """
    removed_at = next((event["at"] for event in reversed(history) if event["to"] == "removed"), None)
    purged_at, details = datetime.fromisoformat(purge["issued_at"]), purge["details"]
    coverage, kept = certificate["coverage"], details.get("kept", [])
    in_part = [item for item in coverage if kept and item["artefact"].startswith(DATA)]
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
                if item["status"] in _DESTROYED and item not in in_part and not is_declared(item["artefact"])
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
        "organisation": dict(organisation),
        "declared": [
            item for item in coverage if item["status"] != "not covered" and is_declared(item["artefact"])
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


def receipt_document(receipt: Mapping[str, Any], signed_by: str | None = None) -> Document:
    """Say to the person what was done, in plain language, and what was not.

    Args:
        receipt: From :func:`make_receipt`, or :func:`expunge.reports.decision.make_decision`.
        signed_by: Id of the key that signed it; None for one without a signature.

    Returns:
        The document.
    """
    if "decision" in receipt:
        return decision_document(receipt, _signed(signed_by))
    r, guarantee = receipt, receipt["guarantee"]
    vacuous = guarantee["verdict"].startswith("VACUOUS")
    return Document(
        title="Receipt of erasure",
        name=r["ticket_id"],
        about=(
            f"{r['ticket_id']} · closed {_day(r['closed_at'])} · you are ",
            Code(r["pseudonym"]),
            " here (a pseudonym)",
        ),
        verdict=_plain(r, vacuous),
        tone="bad" if vacuous or not r["scan"]["clean"] else "good",
        sections=(
            _when(r),
            Section("Backups", (*_backups(r["backups"]),)),
            _destroyed(r),
            *([_declared(r["declared"])] if r["declared"] else []),
            Section(
                "What is not covered",
                (
                    Table(
                        "What is not covered",
                        ("What", "Why it may still hold something of you"),
                        [((item["artefact"],), (item["reason"],)) for item in r["not_covered"]],
                        (45, 55),
                        "We know of nothing.",
                    ),
                ),
            ),
            Section(
                "What the model can still tell",
                (
                    Paragraph((_model_words(guarantee, vacuous),)),
                    Paragraph(
                        (f"In the words of the certificate: “{guarantee['verdict']} {guarantee['words']}”",)
                    ),
                    Paragraph(
                        (
                            f"Certificate {r['certificate_id']} says what that rests on and what it does not prove. "
                            f"The model is {r['model']['name']}, version {figure(r['model']['version'])}.",
                        )
                    ),
                ),
            ),
            organisation_section(r),
            Section("How to check this receipt", (Paragraph(_signed(signed_by)),)),
        ),
    )


def _plain(r: Mapping[str, Any], vacuous: bool) -> str:
    rows = f"We removed your data from the dataset on {_day(r['removed_at'])}. " if r["removed_at"] else ""
    if vacuous:
        return f"VACUOUS: the certificate of the model proves nothing useful about you. {rows}".strip()
    how = (
        "We trained the model again from scratch without it"
        if r["guarantee"]["class"] == "exact"
        else "We changed the model so that there is a bound on what it can still tell about you"
    )
    left = " What this does not cover is named below." if r["not_covered"] else ""
    purged = f"on {_day(r['purged']['at'])} we destroyed the earlier data and models in our reach"
    kept = " in part" if any(i["reason"].startswith("destroyed but") for i in r["not_covered"]) else ""
    return f"{rows}{how}; {purged}{kept}.{left}"


def _when(r: Mapping[str, Any]) -> Section:
    facts = (
        ("Request received", f"{_time(r['received_at'])} ({r['regime']})"),
        ("Due", _time(r["due_at"])),
        ("Your rows removed", _time(r["removed_at"]) if r["removed_at"] else "not recorded"),
        (
            "Earlier data and models destroyed",
            f"{_time(r['purged']['at'])} (ledger entry {r['purged']['ledger_entry']})",
        ),
        ("Closed", _time(r["closed_at"])),
        ("Batch", r["batch_id"]),
    )
    return Section("When", (Facts("Dates", [(name, (value,)) for name, value in facts]),))


def _backups(backups: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    if not backups:
        return (Paragraph(("We have declared no backup.",)),)
    last = max(backup["expired_by"] for backup in backups)
    return (
        Paragraph(
            (
                f"These backups of ours may hold a copy of your data until they expire, by {last} at the latest: so we "
                "declare.",
            )
        ),
        Table(
            "Backups and when they expire",
            ("Backup", "Holds", "Expired by"),
            [((b["name"],), (b["holds"],), (b["expired_by"],)) for b in backups],
            (40, 35, 25),
        ),
    )


def _destroyed(r: Mapping[str, Any]) -> Section:
    scan = r["scan"]
    places = ", ".join(
        f"{i['kind']} ({counted(i['files'], 'object')}, at most {counted(i['bytes'], 'byte')})"
        for i in scan["searched"]
    )
    found = Tag("clean", "good") if scan["clean"] else Tag("not clean", "bad")
    blocks: list[Block] = [
        Bullets([(line,) for line in r["purged"]["what"]]),
        Paragraph(
            (
                f"Afterwards we searched for you and found {counted(scan['hits'], 'trace')} ",
                found,
                f" in: {places or 'nothing'}.",
            )
        ),
    ]
    if scan["notes"]:
        blocks += [
            Paragraph(("What our search could not see:",)),
            Bullets([(note,) for note in scan["notes"]]),
        ]
    return Section("What was destroyed", blocks)


def _declared(declared: Sequence[Mapping[str, Any]]) -> Section:
    rows = [((i["artefact"],), (f"{i['status']}: {i['reason']}",)) for i in declared]
    return Section(
        "What we declare, and nothing here proves",
        (Table("What we declare, and nothing here proves", ("What", "What became of it"), rows, (45, 55)),),
    )


def _model_words(guarantee: Mapping[str, Any], vacuous: bool) -> str:
    if vacuous:
        return "Nobody can say how much: the figures of the certificate are too weak to mean anything."
    if guarantee["class"] == "exact":
        return "It can tell nothing that it learnt from your data: it never saw it."
    condition = " It holds only if assumptions are right that nobody has proved." * (
        guarantee["class"] == "conditional"
    )
    return (
        "Somebody who examines the model could try to find out whether your data was ever in it. The two numbers ε "
        "(epsilon) and δ (delta) bound how much better they can do that than on a model that never saw your data: the "
        f"smaller, the less. Here ε = {bound(guarantee['epsilon'])} and δ = {bound(guarantee['delta'])}.{condition}"
    )


def _signed(signed_by: str | None) -> Line:
    if signed_by is None:
        return ("This receipt carries no signature: it is as trustworthy as the place that you got it from.",)
    return (
        "Its signed form is signed by key ",
        Code(signed_by),
        ". With that file and the public key anybody can check it: ",
        Code("expunge ticket verify-receipt FILE --key PUBLIC-KEY"),
        ".",
    )


def _time(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _day(moment: str) -> str:
    return moment[:10]
