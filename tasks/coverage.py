"""The coverage map of a workspace: what is made here goes on it, and what became of it is looked up, not assumed."""

import json
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path

from expunge.datasets.contract import DatasetContract
from expunge.errors import CoverageError
from expunge.evidence.certificate import Certificate, parse_certificate
from expunge.evidence.coverage import Artefact, Kind, artefact, artefact_id, coverage_rows, seen
from expunge.state import State
from expunge.tickets.batches import Batch
from expunge.tickets.lifecycle import OPEN
from expunge.tickets.purge_journal import KEPT
from tasks.adapters import access
from tasks.adapters.registry import PURGED_TAG, Version
from tasks.dataset_head import record_head

METRICS_TAG = (
    "metrics.include_removed_people"  # the first batch whose people they may include; later ones too
)


def record_dataset(state: State, md5: str) -> None:
    """Put a dataset version on the map, and record it as the newest.

    Args:
        state: The workspace.
        md5: DVC digest of the folder.
    """
    state.coverage.register(_dataset(md5))
    record_head(state, md5)


def record_model(state: State, version: Version) -> None:
    """Put a registered version on the map: its weights, what of its preprocessing comes from rows, its metrics.

    Args:
        state: The workspace.
        version: As it is registered.
    """
    before = version.tags.get("parent_version")
    parent = access.registry(state).get(int(before)) if before else None
    state.coverage.register(*_of_version(state, version, parent))


def record_curvature(state: State, version: Version, path: Path) -> None:
    """Put kept curvature on the map, before it is computed.

    Args:
        state: The workspace.
        version: The version whose curvature it is.
        path: Where it will lie.
    """
    state.coverage.register(_curvature(state, version, path))


def record_certificate(state: State, certificate: Certificate) -> None:
    """Put a certificate's sealed annex on the map: the certificate itself holds counts and pseudonyms only.

    Args:
        state: The workspace.
        certificate: As issued.
    """
    name, before = certificate.certificate_id, certificate.dataset.before.md5
    state.coverage.register(
        artefact(
            Kind.CERTIFICATE,
            f"sealed annex of {name}",
            where=f".expunge/evidence/{name}; artifacts of the MLflow run of version {certificate.model.version}",
            dataset_md5=before,
            version=certificate.model.version,
            digest=certificate.sealed_annex.digest,
            parents=[artefact_id(Kind.DATASET, before)],
        )
    )


def catch_up(state: State) -> None:
    """Put on the map what an earlier release of Expunge, or somebody by hand, has made: it is looked for.

    Args:
        state: The workspace.
    """
    workspace = state.workspace
    found = [_dataset(md5) for md5 in reversed(access.repository(state).history())]
    versions = {version.version: version for version in access.registry(state).versions()}
    for version in versions.values():
        before = version.tags.get("parent_version")
        found += _of_version(state, version, versions[int(before)] if before else None)
        digest = version.tags["model_digest"].removeprefix("sha256:")
        found += [
            _curvature(state, version, path) for path in workspace.curvature_dir.glob(f"{digest}.safetensors")
        ]
    state.coverage.register(*found)
    known = {item.digest for item in state.coverage.every() if item.kind is Kind.CERTIFICATE}
    for path in sorted(workspace.evidence_dir.glob("c-*/certificate.json")):
        certificate = parse_certificate(json.loads(path.read_text(encoding="utf-8")))
        if certificate.sealed_annex.digest not in known:
            record_certificate(state, certificate)


def settle(state: State, batch_id: str) -> None:
    """Give a batch what was said of declared artefacts; where something is missing, policy says what happens.

    Args:
        state: The workspace.
        batch_id: Of a batch from whose people nothing is removed yet.

    Raises:
        CoverageError: If nothing was said of one, and policy refuses that.
    """
    missing = _claim(state, batch_id)
    if missing and state.policy.coverage.unresolved == "refuse":
        raise CoverageError(
            "declared artefacts saw these people, and nobody has said what becomes of them",
            expected="for each, something said since the last of them asked, a certificate of at least as many people",
            got="; ".join(item.label for item in missing[:5])
            + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
            remedy="for each, `expunge coverage resolve ID` with --certificate FILE (a batch of its own in its own "
            "workspace), --status purged|recomputed --reason TEXT, or --exception REASON; then run again",
        )


def _claim(state: State, batch_id: str, only: Collection[str] | None = None) -> list[Artefact]:
    asked = [
        ticket.received_at for ticket in state.tickets.select(states=OPEN) if ticket.batch_id == batch_id
    ]
    return state.coverage.claim(batch_id, len(asked), max(asked, default=None), only)


def declared_late(state: State, batch: Batch) -> list[str]:
    """What may have seen a batch's people, and was declared only after its certificate was issued.

    Args:
        state: The workspace.
        batch: That is to be purged.

    Returns:
        Labels of what is there and not covered: the certificate does not tell of it.
    """
    path = state.workspace.evidence_dir / batch.data["certificate_id"] / "certificate.json"
    certificate = parse_certificate(json.loads(path.read_text(encoding="utf-8")))
    issued = datetime.fromisoformat(certificate.issued_at)  # whole seconds
    told = {row.artefact for row in certificate.coverage if row.status != "purged"}  # that one was made again
    late = {
        item.artefact_id: item.label
        for item in saw(state, batch)
        if item.declared
        and item.status != "purged"
        and (item.label not in told or item.made_at.replace(microsecond=0) > issued)
    }
    _claim(state, batch.batch_id, late)
    said = state.coverage.resolutions(batch.batch_id)
    return [label for name, label in late.items() if name not in said or said[name].status == "not covered"]


def saw(state: State, batch: Batch) -> list[Artefact]:
    """What may have seen a batch's people.

    Args:
        state: The workspace.
        batch: Whose people are removed.

    Returns:
        Artefacts, parents before children.
    """
    before = state.coverage.up_to(batch.data.get("map_mark", 0))  # not there in a batch of an earlier release
    return seen(state.coverage.every(), batch.data["after"]["md5"], before)


def rows_for(state: State, batch: Batch) -> list[dict[str, str]]:
    """The coverage list of a batch's certificate.

    Args:
        state: The workspace.
        batch: With its release.

    Returns:
        ``{artefact, status, reason}`` of each.
    """
    said = state.coverage.resolutions(batch.batch_id)
    return coverage_rows(
        saw(state, batch),
        said,
        exact=batch.data["release"]["guarantee"] == "exact",
        from_data=len(batch.data["from_data"]),
    )


def mark_metrics(state: State, batch_id: str, released: int) -> None:
    """Mark the metrics of every version before a release: they may include test rows of its batch's people.

    How many test rows a batch removed follows from counts that its certificate's scope names. One mark is enough for
    all later batches.

    Args:
        state: The workspace.
        batch_id: Of the batch.
        released: The version that it released.
    """
    registry = access.registry(state)
    for version in registry.versions():
        if version.version < released and METRICS_TAG not in version.tags:
            registry.mark(version, METRICS_TAG, batch_id)
    state.coverage.mark(
        [
            item.artefact_id
            for item in state.coverage.every()
            if item.kind is Kind.METRICS and item.status == "kept" and (item.version or 0) < released
        ],
        "not covered",
        f"may include test rows of people removed by {batch_id} and later batches",
        batch_id,
    )


def mark_purged(state: State, batch: Batch) -> list[str]:
    """Record what a purge has destroyed, once it is proved: each artefact's bytes are looked for.

    Args:
        state: The workspace.
        batch: Whose residue scan was clean.

    Returns:
        Ids of the artefacts that this batch's purge destroyed.
    """
    gone = {version.version for version in access.registry(state).versions() if PURGED_TAG in version.tags}
    with_weights = (Kind.MODEL, Kind.STATISTICS, Kind.VOCABULARY)
    found = saw(state, batch)
    data = [item.artefact_id for item in found if item.kind is Kind.DATASET]
    destroyed = [
        item.artefact_id
        for item in found
        if item.status != "purged"
        and (
            (item.kind in with_weights and item.version in gone)
            or (item.kind is Kind.CURVATURE and not (state.workspace.root / item.where).exists())
        )
    ]
    # A version is never wholly gone: rows of the people who stay are shared with the current one.
    left = any(entry.state == KEPT for entry in state.purges.entries(batch.batch_id))
    kept = (
        "objects that another dataset needs were kept"
        if left
        else f"rows of the people of {batch.batch_id} are destroyed in it"
    )
    state.coverage.mark(data, "kept", kept, batch.batch_id)
    state.coverage.mark(destroyed, "purged", f"by {batch.batch_id}; residue scan clean", batch.batch_id)
    return destroyed


def _dataset(md5: str) -> Artefact:
    return artefact(Kind.DATASET, md5, where="data/dataset; DVC cache and remote", dataset_md5=md5)


def _curvature(state: State, version: Version, path: Path) -> Artefact:
    md5 = _dataset_of(version)
    return artefact(
        Kind.CURVATURE,
        f"of version {version.version} of {state.lineage}",
        where=path.relative_to(state.workspace.root).as_posix(),
        dataset_md5=md5,
        version=version.version,
        digest=version.tags["model_digest"],
        parents=[artefact_id(Kind.DATASET, md5), model_id(state, version)],
    )


def _of_version(state: State, version: Version, parent: Version | None) -> Iterator[Artefact]:
    number, md5 = version.version, _dataset_of(version)
    name, digest = f"version {number} of {state.lineage}", version.tags["model_digest"]
    parents = [artefact_id(Kind.DATASET, md5)]
    for kind, columns in _from_rows(state.contract):
        made = artefact(
            kind,
            f"of {name}, for {columns} columns",
            where="build/preprocessing.json; files of the version",
            dataset_md5=md5,
            version=number,
            digest=digest,
            parents=parents[:1],
        )
        parents.append(made.artefact_id)
        yield made
    if parent is not None and version.tags["guarantee"] != "exact":
        parents.append(model_id(state, parent))
    yield artefact(
        Kind.MODEL,
        name,
        where=f"MLflow logged model {version.logged_model_id}; build/model",
        dataset_md5=md5,
        version=number,
        digest=digest,
        parents=parents,
    )
    yield artefact(
        Kind.METRICS,
        f"of {name}",
        where=f"MLflow run {version.run_id}; build/metrics.json",
        dataset_md5=md5,
        version=number,
        digest=digest,
        parents=[model_id(state, version)],
    )


def _from_rows(contract: DatasetContract) -> Iterator[tuple[Kind, int]]:
    """What of the preprocessing is computed on training rows, and for how many columns."""
    for kind, categorical in ((Kind.STATISTICS, False), (Kind.VOCABULARY, True)):
        rules = [rule for rule in contract.columns if rule.from_data]
        if columns := sum((rule.kind == "categorical") == categorical for rule in rules):
            yield kind, columns


def model_id(state: State, version: Version) -> str:
    """Id of a model version on the map.

    Args:
        state: The workspace.
        version: Which.

    Returns:
        The artefact's id.
    """
    name = f"version {version.version} of {state.lineage}"
    return artefact_id(Kind.MODEL, name, version.tags["model_digest"])


def _dataset_of(version: Version) -> str:
    return version.tags.get("dataset_after") or version.tags["dataset_md5"]
