"""A certificate as a document: the verdict, what it rests on, where it stands, how to check it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from expunge.evidence.canonical import digest
from expunge.reports.document import (
    Box,
    Bullets,
    Code,
    Command,
    Document,
    Facts,
    Line,
    Paragraph,
    Picture,
    Plot,
    Section,
    Square,
    Table,
    Tag,
    Tone,
)
from expunge.reports.plain_words import (
    CLASS_WORDS,
    GATES_TAKE_AWAY,
    STATUS_WORDS,
    bound,
    counted,
    delta_parts,
    exchanged,
    figure,
    gate_words,
    plural,
    recognition,
    verdict,
    who,
)
from expunge.reports.plots import accumulated_error_plot, accumulated_error_words
from expunge.reports.purged import fate, purge_of, since_issued

STATUS_TONES: Final[dict[str, Tone]] = {
    "covered": "good",
    "recomputed": "good",
    "purged": "good",
    "not present": "good",
    "purge pending": "wait",
    "not covered": "bad",
}
VERIFY: Final = (
    "expunge certificate verify certificate.dsse.json --key public-keys.json --model DIR --ledger ledger.json"
)


def certificate_document(
    certificate: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    *,
    signed_by: str | None = None,
    rolled_back: bool = False,
) -> Document:
    """Say what a certificate says, and no more.

    Args:
        certificate: As plain data.
        entries: The lineage's ledger, as plain data, up to the certificate or further.
        signed_by: Id of the key that signed it; None for one without a signature.
        rolled_back: Whether its release is known to have been undone; later entries of the ledger tell too.

    Returns:
        The document.
    """
    c, own = certificate, certificate["certificate_id"]
    rolled_back = rolled_back or any(
        release.get("certificate_id") == own
        for entry in entries
        for release in entry["details"].get("rolled_back", [])
    )
    words, tone = verdict(c), "bad" if c["vacuous"] else "good"
    if rolled_back:
        undone = "ROLLED BACK: this release was undone and proves nothing of the model that serves."
        words = f"{words} {undone}" if c["vacuous"] else f"{undone} When it was issued it said: {words}"
        tone = "bad" if c["vacuous"] else "wait"
    version = c["model"]["version"]
    return Document(
        title="Certificate of unlearning",
        name=own,
        about=(
            f"{own} · issued {c['issued_at']} · model {c['model']['name']}",
            f", version {version}" if version is not None else "",
        ),
        verdict=words,
        tone=tone,  # type: ignore[arg-type]
        figures=(
            (c["guarantee"], "guarantee class"),
            (bound(c["epsilon"]), "ε (epsilon)"),
            (bound(c["delta"]), "δ (delta)"),
            (c["mechanism"], "mechanism"),
            (figure(c["forget"]["records"]), f"{plural(c['forget']['records'], 'record')} forgotten"),
            (figure(c["retain"]["records"]), f"{plural(c['retain']['records'], 'record')} retained"),
        ),
        sections=(
            _proves(c),
            Section("What this does not prove", (Bullets([(line,) for line in c["scope"]]),)),
            Section(
                "What this assumes",
                (Bullets([(line,) for line in c["assumptions"]], "It states no assumption."),),
            ),
            _lineage(c, entries),
            _constants(c),
            _coverage(c, entries),
            _position(c, entries),
            _validation(c),
            _digests(c),
            _check(c, signed_by),
        ),
    )


def _proves(c: Mapping[str, Any]) -> Section:
    if not c["forget"]["subjects"]:
        return Section("What this proves", (Paragraph((verdict(c),)),))
    said = [Paragraph((CLASS_WORDS[c["guarantee"]],)), Paragraph((f"Compared with: {c['reference']}.",))]
    if c["vacuous"]:
        said.insert(0, Paragraph(("Nothing useful: it is outside the limits of policy.",)))
    if c["guarantee"] != "exact":
        said.append(
            Paragraph(
                (
                    "Any test of the weights that raises a false alarm with probability p under that process fires on "
                    f"what the mechanism draws {recognition(c['epsilon'], c['delta'])}. {GATES_TAKE_AWAY}",
                )
            )
        )
        said.append(Paragraph((exchanged(c),)))
    return Section("What this proves", said)


def _lineage(c: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Section:
    model, before, after = c["model"], c["dataset"]["before"], c["dataset"]["after"]
    entry = _entry(c, entries)
    version = "no number yet" if model["version"] is None else f"version {model['version']}"
    place = f"entry {entry['sequence']}" if entry else "no entry for it here"
    people = who(c)
    boxes = (
        Box("parent", 0, 0, (0, 0), "Parent model", (model["name"], f"version {model['parent_version']}",
                                             _short(model["parent_digest"]))),
        Box("before", 0, 1, (1, 0), "Dataset before", (_short(before["md5"]), f"git {_short(before['git_revision'])}")),
        Box("batch", 1, 0.5, (0.5, 1), "Batch", (c["batch"], people, f"mechanism {c['mechanism']}")),
        Box("model", 2, 0, (0, 2), "This model", (model["name"], version, _short(model["digest"]))),
        Box("after", 2, 1, (1, 2), "Dataset after", (_short(after["md5"]), f"git {_short(after['git_revision'])}")),
        Box("certificate", 1, 2, (0.5, 3), "Certificate", (c["certificate_id"], _short(digest(c)))),
        Box("entry", 2, 2, (0.5, 4), "Ledger", (place, _short(digest(entry)) if entry else "")),
    )  # fmt: skip
    arrows = (
        ("parent", "batch"), ("before", "batch"), ("batch", "model"), ("batch", "after"),
        ("batch", "certificate"), ("certificate", "entry"),
    )  # fmt: skip
    alt = (
        f"Version {model['parent_version']} of {model['name']} and dataset {_short(before['md5'])} went into batch "
        f"{c['batch']}, which removed {people} by mechanism {c['mechanism']}; out came {version} of the model, dataset "
        f"{_short(after['md5'])} and this certificate; the ledger has {place}."
    )
    return Section("Where it stands in the lineage", (Picture(boxes, arrows, alt),))


def _constants(c: Mapping[str, Any]) -> Section:
    noise = f" ({c['noise']})" if c["noise"] else ""
    return Section(
        "Error bound and constants",
        (
            Paragraph(
                (
                    f"Error bound {bound(c['error_bound']['value'])} (binding: {c['error_bound']['binding']}), from ",
                    Code(c["error_bound"]["formula"]),
                    f"; noise σ = {figure(c['sigma'])} on each of {counted(c['parameters'], 'parameter')}{noise}.",
                )
            ),
            *([Paragraph((composed,))] if (composed := delta_parts(c)) else []),
            Table(
                "Constants and where each came from",
                ("Constant", "Value", "Provenance", "How"),
                [
                    (
                        (Code(k["name"]),),
                        (figure(k["value"]),),
                        (Tag(k["provenance"], "bad" if k["provenance"] == "assumed" else "good"),),
                        (k["method"],),
                    )
                    for k in c["constants"]
                ],
                (24, 15, 17, 44),
                "It rests on no constant.",
            ),
        ),
    )


def _coverage(c: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Section:
    stated, purge = {item["status"] for item in c["coverage"]}, purge_of(c, entries)
    blocks: list[Any] = [
        Bullets(
            [
                (Tag(status, STATUS_TONES[status]), f" {words}")
                for status, words in STATUS_WORDS.items()
                if status in stated
            ]
        ),
        Table(
            "What became of each artefact",
            ("Artefact", "Status", "Reason"),
            [
                ((item["artefact"],), _status(item, fate(item, purge)), (item["reason"],))
                for item in c["coverage"]
            ],
            (34, 20, 46),
            "Nothing is listed.",
        ),
    ]
    if since := since_issued(c, entries):
        blocks.append(Paragraph((since,)))
    return Section("What became of everything that saw these people", blocks)


def _status(item: Mapping[str, Any], since: str | None) -> Line:
    """What the certificate states, and what the ledger proves since."""
    tag = Tag(item["status"], STATUS_TONES[item["status"]])
    return (tag,) if since is None else (tag, f" then {since}")


def _position(c: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Section:
    s, entry = c["sequential"], _entry(c, entries)
    limit = s["limits"]["accumulated_error"]
    upto = [e for e in entries if entry is None or e["sequence"] <= entry["sequence"]]
    facts = (
        ("Releases since the last exact training", f"{s['step']} of {s['limits']['releases']}"),
        ("Accumulated error", f"{bound(s['accumulated_error'])} of {figure(limit)}"),
        ("Largest single bound", bound(s["uniform_error"])),
        ("Noise draws for these records", figure(s["draws"])),
        ("Composed ε", f"{bound(s['composed_epsilon'])} of {figure(s['limits']['composed_epsilon'])}"),
    )
    return Section(
        "Position in the sequence of releases",
        (
            Facts("Position in the sequence", [(name, (value,)) for name, value in facts]),
            Plot(accumulated_error_plot(upto, limit), accumulated_error_words(upto, limit)),
        ),
    )


def _validation(c: Mapping[str, Any]) -> Section:
    return Section(
        "Validation",
        (
            Table(
                "Validation gates",
                ("Gate", "Outcome", "What it means, and its limit"),
                [
                    (
                        (gate["name"],),
                        (Tag("passed", "good") if gate["passed"] else Tag("failed", "bad"),),
                        (f"{gate_words(gate['name'])}. Limit: {gate['limit']}",),
                    )
                    for gate in c["validation"]["gates"]
                ],
                (30, 16, 54),
                "No gate is recorded.",
            ),
        ),
    )


def _digests(c: Mapping[str, Any]) -> Section:
    model, code = c["model"], c["code"]
    made: list[str | Code] = [f"expunge {code['version']}"]
    for name, value in (("commit", code["commit"]), ("lock", code["lock_digest"])):
        made += [f", {name} ", Code(value)] if value else []
    people: list[str | Code] = []
    for name in c["tickets"]:
        people += [Code(name), " "]

    def data(which: str) -> Line:
        version = c["dataset"][which]
        return (Code(version["md5"]), " at git ", Code(version["git_revision"]))

    version = "no number yet" if model["version"] is None else f"version {model['version']}"
    return Section(
        "Digests and identities",
        (
            Facts(
                "Digests and identities",
                (
                    ("Parent model", (f"version {model['parent_version']} ", Code(model["parent_digest"]))),
                    ("This model", (f"{version} ", Code(model["digest"]))),
                    ("Dataset before", data("before")),
                    ("Dataset after", data("after")),
                    ("Batch", (Code(c["batch"]),)),
                    ("People", (*people, "(pseudonyms)")),
                    (
                        "Sealed annex",
                        (Code(c["sealed_annex"]["digest"]), f" for {c['sealed_annex']['recipient']}"),
                    ),
                    ("Code", made),
                ),
            ),
        ),
    )


def _check(c: Mapping[str, Any], signed_by: str | None) -> Section:
    own = digest(c)
    signed: Line = (
        (
            "The file certificate.dsse.json is signed by key ",
            Code(signed_by),
            ". Take the public keys from the operator on another way than the evidence itself. This document is made "
            "from the certificate and is not signed: where they differ, the certificate counts.",
        )
        if signed_by
        else (
            "This certificate carries no signature: it is as trustworthy as the place that you got it and its ledger "
            "from.",
        )
    )
    command = VERIFY if signed_by else f"expunge certificate verify {c['certificate_id']}"
    return Section(
        "Verify it",
        (
            Paragraph(signed),
            Command(command),
            Paragraph(
                (
                    "This recomputes ε from the error bound, σ and δ, the error bound from the constants, the sums of "
                    "the ledger, and every digest that is at hand; it says what it could not check. The certificate's "
                    "own digest (SHA-256 of its canonical JSON), as text and as QR code:",
                )
            ),
            Paragraph((Code(own),)),
            Square(own, f"QR code of the certificate's digest, {own}"),
        ),
    )


def _entry(c: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry that issued the certificate."""
    named = (
        e
        for e in entries
        if e["certificate_id"] == c["certificate_id"] and e["kind"] in ("release", "retraining")
    )
    return next(named, None)


def _short(value: str) -> str:
    """The start of a digest, enough to find it by."""
    kind, _, rest = value.rpartition(":")
    return f"{kind}:{rest[:12]}…" if kind else f"{rest[:12]}…"
