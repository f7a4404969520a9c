"""Who on this machine may enter a workspace: its user alone, whatever the umask; others' hands in it are refused."""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import WorkspaceError

if TYPE_CHECKING:  # settings need YAML, which the verifier alone has not
    from expunge.settings import Workspace

SITE_CACHE = "dvc-site-cache"
_OTHERS, _WRITE = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IWOTH
_SHOWN = 3


def tighten_umask() -> None:
    """Let nothing that this process and what it starts make be writable to others."""
    os.umask(os.umask(0o077) | _WRITE)


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter, or make it so.

    Args:
        folder: Absent, or one's own.

    Raises:
        WorkspaceError: If it is another account's.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        folder.chmod(0o700)
    except PermissionError as error:
        raise WorkspaceError(
            "the folder is another account's",
            expected="a folder of the account that runs this",
            got=str(folder),
            remedy="choose another PATH, or let its owner give it to you (chown)",
        ) from error


def tighten(workspace: "Workspace") -> None:
    """Shut others out of the state folder, which earlier releases left as the umask had it.

    Args:
        workspace: That is there; one that cannot be changed stays as it is.
    """
    with suppress(OSError):  # read-only, or another account's: `require_private` says so
        if stat.S_IMODE(workspace.state.stat().st_mode) != 0o700:
            workspace.state.chmod(0o700)


def private_site_cache(state: Path) -> Path:
    """DVC's site cache in a workspace: DVC reads pickles from it, and makes it writable to everyone.

    Args:
        state: The workspace's state folder.

    Returns:
        The folder, private. One that others could write to is thrown away first: it is a cache, and their pickles would
        be run.
    """
    cache = state / SITE_CACHE
    folders = (cache, cache / "repo")  # whose modes DVC sets when they are not there
    with suppress(OSError):  # read-only: DVC says what it cannot do
        if any(folder.exists() and folder.stat().st_mode & _WRITE for folder in folders):
            shutil.rmtree(cache)
        for folder in folders:
            if not folder.exists():
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cache


def is_open(workspace: "Workspace") -> bool:
    """Whether other accounts may enter the workspace's folder.

    Args:
        workspace: Which.

    Returns:
        True if its group or everyone may do anything there.
    """
    return bool(workspace.root.stat().st_mode & _OTHERS)


def require_private(workspace: "Workspace") -> None:
    """Refuse a workspace that others could have changed: its code is run, its data and keys are believed.

    Args:
        workspace: Which.

    Raises:
        WorkspaceError: If something in it belongs to another account, or others may write to it.
    """
    foreign, writable = _odd(workspace.root)
    for found, what, remedy in (
        (foreign, "parts of the workspace belong to another account", f"chown -R {os.geteuid()}"),
        (writable, "others can write to the workspace", "chmod -R go-w"),
    ):
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise WorkspaceError(
                what,
                expected="one account that owns it and alone may write to it",
                got=", ".join(found[:_SHOWN]) + more,
                remedy=f"if you trust what is in it, run `{remedy} {workspace.root}`",
            )


def _odd(root: Path) -> tuple[list[str], list[str]]:
    """What belongs to another account, and what others may write to."""
    own, foreign, writable = os.geteuid(), [], []
    paths = [str(root)]
    for folder, inside, files in os.walk(root):
        paths += [os.path.join(folder, name) for name in (*inside, *files)]
    for path in paths:
        with suppress(FileNotFoundError):  # another command's temporary file
            found = os.lstat(path)
            name = os.path.relpath(path, root)
            if found.st_uid != own:
                foreign.append(name)
            if found.st_mode & _WRITE and not stat.S_ISLNK(found.st_mode):
                writable.append(f"{name} ({stat.S_IMODE(found.st_mode):04o})")
    return foreign, writable
