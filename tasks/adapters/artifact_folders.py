"""Where MLflow's artifacts lie on this machine: what is not in a folder that we can look into, no purge vouches for.

An object store lists what is current: of a versioned bucket nothing is listed any more, and every byte is still there.
A tracking server that hands artifacts on (``mlflow-artifacts:/``) does not say where to.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from expunge.errors import WorkspaceError

DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"
_PROXIED = "mlflow-artifacts"
_BELOW_ROOT = 3  # a logged model lies in <root>/models/<id>/artifacts


def folder_of(location: str, *, trusted: bool = False) -> Path | None:
    """The folder on this machine that an artifact address names.

    Args:
        location: Of an experiment, a run or a logged model.
        trusted: Whether the operator vouches for the folder behind a tracking server that nobody here can look into.

    Returns:
        The folder, there or not; None if it is another machine's, by the operator's word.

    Raises:
        WorkspaceError: If it is in an object store, or behind a server whose folder is not known.

    Example:
        >>> folder_of("file:///srv/mlflow/1").as_posix()
        '/srv/mlflow/1'
    """
    parts = urlsplit(location)
    if parts.scheme != _PROXIED:
        return _local(location)
    destination = os.environ.get(DESTINATION)
    if destination:
        root = _local(destination).resolve()
        folder = (root / unquote(parts.path).lstrip("/")).resolve()
        if not folder.is_relative_to(root):
            raise WorkspaceError("an artifact address leads out of its store", got=_shown(location))
        return folder
    if trusted:
        return None
    raise WorkspaceError(
        "MLflow's server does not say where it keeps artifacts, and no purge vouches for what was not looked at",
        expected=f"{DESTINATION} to name its folder, as this machine sees it",
        got=f"artifacts at {_shown(location)}",
        remedy="mount the folder and name it; or, where that cannot be, declare `purge: {artifact_server: trusted}` in "
        "policy.yaml, and every certificate says that the folder was not looked into",
    )


def require_same(folder: Path, listed: list[str]) -> None:
    """Refuse a folder that is not the one a store lists.

    Args:
        folder: Where the files should lie.
        listed: Paths of files that MLflow lists.

    Raises:
        WorkspaceError: If one is not there, or nothing says that the folder was ever on this machine.
    """
    absent = [path for path in listed if not (folder / path).is_file()]
    roots = list(folder.parents)[:_BELOW_ROOT]
    if absent or not (folder.is_dir() or any(root.is_dir() for root in roots)):
        raise WorkspaceError(
            "the folder on this machine is not where MLflow keeps these artifacts",
            expected=f"{listed[0] if listed else 'the folder, or the store that it was in'}",
            got=f"{len(absent)} of {len(listed)} listed files missing" if listed else "neither",
            remedy=f"work on the machine that has them; or correct {DESTINATION}",
        )


def _local(location: str) -> Path:
    parts = urlsplit(location)
    if parts.scheme == "" or (parts.scheme == "file" and parts.netloc in ("", "localhost")):
        return Path(unquote(parts.path) if parts.scheme else location)
    raise WorkspaceError(
        "artifacts lie in a store whose listing cannot show what is still there",
        expected="a folder: an object store may keep every version of a file that was deleted",
        got=f"artifacts at {_shown(location)}",
        remedy="give MLflow a folder for its artifacts; object stores are not purged by version yet",
    )


def _shown(location: str) -> str:
    """An address without what may be a password."""
    parts = urlsplit(location)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()[:80]
