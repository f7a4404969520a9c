"""Progress of long work, reported without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float, float], None]
"""``(what, done, total)``; done and total in the same unit, total 0 where unknown."""

_listener: ContextVar[Listener | None] = ContextVar("expunge_progress", default=None)


def report(what: str, done: float, total: float) -> None:
    """Tell the listener, if there is one, how far a piece of work is.

    Args:
        what: The work, in a few words, without personal data.
        done: How much is done.
        total: How much there is in all, 0 where unknown.
    """
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send reports of the enclosed work to a listener.

    Args:
        listener: Called with ``(what, done, total)``.

    Yields:
        Nothing.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
