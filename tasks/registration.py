"""Registration: the MLflow version with its evidence and lineage; the alias moves last."""

import json
from typing import Any

from expunge.datasets.preprocessing import synthetic_example
from expunge.errors import VerificationError
from expunge.evidence.bundle import STAMP_FILE
from expunge.evidence.ledger_file import parse_ledger
from expunge.models.serving import load_model
from expunge.reports.plain_words import bound, verdict
from expunge.reports.plots import accumulated_error_plot
from expunge.stages import MODEL_FOLDER, install_model
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.mlflow_runs import DatasetRef, VersionSpec
from tasks.adapters.model_pages import VERDICT_TAG, write_pages
from tasks.coverage import mark_metrics, record_model
from tasks.ledger import record_move
from tasks.signing import SIGNED_FILES
from tasks.step import Timer, log, step


@step
def register(batch_id: str) -> int:
    """Register a certified release, then let it serve.

    Args:
        batch_id: Of the batch.

    Returns:
        The version's number.

    Raises:
        VerificationError: If MLflow gave another number than the certificate names.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.REGISTERED):
        return int(batch.data["model_version"])
    registry = access.registry(state)
    version = registry.register(_spec(state, batch))
    if version.version != batch.data["certificate"]["model"]["version"]:
        raise VerificationError(
            "MLflow gave another version number than the certificate names",
            expected=str(batch.data["certificate"]["model"]["version"]),
            got=str(version.version),
            remedy="let only `expunge run` register versions of this model",
        )
    record_model(state, version)
    mark_metrics(state, batch_id, version.version)
    released = state.workspace.releases_dir / batch_id / MODEL_FOLDER
    install_model(released, state.workspace, {"accuracy": batch.data["metrics"]["accuracy"]})
    access.repository(state).commit_stages(f"Release version {version.version} ({batch_id})")
    served, name = batch.data["parent_version"], batch.data["certificate_id"]
    record_move(state, served, version.version, batch=batch_id, certificate_id=name)
    registry.promote(version.version)
    write_pages(registry)
    state.batches.advance(
        batch_id,
        BatchStage.REGISTERED,
        model_version=version.version,
        seconds=timer.seconds(batch.data, "registration"),
    )
    log(f"batch {batch_id}: version {version.version} of {state.lineage} serves")
    return version.version


def _spec(state: State, batch: Batch) -> VersionSpec:
    data, certificate = batch.data, batch.data["certificate"]
    folder = state.workspace.releases_dir / batch.batch_id / MODEL_FOLDER
    evidence = state.workspace.evidence_dir / data["certificate_id"]
    model = load_model(folder, state.workspace.root)
    example = synthetic_example(model.preprocessing)
    plot = evidence / "accumulated_error.png"
    entries = parse_ledger(json.loads((evidence / "ledger.json").read_text(encoding="utf-8"))).entries
    limit = certificate["sequential"]["limits"]["accumulated_error"]
    plot.write_bytes(accumulated_error_plot([entry.to_json() for entry in entries], limit))
    return VersionSpec(
        model_dir=folder,
        example=example,
        output=model.predict(example),
        batch=batch.batch_id,
        run_name=f"erase {batch.batch_id}",
        tags=_tags(certificate),
        # a batch that an earlier release validated has the parent's among them, measured without noise
        metrics={name: value for name, value in data["metrics"].items() if name != "parent_accuracy"},
        params={
            "model": model.spec.name,
            "mechanism": data["mechanism"],
            "l2": model.spec.l2,
            "device": data["device"],
        },
        before=DatasetRef(data["before"]["md5"], data["before"]["git_revision"]),
        after=DatasetRef(data["after"]["md5"], data["after"]["git_revision"]),
        artifacts={
            name: evidence / name
            for name in (
                "certificate.json",
                "certificate.html",
                "certificate.pdf",
                "ledger.json",
                "accumulated_error.png",
                "annex.sealed",
                *SIGNED_FILES,
                STAMP_FILE,
            )
            if (evidence / name).exists()  # a stamp only where policy wants one
        },
        documents={"gates.json": certificate["validation"]},
    )


def _tags(certificate: dict[str, Any]) -> dict[str, str]:
    c, s = certificate, certificate["sequential"]
    return {
        "epsilon": bound(c["epsilon"]),
        "delta": bound(c["delta"]),
        "guarantee": c["guarantee"],
        "mechanism": c["mechanism"],
        "accumulated_error": bound(s["accumulated_error"]),
        "composed_epsilon": bound(s["composed_epsilon"]),
        "dataset_before": c["dataset"]["before"]["md5"],
        "dataset_after": c["dataset"]["after"]["md5"],
        "git_revision_before": c["dataset"]["before"]["git_revision"],
        "git_revision": c["dataset"]["after"]["git_revision"],
        VERDICT_TAG: verdict(c),
        "parent_version": str(c["model"]["parent_version"]),
        "certificate_id": c["certificate_id"],
        "model_digest": c["model"]["digest"],
    }
