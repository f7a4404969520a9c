"""Validation: Great Expectations on the data, the utility gate on the model, the certificate gate on the figures."""

from typing import Any

from expunge.datasets.partitions import read_dataset
from expunge.errors import GateError
from expunge.models.serving import load_model
from expunge.scratch import scratch
from expunge.stages import MODEL_FOLDER, metrics
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.expectations import validate_dataset
from tasks.dataset import require_dataset
from tasks.step import Timer, log, step

DATA_GATE, UTILITY_GATE, CERTIFICATE_GATE = "data expectations", "utility", "certificate"


@step
def validate(batch_id: str) -> list[str]:
    """Check data, utility and certificate of a release.

    Args:
        batch_id: Of the batch.

    Returns:
        Names of the gates that were not passed; empty if the release may go on.

    Raises:
        RefusedError: If the dataset is not the one that removal left.
        GateError: If the dataset itself is not as it must be: no other mechanism would mend that.
    """
    state, timer = open_state(), Timer()
    batch = state.batches.get(batch_id)
    if batch.done(BatchStage.VALIDATED):
        return []
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
    measured = _measure(state, batch, frame)
    drop, limit = measured["parent_accuracy"] - measured["accuracy"], state.policy.gates.max_accuracy_drop
    release, admit = batch.data["release"], state.policy.admit
    certificate_ok = (
        release["guarantee"] in admit.classes
        and release["epsilon"] <= min(admit.epsilon, state.policy.ledger.composed_epsilon)
        and release["delta"] <= admit.delta
    )
    gates = [
        {"name": DATA_GATE, "passed": True, "limit": f"{len(checks)} expectations"},
        {"name": UTILITY_GATE, "passed": drop <= limit, "limit": f"test accuracy drops by at most {limit:g}"},
        {
            "name": CERTIFICATE_GATE,
            "passed": certificate_ok,
            "limit": f"{'/'.join(admit.classes)}, epsilon <= {admit.epsilon:g}, delta <= {admit.delta:g}",
        },
    ]
    failed = [str(gate["name"]) for gate in gates if not gate["passed"]]
    spent = timer.seconds(batch.data, "validation")
    if failed:
        state.batches.record(batch_id, seconds=spent)
        log(f"batch {batch_id}: gates not passed: {', '.join(failed)}")
        return failed
    state.batches.advance(batch_id, BatchStage.VALIDATED, gates=gates, metrics=measured, seconds=spent)
    return []


def _measure(state: State, batch: Batch, frame: Any) -> dict[str, float]:
    """Test metrics of the release and of its parent on the same rows."""
    registry = access.registry(state)
    released = load_model(state.workspace.releases_dir / batch.batch_id / MODEL_FOLDER, state.workspace.root)
    with scratch(state.workspace.scratch_dir) as place:
        folder = registry.download(registry.get(batch.data["parent_version"]), place)
        before = metrics(load_model(folder, state.workspace.root), frame)
    return {**metrics(released, frame), "parent_accuracy": before["accuracy"]}
