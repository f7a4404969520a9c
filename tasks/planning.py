"""The plan: which mechanisms policy admits for the champion model, cheapest first."""

from dataclasses import replace

from expunge.datasets.partitions import read_dataset
from expunge.datasets.preprocessing import fit
from expunge.devices import chosen_device
from expunge.errors import CertificateRefusedError, WorkspaceError
from expunge.evidence.ledger import account_of, suspects_of
from expunge.mechanisms.contract import Context
from expunge.mechanisms.planner import Plan, make_plan
from expunge.models.serving import SavedModel, load_model
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build
from expunge.scratch import scratch
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.registry import Version
from tasks.coverage import catch_up, settle
from tasks.ingest import finish_import
from tasks.ledger import require_recorded
from tasks.step import log, step
from tasks.unlearning import spent


def champion_context(state: State, batch: Batch | None = None) -> tuple[Context, int]:
    """Public facts about the model that serves, as a plan needs them.

    Args:
        state: The workspace.
        batch: That is planned; None for the next one.

    Returns:
        The context and the champion's version.

    Raises:
        WorkspaceError: If no model is trained yet.
        RefusedError: If somebody else moved the alias.
    """
    registry = access.registry(state)
    champion = registry.champion()
    if champion is None:
        raise WorkspaceError(
            "there is no model yet", expected="a champion version", got="none", remedy="run `expunge train`"
        )
    require_recorded(state, champion.version)
    with scratch(state.workspace.scratch_dir) as place:
        model = load_model(registry.download(champion, place), state.workspace.root)
    # once the removal has begun, the files say nothing about what the batch began with
    begun = batch is not None and "before" in batch.data
    same_data = bool(batch.data.get("same_data", False)) if batch and begun else _lies_there(state, champion)
    spec = model.spec if same_data else _spec_of_data(state, model)
    entries = state.ledger.entries(state.lineage)
    context = Context(
        spec=spec,
        policy=state.policy,
        parameters=len(model.weights) if spec == model.spec else build(spec, state.workspace.root).size,
        training_seconds=float(model.training["seconds"]),
        training_products=int(model.training["products"]),
        records=int(model.training["records"]),
        account=account_of(entries),
        draws=batch.draws if batch else 0,
        spent=spent(batch) if batch else (),
        same_data=same_data,
        suspects=suspects_of(entries),
        search=state.workspace.root,
    )
    return context, champion.version


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
        CertificateRefusedError: If policy admits none.
        CoverageError: If nothing was said of a declared artefact that saw the people, and policy refuses that.
    """
    chosen_device()  # the first step of a batch: refused before a record is removed
    state = open_state()
    finish_import(state)  # one that was killed: a batch begins on a whole version
    batch = state.batches.get(batch_id)
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
    context, parent = champion_context(state, batch)
    made = make_plan(context)
    order = [name for name in made.order if name not in refused]
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
