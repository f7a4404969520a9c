"""The guard of plain git and DVC: a git hook that keeps a purged dataset version from being checked out.

`git checkout OLD` takes the pointer of a purged version along, and `dvc checkout` then empties the folder, because the
objects are gone. After each checkout the hook looks whether the version is whole. If it is not, the pointer of the
branch that was left goes back into index and working tree: `dvc checkout` gives the current data, and
`git checkout` of that branch works as if nothing had happened. A version that holds somebody who was removed is never
put there: the pointer stays then. It runs before any hook that was there, DVC's own too.
"""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from expunge.errors import ExpungeError, RefusedError, WorkspaceError
from tasks.adapters import git
from tasks.adapters.checkouts import lacking, pointer_at, set_pointer
from tasks.adapters.versioning import DATASET_FILE, Repository

_MARK = "# expunge-guard"
_EARLIER = "post-checkout.before-expunge"
_HOOK = f"""#!/bin/sh
{_MARK}: keeps purged dataset versions from being checked out; `expunge data guard` makes it anew
{{python}} -P -m tasks.adapters.guard || echo "expunge: the guard did not run; run \\`expunge data guard\\`" >&2
earlier="$(dirname "$0")/{_EARLIER}"
if [ -x "$earlier" ]; then exec "$earlier" "$@"; fi
"""


def in_the_way(root: Path) -> bool:
    """Whether two other hooks keep this one from being installed.

    Args:
        root: A git repository's top folder.

    Returns:
        True if :func:`install` would refuse.
    """
    path = _path(root)
    there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return bool(there) and _MARK not in there and path.with_name(_EARLIER).exists()


def install(root: Path) -> bool:
    """Install the hook; one that is there already is run after it.

    Args:
        root: The workspace's top folder.

    Returns:
        Whether anything was changed.

    Raises:
        WorkspaceError: If two other hooks are in the way.
    """
    path, text = _path(root), _HOOK.format(python=shlex.quote(sys.executable))
    there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if there == text and os.access(path, os.X_OK):
        return False
    if there and _MARK not in there:
        if path.with_name(_EARLIER).exists():
            raise WorkspaceError(
                "the guard was replaced by another hook, and an earlier one waits beside it",
                expected=f"one of {path.name} and {_EARLIER}",
                got="both, in the folder of git's hooks",
                remedy="make one of the two, then run `expunge data guard`",
            )
        path.rename(path.with_name(_EARLIER))
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f"{path.name}.tmp")
    staging.write_text(text, encoding="utf-8")
    staging.chmod(0o755)
    os.replace(staging, path)
    return True


def installed(root: Path) -> bool:
    """Whether the hook is there and can run.

    Args:
        root: The workspace's top folder.

    Returns:
        True if it is.
    """
    path = _path(root)
    if not os.access(path, os.X_OK) or _MARK not in (text := path.read_text(errors="replace")):
        return False
    command = next(line for line in text.splitlines() if "-m tasks.adapters.guard" in line)
    return os.access(shlex.split(command.split(" -P ")[0])[0], os.X_OK)


def _path(root: Path) -> Path:
    return root / git.git(root, "rev-parse", "--git-path", "hooks/post-checkout")


def keep_whole(root: Path) -> str:
    """Put a whole version's pointer back where a purged one was checked out.

    Args:
        root: The workspace's top folder.

    Returns:
        What was done, in one line; empty where nothing had to be.
    """
    if not (root / DATASET_FILE).is_file():
        return ""
    repository = Repository(root, root / ".expunge")
    gone = lacking(repository, repository.md5_of((root / DATASET_FILE).read_text(encoding="utf-8")))
    if not gone:
        return ""
    # Few checkouts come as far as this, and what follows takes seconds to import.
    from expunge.state import open_state
    from tasks.checkout import require_nobody_removed

    said = f"the dataset version of this revision was purged ({gone}) and cannot come back: {DATASET_FILE}"
    state = open_state(root)
    # Whoever purged has batches: without one this is another database, which does not know who was removed.
    for name in _revisions(root) if state.batches.every() else ():
        with contextlib.suppress(WorkspaceError, RefusedError):
            text = pointer_at(root, name)
            md5 = repository.md5_of(text)
            if not lacking(repository, md5):
                require_nobody_removed(state, repository, md5)
                set_pointer(root, text)
                return f"{said} is kept as in {name}"
    return (
        f"{said} was left as it is, because no whole version without whoever was removed is at hand; "
        "`expunge data checkout BRANCH` takes one out, `dvc checkout` would empty the folder"
    )


def _revisions(root: Path) -> Iterator[str]:
    """Where a whole version may be: here (one file was checked out), on the branch that was left, on the newest."""
    yield "HEAD"
    branches = git.git(
        root, "for-each-ref", "--sort=-committerdate", "--format=%(refname:short)", "refs/heads"
    )
    try:
        left = git.git(root, "rev-parse", "--abbrev-ref", "@{-1}")
    except WorkspaceError:  # nothing was left yet
        left = ""
    names = branches.splitlines()
    yield from sorted(names, key=lambda name: name != left)
    yield "@{-1}"


if __name__ == "__main__":
    try:
        if (Path.cwd() / ".expunge" / "workspace.json").is_file() and (done := keep_whole(Path.cwd())):
            sys.stderr.write(f"expunge: {done}\n")
    except ExpungeError as error:
        sys.stderr.write(f"expunge: {error}\n")
