"""The garbage collector and heavy libraries: what their imports make lives as long as the process.

Looking through it for garbage costs a fifth of the imports' time, and once more as much as all of it at exit.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

atexit.register(gc.freeze)  # the last collection finds nothing to look through


@contextmanager
def resting() -> Iterator[None]:
    """Let the collector rest while something heavy is imported.

    Yields:
        Nothing.

    Example:
        >>> with resting():
        ...     import decimal
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
