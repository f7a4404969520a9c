"""Unlearning on another work pool: started there, waited for, and a refusal told apart from a crash.

The refusal travels through the tickets database, which both sides share: Prefect's states and results stay empty.
So does the heartbeat: Prefect shows a run as running for ever when its machine is gone.
"""

import os
import time
from typing import Any

from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from expunge.errors import CertificateRefusedError, ExpungeError, NotConvergedError, ServiceUnavailableError
from expunge.state import State, open_state
from tasks.adapters.prefect_api import api, crash
from tasks.leases import unlearning_lives

DEPLOYMENT = "unlearn/unlearn"
_KINDS: dict[str, type[ExpungeError]] = {
    kind.__name__: kind for kind in (CertificateRefusedError, NotConvergedError, ServiceUnavailableError)
}
_TIMEOUT_S, _POLL_S = 24 * 3600.0, 2.0
_SILENCE_S = {"PENDING": 300.0, "RUNNING": 90.0}  # a process takes its time to start; then it has a heartbeat
_AWAY_S = 600.0  # how long the Prefect server may be away
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


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
        ServiceUnavailableError: If the run crashed, vanished, did not end in time or met an outage; the batch stays
            resumable.
        ExpungeError: If the run failed: the same would happen again, so a person has to look.
    """
    answer(batch_id, mechanism, None)  # of an earlier attempt
    timeout = float(os.environ.get("EXPUNGE_GPU_TIMEOUT_S") or _TIMEOUT_S)
    try:
        run: Any = run_deployment(  # here, without an event loop, it is no coroutine
            DEPLOYMENT, parameters={"batch_id": batch_id, "mechanism": mechanism}, timeout=0
        )
    except ObjectNotFound as error:
        raise ServiceUnavailableError(
            "the unlearn deployment is not there", expected=DEPLOYMENT, remedy="run `expunge up`"
        ) from error
    ended = wait_for(open_state(), batch_id, str(run.id), timeout)
    said = open_state().batches.get(batch_id).data.get("answer") or {}
    if said.get("mechanism") == mechanism and said.get("kind"):
        raise _KINDS[said["kind"]](said["reason"])
    if ended != "COMPLETED" or said.get("mechanism") != mechanism:
        # a failed run beside one that is at work found the batch taken
        broken = ended == "FAILED" and not _lives(open_state(), batch_id)
        raise (ExpungeError if broken else ServiceUnavailableError)(
            "unlearning on the gpu pool did not finish",
            expected=f"an end within {timeout:g} s",
            got=f"state {ended}",
            remedy="look at the worker, then run the batch again",
        )


def wait_for(state: State, batch_id: str, run_id: str, timeout: float) -> str:
    """Wait until a run on the pool has ended, or nothing is left of it.

    Args:
        state: The workspace.
        batch_id: Of the batch that it unlearns.
        run_id: Of the run.
        timeout: In seconds.

    Returns:
        The state's type in which it was last seen; CRASHED if it vanished.

    Raises:
        ServiceUnavailableError: If Prefect does not answer for minutes.
    """
    url = os.environ["PREFECT_API_URL"]
    began = heard = answered = time.monotonic()
    silence = dict(_SILENCE_S)
    if os.environ.get("EXPUNGE_GPU_START_S"):  # a pod may wait for its node
        silence["PENDING"] = float(os.environ["EXPUNGE_GPU_START_S"])
    kind = "SCHEDULED"  # it may wait for others as long as it has to
    while kind not in _FINAL and time.monotonic() - began < timeout:
        time.sleep(_POLL_S)
        now = time.monotonic()
        try:
            before, kind = kind, str(api(url, f"/flow_runs/{run_id}")["state_type"])
        except ServiceUnavailableError:
            if now - answered > _AWAY_S:
                raise
            continue
        answered = now
        if kind not in silence or kind != before or (kind == "RUNNING" and _lives(state, batch_id)):
            heard = now
        elif now - heard > silence[kind]:
            crash(url, run_id, "no sign of life: its process is gone")
            return "CRASHED"
    return kind


def _lives(state: State, batch_id: str) -> bool:
    try:
        return unlearning_lives(state, batch_id)
    except ServiceUnavailableError:
        return True  # nothing is known while the database is away


def answer(batch_id: str, mechanism: str, refusal: ExpungeError | None, *, done: bool = False) -> None:
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
