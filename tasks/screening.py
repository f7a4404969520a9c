"""Guards: data that were made to slow unlearning down, or to poison the model, go to exact retraining, with an alarm.

Which guard struck is one public bit that depends on the forget set; the certificate's scope does not cover it.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from expunge.datasets.partitions import read_dataset, rows_of
from expunge.datasets.preprocessing import encode
from expunge.devices import device_in_use
from expunge.errors import CertificateRefusedError, GateError
from expunge.gates.influence import gradient_norms, is_outlier
from expunge.mechanisms.contract import Context, Unlearned
from expunge.mechanisms.planner import EXACT
from expunge.models.serving import SavedModel, load_model
from expunge.scratch import scratch
from expunge.settings import GuardsPolicy
from expunge.state import State, open_state
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.alarms import alarm_of_batch
from tasks.policy import require_policy
from tasks.step import log, step

_OTHERS = 2000  # rows of other people that tell what is usual
ROWS, GRADIENT, COST = "rows of one person", "rows that pull unusually hard", "cost of unlearning"


@step
def screen(batch_id: str) -> list[str]:
    """Look at the people of a batch before anything is removed.

    Args:
        batch_id: Of the batch.

    Returns:
        Which guards struck: the batch is retrained then, where policy admits that.

    Raises:
        GateError: If the batch has fewer people than policy wants; nothing is changed then.
    """
    state = open_state()
    batch = state.batches.get(batch_id)
    if (
        batch.trains  # nobody leaves
        or batch.stage is not BatchStage.PLANNED
        or batch.data.get("guards") is not None
        or "before" in batch.data
    ):
        return list(batch.data.get("guards") or [])
    batch = require_policy(state, batch)
    fewest = state.policy.attacks.difference.minimum_people
    if len(batch.tickets) < fewest:
        raise GateError(
            "too few people in the batch: whoever has both versions sees what they have in common",
            expected=f"at least {fewest}",
            got=str(len(batch.tickets)),
            remedy="lower attacks.difference.minimum_people for this batch, and run again; later ones wait for more",
        )
    struck = _struck(state, batch, state.policy.attacks.guards)
    changes: dict[str, Any] = {"guards": struck}
    if struck:
        changes |= _exact_only(batch)
        alarm_of_batch(state, batch_id, f"guards: {', '.join(struck)}")
    state.batches.record(batch_id, **changes)
    log(f"batch {batch_id}: {'guards struck, retraining' if struck else 'no guard struck'}")
    return struck


def require_cost(state: State, batch: Batch, context: Context, unlearned: Unlearned) -> None:
    """Refuse what took far more work than policy admits, before noise is drawn.

    Args:
        state: The workspace.
        batch: That is unlearned.
        context: With what training took.
        unlearned: With what unlearning took, which depends on the people.

    Raises:
        CertificateRefusedError: If it did; retraining, which is the remedy, never is refused.
    """
    ratio, products = state.policy.attacks.guards.max_cost_ratio, unlearned.sealed.get("products")
    if ratio is None or unlearned.binding == "exact" or products is None or context.training_products < 1:
        return
    if products > ratio * context.training_products:
        alarm_of_batch(state, batch.batch_id, f"guards: {COST}")
        raise CertificateRefusedError(
            "unlearning took more work than policy admits",
            expected=f"at most {ratio:g} times that of training",
            remedy="retrain; look at the people's rows: they may be made to slow unlearning down",
        )


def _struck(state: State, batch: Batch, policy: GuardsPolicy) -> list[str]:
    """Which guards, from rows that are read into memory alone."""
    if policy.max_rows_per_person is None and policy.max_gradient_factor is None:
        return []
    rows, _ = rows_of(state.workspace.dataset_dir, state.tickets.subject_ids(batch.batch_id), state.placement)
    rows = rows[rows["split"] == "train"]
    if rows.empty:
        return []
    struck = []
    most = policy.max_rows_per_person
    if most is not None and int(rows["subject_id"].value_counts().max()) > most:
        struck.append(ROWS)
    if policy.max_gradient_factor is not None and _pulls(state, batch, rows, policy.max_gradient_factor):
        struck.append(GRADIENT)
    return struck


def _pulls(state: State, batch: Batch, rows: pd.DataFrame, factor: float) -> bool:
    registry = access.registry(state)
    with scratch(state.workspace.scratch_dir) as place:
        folder = registry.download(registry.get(batch.data["parent_version"]), place)
        parent = load_model(folder, state.workspace.root)
    frame = read_dataset(state.workspace.dataset_dir)
    others = frame[(frame["split"] == "test") & ~frame["subject_id"].isin(set(rows["subject_id"]))]
    if others.empty:
        return False
    ours, theirs = (_norms(parent, part) for part in (rows, others.iloc[:_OTHERS]))
    return is_outlier(ours, theirs, factor)


def _norms(model: SavedModel, rows: pd.DataFrame) -> NDArray[np.float64]:
    encoded = encode(rows, model.preprocessing)
    with device_in_use() as device:
        likely = torch.softmax(model.logits(rows, device), dim=1).numpy()
    return gradient_norms(encoded.features, encoded.labels, likely)


def _exact_only(batch: Batch) -> dict[str, Any]:
    """Every mechanism but exact ones is refused, where the plan has an exact one."""
    order = batch.data.get("order", [])
    if not EXACT & set(order):
        return {}  # an alarm is all that policy leaves
    others = [name for name in order if name not in EXACT]
    notes = [{"mechanism": name, "reason": "a guard struck"} for name in others]
    return {
        "refused": sorted({*batch.data.get("refused", []), *others}),
        "refusals": [*batch.data.get("refusals", []), *notes],
    }
