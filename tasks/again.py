"""Training again: a batch of nobody, by exact retraining on the dataset as it is; the ledger's account starts anew.

It is a batch so that a kill, the gates, the certificate and the purge of the superseded model are those of every other
release. A version that stayed behind would keep people who leave later.
"""

from expunge.errors import PolicyError
from expunge.state import State
from tasks.ingest import finish_import, require_no_batch
from tasks.leases import lineage_lease
from tasks.planning import champion_context


def open_training(state: State) -> str:
    """Open the batch in which the model is trained again, or find the one that was interrupted.

    Args:
        state: The workspace, with a model.

    Returns:
        The batch's id.

    Raises:
        WorkspaceError: If no model is trained yet.
        RefusedError: If another batch is unfinished; nothing is changed then.
        PolicyError: If policy does not admit exact retraining.
    """
    if "exact" not in state.policy.admit.classes:
        raise PolicyError(
            "policy.yaml admits no exact retraining",
            expected="exact among admit.classes",
            got=", ".join(state.policy.admit.classes) or "nothing",
            remedy="admit it, and run again",
        )
    with lineage_lease(state):
        champion_context(state)
        if not any(batch.trains for batch in state.batches.unfinished()):
            require_no_batch(state)
            finish_import(state)
        return state.batches.open_training().batch_id
