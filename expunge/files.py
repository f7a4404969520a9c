"""Files that are whole or not there: whoever reads one while it is written, or after a crash, finds the one before."""

import json
import os
from pathlib import Path
from typing import Any


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file wholly or not at all, in place of what is there.

    Args:
        path: The file.
        content: All of it.
        mode: Permission bits, from the first byte on; by default what the process gives to new files.
    """
    new = path.parent / f"{path.name}.tmp"  # also of `.`, which is refused as a folder is
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode or 0o666), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)  # what a killed writer left may have others
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, mode: int | None = None) -> None:
    """Write plain data wholly or not at all.

    Args:
        path: The file.
        content: Plain data.
        mode: As of :func:`replace_file`.
    """
    replace_file(path, json.dumps(content, indent=1).encode(), mode)
