"""Descriptions of the registered model and its versions in MLflow, made anew from tags and alias."""

from expunge.reports.model_page import VersionFacts, model_page, version_page
from tasks.adapters.mlflow_artifacts import translated
from tasks.adapters.registry import (
    BATCH_TAG,
    EVIDENCE_TAG,
    PURGED_TAG,
    QUARANTINE_TAG,
    ROLLED_BACK_TAG,
    UNDONE,
    Registry,
)

SUPERSEDED_TAG = "superseded.purged"  # on the version whose batch purged what was before it: when
VERDICT_TAG = "verdict"
PURGE_RECORD = "purge.json"
# What versions of an earlier release have, which were registered without a list.
_EARLIER = ("accumulated_error.png", "certificate.html", "certificate.json", "ledger.json")


@translated
def write_pages(registry: Registry, current: int | None = None) -> None:
    """Bring every page up to date; what says so already is left alone, so repeating it costs little.

    Args:
        registry: Of the lineage.
        current: The version that serves, if its alias is about to move; by default the one behind the alias.
    """
    client = registry.client
    found = list(client.search_model_versions(f"name = '{registry.name}'"))
    if not found:
        return
    if current is None:
        champion = registry.champion()
        current = champion.version if champion else None
    experiment = registry.experiment_id
    facts = {int(v.version): _facts(int(v.version), str(v.run_id), experiment, dict(v.tags)) for v in found}
    for version in found:
        page = version_page(registry.name, int(version.version), facts, current)
        if version.description != page:
            client.update_model_version(registry.name, version.version, page)
    page = model_page(registry.name, facts, current)
    if client.get_registered_model(registry.name).description != page:
        client.update_registered_model(registry.name, page)


def _facts(number: int, run: str, experiment: str, tags: dict[str, str]) -> VersionFacts:
    parent = tags.get("parent_version")
    first = "First version: nothing was unlearned yet." if parent is None else "See the certificate."
    documents = tags.get(EVIDENCE_TAG, ",".join(_EARLIER) if parent else "").split(",")
    if SUPERSEDED_TAG in tags:
        documents.append(PURGE_RECORD)
    return VersionFacts(
        number=number,
        experiment=experiment,
        run=run,
        verdict=tags.get(VERDICT_TAG, first),
        parent=int(parent) if parent else None,
        before=tags.get("dataset_before"),
        before_revision=tags.get("git_revision_before"),
        after=tags.get("dataset_after") or tags["dataset_md5"],
        after_revision=tags.get("git_revision"),
        batch=tags[BATCH_TAG].removesuffix(UNDONE) if parent else None,
        certificate=tags.get("certificate_id"),
        documents=documents,
        purged=tags.get(PURGED_TAG),
        purged_parent=tags.get(SUPERSEDED_TAG),
        rolled_back=tags.get(ROLLED_BACK_TAG),
        quarantined=tags.get(QUARANTINE_TAG),
    )
