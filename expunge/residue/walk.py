"""All files below a folder: behind links too, each folder once, and none that cannot be entered is passed over."""

import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

FILE, FOLDER, UNREADABLE, NAME = "file", "folder", "unreadable", "name"
_LOOSE = re.compile(r"[0-9a-f]{38}|[0-9a-f]{62}")


def walk(root: Path, skip: Collection[Path] = ()) -> Iterator[tuple[Path, Path, str]]:
    """Files and folders, a folder before what is in it.

    A link out of the folder is followed; one to what is searched anyway, or to what the folder itself lies in, is
    not. What is neither file nor folder, such as a socket, holds nothing but its name.

    Args:
        root: The folder.
        skip: Files and folders to leave out.

    Yields:
        ``(path, shown, kind)``: where it lies, its path below the folder, and file, folder,
        unreadable, or a name alone.
    """
    top, left_out = root.resolve(), {path.resolve() for path in skip}
    seen: set[Path] = set()
    waiting = [(top, Path())]
    while waiting:
        here, below = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        if below.parts:
            yield here, below, FOLDER
        try:
            names = sorted(os.listdir(here))
        except (FileNotFoundError, NotADirectoryError):
            continue  # its owner has removed it meanwhile
        except OSError:
            yield here, below, UNREADABLE
            continue
        folders = []
        for name in names:
            path, shown = here / name, below / name
            linked = path.is_symlink()
            try:
                real = path.resolve(strict=True) if linked else path
                kind = _kind(real)
            except (OSError, RuntimeError):  # a loop of links is a RuntimeError
                if os.path.lexists(path):
                    yield path, shown, UNREADABLE
                continue
            if real in left_out:
                continue
            if linked and (real.is_relative_to(top) or top.is_relative_to(real) or real in seen):
                kind = NAME
            if kind == FOLDER:
                folders.append((real, shown))
                continue
            if linked and kind == FILE:
                seen.add(real)
            yield real, shown, kind
        waiting += reversed(folders)


def is_git_folder(path: Path) -> bool:
    """Whether a folder is a git repository's own, under whatever name.

    Args:
        path: The folder.

    Returns:
        True if it is.
    """
    # These say no where they may not look.
    return os.path.isfile(path / "HEAD") and all(os.path.isdir(path / name) for name in ("objects", "refs"))


def is_loose_object(path: Path) -> bool:
    """Whether a file lies where git keeps an object that is not packed.

    Args:
        path: The file.

    Returns:
        True if it does; whose objects it is among is another question.
    """
    folder = path.parent
    return bool(
        _LOOSE.fullmatch(path.name)
        and re.fullmatch("[0-9a-f]{2}", folder.name)
        and folder.parent.name == "objects"
    )


def _kind(path: Path) -> str:
    """What it is; OSError if nobody may know."""
    mode = os.stat(path).st_mode
    return FOLDER if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else NAME
