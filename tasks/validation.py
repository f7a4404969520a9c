"""Validation: Great Expectations on the data, attacks and the utility gate on the model, the certificate gate."""

from typing import Any

from expunge.datasets.partitions import read_dataset
from expunge.errors import GateError
from expunge.evidence.annex import ANNEX_FILE, FIGURES_FILE, as_text, enclose
from expunge.files import replace_file
from expunge.models.serving import load_model
from expunge.reports.plain_words import counted
from expunge.scratch import scratch
from expunge.stages import MODEL_FOLDER, metrics
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.expectations import validate_dataset
from tasks.attack import Attacked, attack
from tasks.dataset import require_dataset
from tasks.incidents import CONTRADICTED, suspect
from tasks.policy import require_policy
from tasks.step import Timer, log, step

DATA_GATE, UTILITY_GATE, CERTIFICATE_GATE = "data expectations", "utility", "certificate"


@step
def validate(batch_id: str) -> list[str]:
    """Check data, utility and certificate of a release, and attack it.

    Args:
        batch_id: Of the batch.

    Returns:
        Names of the gates that were not passed; empty if the release may go on.

    Raises:
        RefusedError: If the dataset is not the one that removal left.
        GateError: If the dataset itself is not as it must be, or the forget set cannot be read any more: no other
            mechanism would mend that.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.VALIDATED):
        return []
    require_policy(state, batch)
    require_dataset(state, batch)
    frame = read_dataset(state.workspace.dataset_dir)
    checks = validate_dataset(
        frame,
        state.contract,
        rows_expected=batch.data["rows_before"] - batch.data["records"],
        erased=state.tickets.subject_ids(batch_id),
    )
    bad = [check["name"] for check in checks if not check["passed"]]
    if bad:
        raise GateError(
            "the new dataset version is not as it must be",
            got="; ".join(bad),
            remedy="look at the dataset, then run `expunge run` again",
        )
    measured, attacked = _measure(state, batch, frame)
    alone = _seal(state, batch, attacked)
    published = access.registry(state).published_accuracy(batch.data["parent_version"])
    drop = state.policy.gates.max_accuracy_drop
    release, admit = batch.data["release"], state.policy.admit
    certificate_ok = (
        release["guarantee"] in admit.classes
        and release["epsilon"] <= min(admit.epsilon, state.policy.ledger.composed_epsilon)
        and release["delta"] <= admit.delta
    )
    gates = [
        {"name": DATA_GATE, "passed": True, "limit": counted(len(checks), "expectation")},
        {
            "name": UTILITY_GATE,
            "passed": published - measured["accuracy"] <= drop,
            # without the figure itself: it is an earlier release's, and is not published again
            "limit": f"test accuracy at most {drop:g} below what was published with the parent",
        },
        {
            "name": CERTIFICATE_GATE,
            "passed": certificate_ok,
            "limit": f"{'/'.join(admit.classes)}, epsilon <= {admit.epsilon:g}, delta <= {admit.delta:g}",
        },
        *attacked.gates,
    ]
    failed = [str(gate["name"]) for gate in gates if not gate["passed"]]
    spent = timer.seconds(batch.data, "validation")
    if failed:
        tried = {**batch.data.get("attempts", {}), f"{release['mechanism']}, {batch.draws}": as_text(alone)}
        state.batches.record(batch_id, seconds=spent, attempts=tried)
        if attacked.contradicted:
            suspect(state, batch)
            failed.append(CONTRADICTED)
        log(f"batch {batch_id}: gates not passed: {', '.join(failed)}")
        return failed
    state.batches.advance(
        batch_id,
        BatchStage.VALIDATED,
        gates=gates,
        metrics=measured,
        parent_accuracy=published,
        seconds=spent,
    )
    return []


def _measure(state: State, batch: Batch, frame: Any) -> tuple[dict[str, float], Attacked]:
    """Test metrics of the release, and the attacks on it and, for the annex alone, on its parent."""
    registry = access.registry(state)
    released = load_model(state.workspace.releases_dir / batch.batch_id / MODEL_FOLDER, state.workspace.root)
    with scratch(state.workspace.scratch_dir) as place:
        folder = registry.download(registry.get(batch.data["parent_version"]), place)
        parent = load_model(folder, state.workspace.root)
    return metrics(released, frame), attack(state, batch, frame, released, parent)


def _seal(state: State, batch: Batch, attacked: Attacked) -> bytes:
    """Put what the attacks found into the annex, around the mechanism's figures; repeating it makes it anew.

    Returns:
        The same without the annexes of releases that were discarded before, in case that this one is.
    """
    folder = state.workspace.releases_dir / batch.batch_id
    figures, annex = folder / FIGURES_FILE, folder / ANNEX_FILE
    if not figures.exists():  # unlearned by an earlier release of Expunge
        annex.rename(figures)
    inner, keys = figures.read_bytes(), state.workspace.keys_dir
    sealed, _ = enclose(inner, attacked.sealed, list(batch.data.get("attempts", {}).values()), keys)
    replace_file(annex, sealed)
    return enclose(inner, attacked.sealed, [], keys)[0]
