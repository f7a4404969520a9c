"""The coverage map: artefacts that saw people, with their lineage, and what a certificate says of each.

Nobody computes who was read by what. An artefact saw a person if it was on the map before the removal, or if it, or an
ancestor of it, was made from a dataset version before the removal: every earlier one may have held the person.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from typing import Any, Literal

ArtefactStatus = Literal["kept", "purged", "not covered"]
ResolvedStatus = Literal["covered", "recomputed", "not covered"]


class Kind(StrEnum):
    """What an artefact is."""

    DATASET = "dataset-version"
    STATISTICS = "preprocessing-statistics"
    VOCABULARY = "category-vocabularies"
    MODEL = "model-version"
    CURVATURE = "kept-curvature"
    EFFORT = "training-effort"
    METRICS = "test-metrics"
    CERTIFICATE = "certificate"
    CHECKPOINT = "checkpoint"
    BUFFERS = "buffers"
    OPTIMISER = "optimiser-state"
    SELECTION = "selection-set"
    EMBEDDING = "embedding"
    FEATURES = "feature-cache"
    DERIVED = "derived-model"
    EXPORT = "export"
    OTHER = "other"

    @property
    def label(self) -> str:
        """In words."""
        return self.value.replace("-", " ")


# Made by Expunge itself, which registers and purges them; all others are declared by people.
OWN = tuple(Kind)[: tuple(Kind).index(Kind.CHECKPOINT)]
DECLARABLE = tuple(kind for kind in Kind if kind not in OWN)
CERTIFIABLE = (Kind.CHECKPOINT, Kind.DERIVED)  # models: a certificate speaks of a model's weights


@dataclass(frozen=True)
class Artefact:
    """Something that saw people.

    Args:
        artefact_id: ``a-`` and 12 hexadecimal digits, of kind, name and digest: made twice it is one.
        kind: What it is.
        name: Unique with kind and digest; without personal data.
        where: Places, workspace-relative or in MLflow, joined by ``; ``.
        dataset_md5: The dataset version it was made from; None where its parents tell.
        version: The model version it belongs to.
        digest: Of its bytes, where known.
        parents: Ids of what it was made from.
        declared: Whether a person told of it: Expunge cannot see it.
        made_at: UTC.
        status: What became of it.
        reason: Why, or how that is known.
        batch_id: The batch that changed the status.
    """

    artefact_id: str
    kind: Kind
    name: str
    where: str
    dataset_md5: str | None
    version: int | None
    digest: str | None
    parents: tuple[str, ...]
    declared: bool
    made_at: datetime
    status: ArtefactStatus = "kept"
    reason: str = ""
    batch_id: str | None = None

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"{self.kind.label} {self.name} ({self.artefact_id})"

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return {
            **asdict(self),
            "kind": str(self.kind),
            "parents": list(self.parents),
            "made_at": self.made_at.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True)
class Resolution:
    """What a person said of a declared artefact, for one batch.

    Args:
        artefact_id: Of the artefact.
        status: As the certificate will state it.
        reason: Of the statement.
        certificate_id: Another workspace's certificate that it rests on, and
        people: how many people that one is about.
        standing: Whether it serves every batch to come.
        batch_id: The batch that took it; None while it waits for the next.
    """

    artefact_id: str
    status: ResolvedStatus
    reason: str
    certificate_id: str | None = None
    people: int | None = None
    standing: bool = False
    batch_id: str | None = None


def artefact(
    kind: Kind,
    name: str,
    *,
    where: str = "",
    dataset_md5: str | None = None,
    version: int | None = None,
    digest: str | None = None,
    parents: Iterable[str] = (),
    declared: bool = False,
) -> Artefact:
    """A new artefact, with its id and the moment.

    Args:
        kind: What it is.
        name: Without personal data.
        where: Where it lies.
        dataset_md5: What it was made from.
        version: Model version it belongs to.
        digest: Of its bytes.
        parents: Ids of what it was made from.
        declared: Whether a person told of it.

    Returns:
        The artefact.
    """
    return Artefact(
        artefact_id=artefact_id(kind, name, digest),
        kind=kind,
        name=name,
        where=where,
        dataset_md5=dataset_md5,
        version=version,
        digest=digest,
        parents=tuple(parents),
        declared=declared,
        made_at=datetime.now(UTC),
    )


def artefact_id(kind: Kind, name: str, digest: str | None = None) -> str:
    """The id of an artefact.

    Args:
        kind: What it is.
        name: Its name.
        digest: Of its bytes, where known.

    Returns:
        ``a-`` and 12 hexadecimal digits.

    Example:
        >>> artefact_id(Kind.DATASET, "1.dir") == artefact_id(Kind.DATASET, "1.dir")
        True
    """
    return f"a-{sha256(chr(0).join((kind, name, digest or '')).encode()).hexdigest()[:12]}"


def seen(artefacts: Sequence[Artefact], after: str, before: Collection[str] = ()) -> list[Artefact]:
    """The artefacts that may have seen the people who left with a dataset version.

    Args:
        artefacts: All, in the order they were registered: parents before children.
        after: Digest of the first dataset version without the people.
        before: Ids of what was on the map before the removal: a version may come back, and then their order tells
            nothing of what was made in between.

    Returns:
        Those, what was made from an earlier version, and their descendants. A version that is not on the map counts
        as earlier.
    """
    versions = [item.dataset_md5 for item in artefacts if item.kind is Kind.DATASET]
    without = set(versions[versions.index(after) :]) if after in versions else {after}
    found: dict[str, Artefact] = {}
    for item in artefacts:
        direct = item.dataset_md5 is not None and item.dataset_md5 not in without
        if direct or item.artefact_id in before or any(parent in found for parent in item.parents):
            found[item.artefact_id] = item
    return list(found.values())


_PROOF = "destroyed after registration; proved by this batch's purge entry in the ledger"
_GONE = "destroyed by earlier batches; proved by their purge entries in the ledger"
# What Expunge never makes: not present, unless somebody declared one.
_NEVER_MADE = (
    (Kind.BUFFERS, "buffers (running statistics)", "models with buffers are refused"),
    (Kind.OPTIMISER, "optimiser state", "none is kept"),
    (Kind.CHECKPOINT, "checkpoints", "none is kept"),
    (Kind.SELECTION, "early stopping and selection sets", "none is used: training ends by its tolerance"),
    (Kind.FEATURES, "feature caches and cached gradients", "none is kept"),
    (Kind.EMBEDDING, "embeddings", "none is kept"),
    (Kind.DERIVED, "derived and fine-tuned models", "none was declared"),
    (Kind.EXPORT, "exports", "none that holds a row is made"),
)
_ALWAYS = (
    ("input example of the registered model", "not present", "made up from preprocessing constants"),
    ("noiseless unlearned weights", "not present", "held in memory only, never written"),
    (
        "attacks' shadow models and rows of the forget set",
        "not present",
        "held in memory only, never written",
    ),
    (
        "subject ids in the tickets database",
        "purge pending",
        "erased when the tickets close, free pages too",
    ),
    (
        "earlier releases that someone copied, models derived from them",
        "not covered",
        "those that nobody declared are out of reach from here",
    ),
    (
        "the source file given to `expunge init`",
        "not covered",
        "outside the workspace: the controller's to delete",
    ),
    ("timing and choice of mechanism", "not covered", "visible to operators; depends on the forget set"),
)


_READERS = "the auditor alone can read"
_OPEN = "whoever runs this workspace can read: the auditor's private key lay in it when this was issued"
_UNSEEN = (
    "folder behind MLflow's tracking server",
    "not covered",
    "nobody here looked into it: that it keeps nothing of what was deleted is the operator's word",
)


def coverage_rows(
    saw: Sequence[Artefact],
    resolutions: Mapping[str, Resolution],
    *,
    exact: bool,
    from_data: int,
    annex_open: bool,
    artifacts_seen: bool,
) -> list[dict[str, str]]:
    """What became of each artefact that may have seen a batch's people, as far as that is true at issue.

    Args:
        saw: Artefacts that may have seen them.
        resolutions: What was said of declared ones, by id.
        exact: Whether the release was retrained.
        from_data: How many columns' constants the released model takes from the retain set.
        annex_open: Whether the auditor's private key lies in the workspace.
        artifacts_seen: Whether the folders of MLflow's artifacts were looked into.

    Returns:
        ``{artefact, status, reason}`` of each.
    """
    weights = (
        ("recomputed", "trained from scratch on the retain set")
        if exact
        else ("covered", "by epsilon and delta of this certificate")
    )
    statistics = (
        ("recomputed", f"from the retain set, for {from_data} columns")
        if from_data
        else ("not present", "all constants are public, in the contract")
    )
    declared = [item for item in saw if item.declared]
    readers = _OPEN if annex_open else _READERS
    rows = [
        ("released weights", *weights),
        ("preprocessing statistics and categories", *statistics),
        (
            "rows in the current dataset version",
            "purged",
            "partitions rewritten; checked by data expectations",
        ),
        *_own_rows(saw, readers),
        *(_declared_row(item, resolutions.get(item.artefact_id)) for item in declared),
        *((a, "not present", r) for kind, a, r in _NEVER_MADE if kind not in {d.kind for d in declared}),
        (
            "sealed annex of this certificate",
            "not covered",
            "holds figures and attack scores computed from these people's rows, no row; kept as evidence that "
            f"{readers}",
        ),
        *_ALWAYS,
        *([] if artifacts_seen else [_UNSEEN]),
    ]
    return [{"artefact": a, "status": s, "reason": r} for a, s, r in rows]


def _own_rows(saw: Sequence[Artefact], readers: str) -> list[tuple[str, str, str]]:
    """Rows on what Expunge made: as many after a thousand batches as after one."""

    def of(*kinds: Kind, purged: bool = False) -> list[Artefact]:
        return [item for item in saw if item.kind in kinds and (item.status == "purged") == purged]

    rows = []
    if data := of(Kind.DATASET):
        count = f"{len(data)} version{'s' if len(data) != 1 else ''}"
        rows.append(
            ("rows in earlier dataset versions (cache, remote)", "purge pending", f"{count}; {_PROOF}")
        )
    for what, kinds in (
        ("weights", (Kind.MODEL,)),
        ("preprocessing statistics and categories", (Kind.STATISTICS, Kind.VOCABULARY)),
    ):
        if live := of(*kinds):
            rows.append((f"{what} of {_versions(live)}", "purge pending", _PROOF))
        if gone := of(*kinds, purged=True):
            rows.append((f"{what} of {_versions(gone)}", "purged", _GONE))
    rows.append(
        ("curvature kept from the parent's release", "purge pending", f"served this release alone; {_PROOF}")
        if of(Kind.CURVATURE)
        else ("curvature kept from the parent's release", "not present", "none was kept")
    )
    if of(Kind.CURVATURE, purged=True):
        rows.append(("curvature kept from earlier releases", "purged", _GONE))
    for items, status, reason in (
        (of(Kind.EFFORT), "purge pending", f"for the operator's forecast alone; {_PROOF}"),
        (of(Kind.EFFORT, purged=True), "purged", _GONE),
    ):
        if items:
            rows.append((f"time and work that the training of {_versions(items)} took", status, reason))
    if metrics := of(Kind.METRICS):
        rows.append(
            (
                f"test metrics of {_versions(metrics)} in MLflow",
                "not covered",
                "measured on test rows that may have been theirs; marked so, an aggregate, kept as evidence",
            )
        )
    if annexes := of(Kind.CERTIFICATE):
        rows.append(
            (
                f"sealed annexes of {len(annexes)} earlier certificate{'s' if len(annexes) != 1 else ''}",
                "not covered",
                f"hold figures computed from rows of that time, no row; {readers}",
            )
        )
    return rows


def _declared_row(item: Artefact, said: Resolution | None) -> tuple[str, str, str]:
    if item.status == "purged":
        return item.label, "purged", item.reason
    if said is None:
        return item.label, "not covered", "declared, and nobody has said what became of it"
    return item.label, said.status, said.reason


def _versions(items: Iterable[Artefact]) -> str:
    """Model versions as people count them: ``versions 1 to 3, 5``."""
    numbers = sorted({item.version for item in items if item.version is not None})
    starts = numbers[:1] + [b for a, b in pairwise(numbers) if b != a + 1]
    ends = [a for a, b in pairwise(numbers) if b != a + 1] + numbers[-1:]
    parts = [str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"
