"""Unlearning: one mechanism, one noise draw, one release on disk. Noiseless weights never leave this process."""

import secrets
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import Preprocessing, encode, fit
from expunge.devices import device_in_use
from expunge.errors import CertificateRefusedError
from expunge.evidence.annex import FIGURES_FILE, recipient, seal
from expunge.evidence.ledger import account_of
from expunge.evidence.model_files import model_digest
from expunge.evidence.public_parts import declare
from expunge.mechanisms.contract import Calibration, Context, Draw, Mechanism, Problem
from expunge.mechanisms.planner import mechanism_named
from expunge.mechanisms.release import Release, release
from expunge.models.effort import Effort, save_effort
from expunge.models.kept import load_kept
from expunge.models.parts import Parts
from expunge.models.serving import SavedModel, load_model, save_model, source_for
from expunge.models.spec import ModelSpec, require_declared
from expunge.models.zoo import build, parts_of
from expunge.residue.model_parts import refuse_rows
from expunge.scratch import scratch
from expunge.settings import ModelParams
from expunge.stages import MODEL_FOLDER
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.dataset import require_dataset
from tasks.effort import effort_of
from tasks.leases import require_leases
from tasks.parent import fetch
from tasks.policy import require_policy
from tasks.screening import require_cost
from tasks.signing import require_signer
from tasks.step import Timer, log, step


@step
def unlearn(batch_id: str, mechanism_name: str) -> str:
    """Unlearn with one mechanism and put the release on disk, whole or not at all.

    A crash before the release exists is redone from the parent with a new draw; the lost draw stays charged.

    Args:
        batch_id: Of the batch.
        mechanism_name: Which mechanism.

    Returns:
        Digest of the release.

    Raises:
        InputError: If ``EXPUNGE_DEVICE`` names no device of this machine; nothing is changed then.
        RefusedError: If the mechanism cannot state an admissible certificate, or did not converge; or the dataset is
            not the one that removal left: no noise is drawn then.
    """
    with device_in_use() as device:
        return _unlearn(batch_id, mechanism_name, device)


def _unlearn(batch_id: str, mechanism_name: str, device: torch.device) -> str:
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.VALIDATED) or (
        batch.done(BatchStage.UNLEARNED) and batch.data["mechanism"] == mechanism_name
    ):
        return str(batch.data["model_digest"])
    require_policy(state, batch)
    require_dataset(state, batch, on_disk=True)
    mechanism = mechanism_named(mechanism_name)
    declared = state.params.model
    final = state.workspace.releases_dir / batch_id
    shutil.rmtree(final, ignore_errors=True)  # of an interrupted attempt: never released, destroyed
    parent, effort = _parent(state, batch)
    require_declared(parent.spec.name, declared)
    frame = read_dataset(state.workspace.dataset_dir)
    train = frame[frame["split"] == "train"]
    preprocessing = fit(train, state.contract)
    problem = _problem(state, batch, parent, effort, preprocessing, encode(train, preprocessing), device)
    assert isinstance(problem.search, Parts)
    # made anew where a category came or went, and then nobody has looked at them yet
    refuse_rows(problem.search, problem.context.spec.hyperparameters, frame, state.contract, preprocessing)
    calibration = _require_composable(mechanism, problem.context)
    unlearned = mechanism.unlearn(problem)
    require_cost(state, batch, problem.context, unlearned)
    recipient(state.workspace.keys_dir)  # what can be missing is missed before noise is drawn
    require_signer(state)
    final.parent.mkdir(parents=True, exist_ok=True)
    require_leases(state)
    draws = batch.draws
    if calibration is not None:
        draws = state.batches.append_draw(batch_id, **asdict(calibration.draw(unlearned.failure_probability)))
    released = release(mechanism, problem, unlearned, draws=draws)
    exact = unlearned.binding == "exact"
    del unlearned
    model = SavedModel(
        spec=problem.context.spec,
        preprocessing=preprocessing,
        weights=released.weights,
        origin=released.origin,
        search=problem.search,
    )
    _write(state, batch, final, model, released)
    digest = model_digest(final / MODEL_FOLDER)
    if exact:  # a training of the retain set alone: the next forecast's yardstick
        took = Effort(released.sealed["seconds"], released.sealed["products"])
        save_effort(state.workspace.effort_dir, digest, took)
    state.batches.advance(
        batch_id,
        BatchStage.UNLEARNED,
        mechanism=mechanism_name,
        release=released.record.to_json(),
        model_digest=digest,
        public_parts=_public_parts(final / MODEL_FOLDER, declared),
        retain_records=len(train),
        from_data=list(preprocessing.from_data),
        kept_curvature=problem.kept is not None,
        device=device.type,
        seconds=timer.seconds(batch.data, "unlearning"),
    )
    log(f"batch {batch_id}: unlearned by {mechanism_name} on {device.type}")
    return digest


@step
def discard(batch_id: str, mechanism_name: str, reason: str) -> None:
    """Destroy a release that may not be registered, and rule its mechanism out for this batch.

    Args:
        batch_id: Of the batch.
        mechanism_name: That was refused.
        reason: Why, without unnoised figures.
    """
    state = open_state()
    batch = state.batches.get(batch_id)
    refused = sorted({*batch.data["refused"], mechanism_name})
    notes = [*batch.data.get("refusals", []), {"mechanism": mechanism_name, "reason": reason}]
    # ruled out before it is destroyed: a crash in between must not draw noise for it again
    state.batches.record(batch_id, refused=refused, refusals=notes)
    state.batches.step_back(batch_id)
    shutil.rmtree(state.workspace.releases_dir / batch_id, ignore_errors=True)
    log(f"batch {batch_id}: {mechanism_name} refused")


def spent(batch: Batch) -> tuple[Draw, ...]:
    """What is known of the draws that a batch has spent: discarded, lost with a process, or rolled back.

    Args:
        batch: The batch.

    Returns:
        One for each draw; of those that an earlier version counted nothing is known.
    """
    drawn = [Draw(**record) for record in batch.data.get("drawn", [])]
    return (*[Draw()] * (batch.draws - len(drawn)), *drawn)


def _require_composable(mechanism: Mechanism, context: Context) -> Calibration | None:
    """Draws are composed at this mechanism's m: no earlier one for these records may have been of a larger m."""
    calibration = mechanism.calibrate(context)
    if calibration is not None and not calibration.composes_with(context.spent):
        raise CertificateRefusedError(
            f"{mechanism.name} does not compose with an earlier draw of this batch",
            expected="draws that compose, none of a larger epsilon",
            remedy="take the mechanism and policy of that draw, or retrain",
        )
    return calibration


def _parent(state: State, batch: Batch) -> tuple[SavedModel, Effort | None]:
    registry = access.registry(state)
    version = registry.get(batch.data["parent_version"])
    with scratch(state.workspace.scratch_dir) as place:
        folder = fetch(state, version, place)
        state.batches.record(batch.batch_id, parent_digest=model_digest(folder))
        return load_model(folder, state.workspace.root), effort_of(state, version, folder)


def _problem(
    state: State,
    batch: Batch,
    parent: SavedModel,
    effort: Effort | None,
    preprocessing: Preprocessing,
    encoded: Any,
    device: torch.device,
) -> Problem:
    features = torch.from_numpy(encoded.features)
    spec = ModelSpec.from_json({**parent.spec.to_json(), "in_features": features.shape[1]})
    parts = parts_of(spec, source_for(parent, spec))
    context = Context(
        spec=spec,
        policy=state.policy,
        parameters=build(spec, parts).size,  # not the parent's: categories come and go
        training_seconds=effort.seconds if effort else 1.0,
        training_products=effort.products if effort else 0,
        records=len(features),
        account=account_of(state.ledger.entries(state.lineage)),
        draws=batch.draws,
        spent=spent(batch),
        same_data=bool(batch.data.get("same_data", False)),
        search=parts,
    )
    same = preprocessing.feature_names == parent.preprocessing.feature_names
    return Problem(
        context=context,
        features=features,
        labels=torch.from_numpy(encoded.labels),
        start=parent.weights
        if same
        else None,  # a category came or vanished: another parameter space, start at the origin
        kept=load_kept(state.workspace.curvature_dir, state.batches.get(batch.batch_id).data["parent_digest"])
        if same
        else None,
        search=parts,
        device=device,
        seed=secrets.randbits(63),
    )


def _public_parts(folder: Path, declared: ModelParams) -> list[dict[str, Any]]:
    """What the operator declared of the parts that no batch changes; nothing of a network of the catalogue."""
    if declared.source is None or declared.declared_on is None:
        return []
    return declare(folder, declared.source, declared.declared_on)


def _write(state: State, batch: Batch, final: Path, model: SavedModel, released: Release) -> None:
    with scratch(state.workspace.scratch_dir) as place:
        staging = place / "release"
        save_model(model, staging / MODEL_FOLDER)
        sealed, _ = seal({"batch": batch.batch_id, **released.sealed}, state.workspace.keys_dir)
        (staging / FIGURES_FILE).write_bytes(sealed)
        require_leases(state)
        staging.rename(final)
