"""What MLflow's pages of a model say: its state, and every piece of evidence one click away. Text only, in Markdown.

A page is made anew from facts that the registry keeps, so making it twice does no harm and whoever was killed in
between leaves nothing that the next making does not put right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Files of a version's run, in the order in which an auditor reads them.
DOCUMENTS = {
    "certificate.html": "certificate, for people",
    "certificate.pdf": "certificate, as PDF",
    "certificate.json": "certificate, for programs",
    "certificate.dsse.json": "certificate, signed",
    "ledger.json": "ledger up to this version",
    "accumulated_error.png": "accumulated error, as a picture",
    "gates.json": "validation gates",
    "purge.json": "purge record",
}


@dataclass(frozen=True)
class VersionFacts:
    """What the registry knows of a version.

    Args:
        number: Of the version.
        experiment: Id of the experiment of its run.
        run: Id of its run.
        verdict: The certificate in a sentence, or what the first version is.
        parent: The version that it was unlearned from; None for the first.
        before: Digest of the dataset before the removal; None for the first.
        before_revision: Git commit of it.
        after: Digest of the dataset that it was trained on or unlearned to.
        after_revision: Git commit of it.
        batch: That registered it; None for the first.
        certificate: Id of its certificate; None for the first.
        documents: Names of the files of its run.
        purged: When its weights were destroyed.
        purged_parent: When the purge of its own batch was done.
        rolled_back: When another version took over again.
        quarantined: Until when its weights are kept, out of use.
    """

    number: int
    experiment: str
    run: str
    verdict: str
    after: str
    after_revision: str | None = None
    parent: int | None = None
    before: str | None = None
    before_revision: str | None = None
    batch: str | None = None
    certificate: str | None = None
    documents: Sequence[str] = field(default_factory=tuple)
    purged: str | None = None
    purged_parent: str | None = None
    rolled_back: str | None = None
    quarantined: str | None = None


def version_page(name: str, number: int, versions: Mapping[int, VersionFacts], current: int | None) -> str:
    """The page of a version.

    Args:
        name: Of the registered model.
        number: Of the version.
        versions: Every version by number.
        current: The version that serves.

    Returns:
        Markdown.
    """
    v = versions[number]
    children = [other for other in versions.values() if other.parent == number]
    lines = [f"**{v.verdict}**", "", f"- State: {_state(v, current)}"]
    if v.parent is None:
        lines.append("- Parent: none, this is the first version")
    else:
        lines.append(f"- Parent: {_version_link(name, v.parent)}")
    lines += [f"- Child: {_version_link(name, child.number)}{_undone(child)}" for child in children]
    if not children:
        lines.append("- Child: none yet")
    lines += _dataset(v)
    if v.batch is not None:
        lines.append(f"- Batch: `{v.batch}`, in [its run]({run_link(v)})")
    lines += [
        f"- {label[0].upper()}{label[1:]}: [{file}]({run_link(v)}/artifacts/{file})"
        for file, label in DOCUMENTS.items()
        if file in v.documents
    ]
    if v.parent is not None:
        lines.append(f"- Purge: {_purge(v, versions)}")
    if v.certificate is not None:
        told = (
            "Whoever may write here can edit this page and its tags: trust what verifies, not what they say."
        )
        lines += ["", f"Verify: `expunge certificate verify {v.certificate}`. {told}"]
    return "\n".join(lines)


def model_page(name: str, versions: Mapping[int, VersionFacts], current: int | None) -> str:
    """The page of the registered model: which version is current, which are purged and when, which were undone.

    Args:
        name: Of the registered model.
        versions: Every version by number.
        current: The version that serves.

    Returns:
        Markdown.
    """
    serving = _version_link(name, current) if current in versions else "none yet"
    lines = [
        f"**Current: {serving}.** Models with certified unlearning: each version names what it was made from,",
        "what it has unlearned, and where the evidence is.",
        "",
        "| Version | Parent | State |",
        "|---|---|---|",
    ]
    for number in sorted(versions, reverse=True):
        v = versions[number]
        parent = "none" if v.parent is None else _version_link(name, v.parent)
        lines.append(f"| {_version_link(name, number)} | {parent} | {_state(v, current)} |")
    return "\n".join(lines)


def run_link(v: VersionFacts) -> str:
    """Address of a version's run inside MLflow's pages.

    Args:
        v: The version.

    Returns:
        A link that works whatever the server is called.
    """
    return f"#/experiments/{v.experiment}/runs/{v.run}"


def _version_link(name: str, number: int | None) -> str:
    return f"[version {number}](#/models/{name}/versions/{number})"


def _state(v: VersionFacts, current: int | None) -> str:
    """The worst that is true comes first: what is purged cannot serve, what was undone proves nothing."""
    found = []
    if v.number == current:
        found.append("current")
    elif v.rolled_back is None:
        found.append(
            "superseded" if current is not None and v.number < current else "registered, not serving"
        )
    if v.rolled_back is not None:
        found.append(f"rolled back at {v.rolled_back}")
    if v.purged is not None:
        found.append(f"weights purged at {v.purged}")
    elif v.quarantined is not None and v.number != current:
        found.append(f"weights out of use, to be purged at {v.quarantined}")
    elif v.number != current:
        found.append("weights not purged yet")
    return ", ".join(found)


def _undone(v: VersionFacts) -> str:
    return f" (rolled back at {v.rolled_back})" if v.rolled_back is not None else ""


def _dataset(v: VersionFacts) -> list[str]:
    after = f"[`{v.after}`]({run_link(v)}){_at(v.after_revision)}"
    if v.before is None:
        return [f"- Dataset: {after}"]
    before = f"[`{v.before}`]({run_link(v)}){_at(v.before_revision)}"
    return [f"- Dataset before: {before}", f"- Dataset after: {after}"]


def _at(revision: str | None) -> str:
    return f" at git `{revision}`" if revision else ""


def _purge(v: VersionFacts, versions: Mapping[int, VersionFacts]) -> str:
    parent = versions.get(v.parent or 0)
    if v.rolled_back is not None:
        return "none, this version was rolled back before its purge"
    if v.purged_parent is None:
        return "not yet"
    at = v.purged_parent if parent is None or parent.purged is None else parent.purged
    return f"superseded weights of version {v.parent} purged at {at}, record in artifacts"
