"""Sizes in DVC's own files: how many bytes people's rows take up, which no nonce hides and git keeps for ever."""

import re
from pathlib import Path

from expunge.files import replace_file

_SIZE = re.compile(r"^ +size: \d+\n", re.MULTILINE)


def forget_sizes(path: Path) -> None:
    """Take the sizes of outputs out of a file that goes into git; DVC shows them, and needs none.

    Args:
        path: ``*.dvc`` or dvc.lock.
    """
    text = path.read_text(encoding="utf-8")
    if (without := _SIZE.sub("", text)) != text:
        replace_file(path, without.encode())
