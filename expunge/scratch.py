"""Scratch folders: weights on their way somewhere. One that a killed process left is found by its owner's name."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.processes import may_be_alive, process_name

_LONGEST_S = 24 * 3600.0  # nothing takes longer; of another host's process nothing else is known


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of one's own, destroyed at the end; :func:`destroy_abandoned` finds it after a crash.

    Args:
        folder: The workspace's folder of scratch folders.

    Yields:
        The new folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder, prefix=f"{process_name()}-"))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def abandoned(folder: Path) -> list[Path]:
    """Scratch folders of processes that are dead, and those older than a day.

    Args:
        folder: The workspace's folder of scratch folders.

    Returns:
        Their paths.
    """
    return [
        own
        for own in sorted(folder.glob("*"))
        if not may_be_alive(own.name.rpartition("-")[0]) or time.time() - own.stat().st_mtime > _LONGEST_S
    ]


def destroy_abandoned(folder: Path) -> int:
    """Destroy abandoned scratch folders.

    Args:
        folder: The workspace's folder of scratch folders.

    Returns:
        How many there were.
    """
    found = abandoned(folder)
    for own in found:
        shutil.rmtree(own)
    return len(found)
