"""Progress of long work, reported without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float, float], None]
"""``(what, done, total)``; done and total in the same unit, total 0 where unknown."""
Teller = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("expunge_progress", default=None)
_teller: ContextVar[Teller | None] = ContextVar("expunge_forecast", default=None)


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


def tell(sentence: str) -> None:
    """Say something once that stays on the screen, such as a forecast.

    Args:
        sentence: Without personal data.
    """
    teller = _teller.get()
    if teller is not None:
        teller(sentence)


def is_heard() -> bool:
    """Whether somebody would read what is told: measuring it for nobody is a waste.

    Returns:
        True inside :func:`listening` with a teller.
    """
    return _teller.get() is not None


@contextmanager
def listening(listener: Listener, teller: Teller | None = None) -> Iterator[None]:
    """Send reports of the enclosed work to a listener.

    Args:
        listener: Called with ``(what, done, total)``.
        teller: Called with each sentence that is told once.

    Yields:
        Nothing.
    """
    heard, told = _listener.set(listener), _teller.set(teller)
    try:
        yield
    finally:
        _listener.reset(heard)
        _teller.reset(told)
