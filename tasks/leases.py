"""Leases: work that one process does alone, and how others know that it is still done."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from expunge.errors import ExpungeError, LeaseHeldError
from expunge.processes import may_be_alive, process_name
from expunge.state import State
from expunge.tickets.activity import live_leases
from tasks.place import require_place

_LEASE_S, _HEARTBEAT_S = 180.0, 30.0
_HELD: set[str] = set()  # leases of this process


def lineage_lease(
    state: State, *, seconds: float = _LEASE_S, every: float = _HEARTBEAT_S, anywhere: bool = False
) -> AbstractContextManager[None]:
    """Work on the workspace's lineage alone.

    Args:
        state: The workspace.
        seconds: How long the lease lasts without a heartbeat.
        every: Seconds between heartbeats.
        anywhere: Whether the workspace may lie elsewhere than it says.

    Returns:
        A context that holds the lease.

    Raises:
        WorkspaceError: If the workspace was copied or moved.
    """
    if not anywhere:
        require_place(state)
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


def require_leases(state: State, *, seconds: float = _LEASE_S) -> None:
    """Renew this process's leases, before something that must not be done by two: who was paused may have lost them.

    Args:
        state: The workspace.
        seconds: How long each lasts from now.

    Raises:
        LeaseHeldError: If another process has taken one over.
    """
    for name in sorted(_HELD):
        state.batches.renew_lease(name, process_name(), seconds)


@contextmanager
def _hold(state: State, name: str, seconds: float, every: float) -> Iterator[None]:
    """Hold a lease; a heartbeat renews it until the work ends.

    A holder that was killed loses it when it expires, or at once to a process of the same host. Entered again by the
    process that holds it, it changes nothing: a sweep holds the lineage's around each erase flow, which takes it itself
    when it is started alone. If another one is at work, LeaseHeldError is raised.
    """
    if name in _HELD:
        yield
        return
    holder, ended = process_name(), threading.Event()
    state.batches.acquire_lease(name, holder, seconds, alive=may_be_alive)

    def beat() -> None:
        while not ended.wait(every):
            try:
                state.batches.renew_lease(name, holder, seconds)
            except LeaseHeldError:
                return  # the work finds it out where it asks, and stops
            except ExpungeError:
                continue  # a database that is away for a moment is tried again at the next beat

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
