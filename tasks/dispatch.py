"""Unlearning on another work pool: started there, waited for, and a refusal told apart from a crash.

The refusal travels through the tickets database, which both sides share: Prefect's states and results stay empty.
"""

import os

from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from expunge.errors import CertificateRefusedError, NotConvergedError, RefusedError, ServiceUnavailableError
from expunge.state import open_state

DEPLOYMENT = "unlearn/unlearn"
_KINDS: dict[str, type[RefusedError]] = {
    kind.__name__: kind for kind in (CertificateRefusedError, NotConvergedError)
}
_TIMEOUT_S, _POLL_S = 24 * 3600.0, 2.0


def on_pool() -> bool:
    """Whether unlearning runs on the gpu work pool: ``EXPUNGE_GPU_POOL`` is set.

    Returns:
        False for the embedded default.
    """
    return bool(os.environ.get("EXPUNGE_GPU_POOL"))


def unlearn_on_pool(batch_id: str, mechanism: str) -> None:
    """Run the unlearn deployment and wait for it.

    A run that is still there from an interrupted flow does no harm: the deployment runs one at a time, and the second
    finds the release of the first.

    Args:
        batch_id: Of the batch.
        mechanism: Which mechanism.

    Raises:
        CertificateRefusedError: As the mechanism raised it there.
        NotConvergedError: As the mechanism raised it there.
        ServiceUnavailableError: If the run crashed or did not end in time; the batch stays resumable.
    """
    answer(batch_id, mechanism, None)  # of an earlier attempt
    timeout = float(os.environ.get("EXPUNGE_GPU_TIMEOUT_S") or _TIMEOUT_S)
    try:
        run = run_deployment(
            DEPLOYMENT,
            parameters={"batch_id": batch_id, "mechanism": mechanism},
            timeout=timeout,
            poll_interval=_POLL_S,
        )
    except ObjectNotFound as error:
        raise ServiceUnavailableError(
            "the unlearn deployment is not there", expected=DEPLOYMENT, remedy="run `expunge up`"
        ) from error
    said = open_state().batches.get(batch_id).data.get("answer") or {}
    if run.state is None or not run.state.is_completed() or said.get("mechanism") != mechanism:
        raise ServiceUnavailableError(
            "unlearning on the gpu pool did not finish",
            expected=f"an end within {timeout:g} s",
            got=f"state {run.state.name if run.state else 'unknown'}",
            remedy="look at the worker, then run the batch again",
        )
    if said.get("kind"):
        raise _KINDS[said["kind"]](said["reason"])


def answer(batch_id: str, mechanism: str, refusal: RefusedError | None, *, done: bool = False) -> None:
    """Record how unlearning on the pool ended, for the flow that waits.

    Args:
        batch_id: Of the batch.
        mechanism: Which mechanism.
        refusal: What the mechanism raised.
        done: Whether it ended at all; otherwise an earlier answer is wiped.
    """
    said = {"mechanism": mechanism} if done else {}
    if refusal is not None:
        said |= {"kind": type(refusal).__name__, "reason": str(refusal)}
    open_state().batches.record(batch_id, answer=said)
