"""Leases: work that one process does alone, and how others know that it is still done."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime

from expunge.errors import ExpungeError
from expunge.processes import may_be_alive, process_name
from expunge.state import State
from expunge.tickets.activity import live_leases

_LEASE_S, _HEARTBEAT_S = 180.0, 30.0
_HELD: set[str] = set()  # leases of this process


def lineage_lease(
    state: State, *, seconds: float = _LEASE_S, every: float = _HEARTBEAT_S
) -> AbstractContextManager[None]:
    """Work on the workspace's lineage alone.

    Args:
        state: The workspace.
        seconds: How long the lease lasts without a heartbeat.
        every: Seconds between heartbeats.

    Returns:
        A context that holds the lease.
    """
    return _hold(state, state.lineage, seconds, every)


def unlearning_lease(
    state: State, batch_id: str, *, seconds: float = _LEASE_S, every: float = _HEARTBEAT_S
) -> AbstractContextManager[None]:
    """Unlearn a batch alone: two processes would draw noise twice.

    Args:
        state: The workspace.
        batch_id: Of the batch.
        seconds: How long the lease lasts without a heartbeat.
        every: Seconds between heartbeats.

    Returns:
        A context that holds the lease.
    """
    return _hold(state, unlearning_name(batch_id), seconds, every)


def unlearning_lives(state: State, batch_id: str) -> bool:
    """Whether a process is unlearning a batch, as far as its heartbeat tells.

    Args:
        state: The workspace.
        batch_id: Of the batch.

    Returns:
        Whether its lease is held.
    """
    return state.batches.lease_held(unlearning_name(batch_id), alive=may_be_alive)


def unlearning_name(batch_id: str) -> str:
    """Name of the lease on unlearning a batch.

    Args:
        batch_id: Of the batch.

    Returns:
        The name.
    """
    return f"unlearn:{batch_id}"


def heartbeats(state: State, names: Sequence[str]) -> dict[str, tuple[str, float]]:
    """Who holds leases, and how long ago their heartbeat was.

    Args:
        state: The workspace.
        names: Of the leases.

    Returns:
        Holder and seconds, of those that are held by a process that may live.
    """
    now = datetime.now(UTC)
    return {
        name: (holder, max(0.0, _LEASE_S - (ends - now).total_seconds()))
        for name, (holder, ends) in live_leases(state.database, names).items()
        if may_be_alive(holder)
    }


@contextmanager
def _hold(state: State, name: str, seconds: float, every: float) -> Iterator[None]:
    """Hold a lease; a heartbeat renews it until the work ends.

    A holder that was killed loses it when it expires, or at once to a process of the same host. Entered again by the
    process that holds it, it changes nothing: a sweep holds the lineage's around each erase flow, which takes it itself
    when it is started alone. If another one is at work, RefusedError is raised.
    """
    if name in _HELD:
        yield
        return
    holder, ended = process_name(), threading.Event()
    state.batches.acquire_lease(name, holder, seconds, alive=may_be_alive)

    def beat() -> None:
        while not ended.wait(every):
            # a database that is away for a moment is tried again at the next beat
            with suppress(ExpungeError):
                state.batches.acquire_lease(name, holder, seconds, alive=may_be_alive)

    heart = threading.Thread(target=beat, name="lease", daemon=True)
    heart.start()
    _HELD.add(name)
    try:
        yield
    finally:
        _HELD.discard(name)
        ended.set()
        heart.join()
        state.batches.release_lease(name, holder)
