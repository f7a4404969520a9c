"""The plan: which mechanisms policy admits for the champion model, cheapest first."""

from dataclasses import replace

from expunge.datasets.partitions import count_training_rows, read_dataset
from expunge.datasets.preprocessing import fit
from expunge.devices import chosen_device
from expunge.errors import CertificateRefusedError, WorkspaceError
from expunge.evidence.ledger import account_of, suspects_of
from expunge.mechanisms.contract import Context
from expunge.mechanisms.planner import EXACT, Plan, make_plan
from expunge.models.serving import SavedModel, load_model, source_for
from expunge.models.spec import ModelSpec, is_own, require_declared
from expunge.models.zoo import build, parts_of
from expunge.residue.model_parts import refuse_rows
from expunge.scratch import scratch
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.registry import Version
from tasks.coverage import catch_up, settle
from tasks.effort import effort_of
from tasks.ingest import finish_import
from tasks.ledger import require_recorded
from tasks.lineages import on_the_same_people
from tasks.parent import fetch, from_recorded_parent
from tasks.policy import pin
from tasks.step import log, step, warn
from tasks.unlearning import spent


def champion_context(state: State, batch: Batch | None = None) -> tuple[Context, int]:
    """Facts about the model that serves, as a plan needs them.

    Args:
        state: The workspace.
        batch: That is planned; None for the next one.

    Returns:
        The context and the champion's version.

    Raises:
        WorkspaceError: If no model is trained yet; or if artifacts lie where no purge could vouch for them.
        RefusedError: If somebody else moved the alias.
        PolicyError: If nobody declared a model of own code to be public.
        CertificateRefusedError: If a part of it that no batch changes holds a row of the dataset.
        VerificationError: If its files are not those that were registered.
    """
    registry = access.registry(state)
    champion = registry.champion()
    if champion is None:
        raise WorkspaceError(
            "there is no model yet", expected="a champion version", got="none", remedy="run `expunge train`"
        )
    require_recorded(state, champion.version)
    registry.require_artifacts_seen()  # of the version that should serve, and no purged one
    with scratch(state.workspace.scratch_dir) as place:
        folder = fetch(state, champion, place)
        model, effort = load_model(folder, state.workspace.root), effort_of(state, champion, folder)
    _require_public(state, model)
    # once the removal has begun, the files say nothing about what the batch began with
    begun = batch is not None and "before" in batch.data
    same_data = bool(batch.data.get("same_data", False)) if batch and begun else _lies_there(state, champion)
    spec = model.spec if same_data else _spec_of_data(state, model)
    entries = state.ledger.entries(state.lineage)
    context = Context(
        spec=spec,
        policy=state.policy,
        parameters=len(model.weights) if spec == model.spec else build(spec, source_for(model, spec)).size,
        training_seconds=effort.seconds if effort else 1.0,
        training_products=effort.products if effort else 0,
        records=count_training_rows(state.workspace.dataset_dir),
        account=account_of(entries),
        draws=batch.draws if batch else 0,
        spent=spent(batch) if batch else (),
        same_data=same_data,
        suspects=suspects_of(entries),
        search=source_for(model, spec),
    )
    return context, champion.version


def _require_public(state: State, model: SavedModel) -> None:
    """Own parts, which no batch changes: declared to be public, and without a row of the dataset."""
    require_declared(model.spec.name, state.params.model)
    if is_own(model.spec.name):
        frame = read_dataset(state.workspace.dataset_dir)
        parts = parts_of(model.spec, model.search)
        refuse_rows(parts, model.spec.hyperparameters, frame, state.contract, model.preprocessing)


def _lies_there(state: State, champion: Version) -> bool:
    """Whether the dataset is the version that a model saw: people may have come or gone, committed or not."""
    repo, tags = access.repository(state), champion.tags
    return (
        tags.get("dataset_after", tags.get("dataset_md5")) == repo.current().md5 and repo.is_tracked_clean()
    )


def _spec_of_data(state: State, model: SavedModel) -> ModelSpec:
    """The model on the data that lie there: an import may have brought a category, and with it weights."""
    frame = read_dataset(state.workspace.dataset_dir)
    train = frame[frame["split"] == "train"]
    return replace(model.spec, in_features=len(fit(train, state.contract).feature_names))


def plan_for(state: State) -> tuple[Plan, Context]:
    """The plan for the next batch; changes nothing.

    Args:
        state: The workspace.

    Returns:
        Plan and context.
    """
    context, _ = champion_context(state)
    return make_plan(context), context


@step
def plan(batch_id: str) -> list[str]:
    """Plan a batch; once it has begun the order of mechanisms is kept for resuming, until none of it is left.

    Args:
        batch_id: Of the batch.

    Returns:
        Names of the admissible mechanisms that were not refused yet, cheapest first.

    Raises:
        InputError: If ``EXPUNGE_DEVICE`` names no device of this machine.
        RefusedError: If policy was changed since the batch began; or if the clock is behind the ledger by a day.
        CertificateRefusedError: If policy admits none.
        CoverageError: If nothing was said of a declared artefact that saw the people, and policy refuses that.
    """
    chosen_device()  # the first step of a batch: refused before a record is removed
    state = open_state()
    state.ledger.now(
        state.lineage
    )  # what is removed is certified and purged: refused now, if it could not be dated
    finish_import(state)  # one that was killed: a batch begins on a whole version
    batch = pin(state, from_recorded_parent(state, state.batches.get(batch_id)))
    catch_up(state)
    refused = batch.data.get("refused", [])
    # what is validated goes on: another batch may have made its mechanism suspect since
    done = batch.done(BatchStage.VALIDATED)
    suspects = {} if done else suspects_of(state.ledger.entries(state.lineage))
    order = [name for name in batch.data.get("order", []) if name not in refused and name not in suspects]
    if order and batch.stage is not BatchStage.PLANNED:
        return order
    if batch.stage is BatchStage.PLANNED:
        settle(state, batch_id)
        for line in on_the_same_people(state):
            warn(line)
    context, parent = champion_context(state, batch)
    made = make_plan(context)
    order = [name for name in made.order if name not in refused and (name in EXACT or not batch.trains)]
    if not order:
        reasons = [f"{a.mechanism}: {a.refusal}" for a in made.assessments if a.refusal]
        reasons += [f"{note['mechanism']}: {note['reason']}" for note in batch.data.get("refusals", [])]
        raise CertificateRefusedError(
            "no mechanism is left that policy admits",
            expected="at least one",
            got="; ".join(reasons),
            remedy="admit the class exact in policy.yaml, or change what the reasons name, and run again",
        )
    state.batches.record(
        batch_id, order=order, parent_version=parent, refused=refused, same_data=context.same_data
    )
    log(f"batch {batch_id}: {', then '.join(order)}")
    return order
