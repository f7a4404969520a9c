"""git by subprocess: own identity, no global configuration, undisturbed by a surrounding checkout or hook."""

import io
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from expunge.errors import WorkspaceError, storage_full_text

_IDENTITY = ("user.name=Expunge", "user.email=expunge@localhost", "commit.gpgsign=false")
_COMMAND = ("git", *(part for setting in _IDENTITY for part in ("-c", setting)))
# Inside a hook GIT_DIR, GIT_INDEX_FILE and the like point at another repository: only these may pass.
_HARMLESS = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_SSH", "GIT_SSH_COMMAND")
_IN_MEMORY = 1 << 22  # bytes of one object


def clean_environment() -> dict[str, str]:
    """This process's environment without what would redirect git to another repository or identity.

    Returns:
        The environment for a child process.
    """
    kept = {
        name: text for name, text in os.environ.items() if not name.startswith("GIT_") or name in _HARMLESS
    }
    return kept | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _run(root: Path, *arguments: str, given: bytes = b"") -> bytes:
    try:
        done = subprocess.run(
            [*_COMMAND, *arguments],
            cwd=root,
            env=clean_environment(),
            input=given,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise WorkspaceError("git cannot be run", remedy="install git 2.28 or newer") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        if (full := storage_full_text(said)) is not None:
            raise full
        complaint = said.splitlines()
        raise WorkspaceError(
            f"`git {arguments[0]}` failed",
            got=complaint[0] if complaint else f"exit code {done.returncode}",
            remedy="put the workspace's git repository in order and run again",
        )
    return done.stdout


def git(root: Path, *arguments: str) -> str:
    """Run a git command at the workspace's top; `init` names the branch ``main``.

    Args:
        root: The workspace's top folder.
        arguments: What follows ``git``.

    Returns:
        Its standard output, stripped.

    Raises:
        WorkspaceError: If git is missing or the command fails.
    """
    branch = ("-c", "init.defaultBranch=main") if arguments[:1] == ("init",) else ()
    return _run(root, *branch, *arguments).decode(errors="replace").strip()


def head(root: Path) -> str:
    """The newest commit.

    Args:
        root: The workspace's top folder.

    Returns:
        Its id, empty where nothing is committed yet.
    """
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    except WorkspaceError:
        if git(root, "rev-list", "--all", "--max-count=1"):
            raise
        return ""


def commit(root: Path, paths: Iterable[str], message: str) -> str:
    """Commit these paths and nothing else that may be staged; a no-op where they are clean.

    Args:
        root: The workspace's top folder.
        paths: Relative to it; missing and untracked ones are passed over.
        message: Of the commit; no personal data.

    Returns:
        Id of the newest commit.
    """
    known = [str(path) for path in paths if (root / path).exists() or git(root, "ls-files", "--", str(path))]
    if known:
        git(root, "add", "--all", "--", *known)
        if git(root, "status", "--porcelain", "--untracked-files=no", "--", *known):
            git(root, "commit", "--quiet", "--only", f"--message={message}", "--", *known)
    return head(root)


def file_history(root: Path, path: str) -> list[str]:
    """Every version of a file on any branch, tag, stash, experiment or reflog entry.

    Args:
        root: The workspace's top folder.
        path: The file, relative to it.

    Returns:
        Their texts, newest first, each once.

    Raises:
        WorkspaceError: If the history is cut off, so that "every" would be untrue.
    """
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise WorkspaceError(
            "the git history is cut off",
            expected="a full clone, so that every superseded data version is known",
            got="a shallow one",
            remedy="run `git fetch --unshallow`",
        )
    selection = ("--all", "--reflog", "--full-history", "-m")
    shape = ("--raw", "--no-abbrev", "--no-renames", "--no-show-signature", "--format=")
    log = git(root, "log", *selection, *shape, "--", path)
    blobs = [line.split()[3] for line in log.splitlines() if line.startswith(":")]
    wanted = [blob for blob in dict.fromkeys(blobs) if set(blob) != {"0"}]  # zeros: the commit deleted it
    stream = io.BytesIO(
        _run(root, "cat-file", "--batch", given="".join(f"{blob}\n" for blob in wanted).encode())
    )
    return [content.read().decode(errors="replace") for _, content in _batch(stream)]


def objects(root: Path, *, bare: bool = False) -> Iterator[tuple[str, IO[bytes]]]:
    """Every object of the repository, unreachable ones too, unpacked, one at a time.

    Args:
        root: The workspace's top folder.
        bare: Whether it is a git folder itself instead, of any repository.

    Yields:
        ``("git <type> <id>", stream)``; a stream is closed when the next one is asked for.

    Raises:
        WorkspaceError: If git stops early: a search through part of the objects proves nothing.
    """
    with subprocess.Popen(
        [
            *_COMMAND,
            *(["--git-dir=."] if bare else []),
            "cat-file",
            "--batch-all-objects",
            "--batch",
            "--buffer",
        ],
        cwd=root,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        yield from _batch(process.stdout)
    if process.returncode != 0:
        raise _incomplete(f"exit code {process.returncode}")


def _batch(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Objects as `git cat-file --batch` prints them; large ones lie in a file without a name."""
    while header := stream.readline():
        parts = header.decode(errors="replace").split()
        if len(parts) != 3:  # "<id> missing": a partial clone or a damaged repository
            raise _incomplete(" ".join(parts))
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as content:
            left = int(parts[2])
            while left and (block := stream.read(min(left, _IN_MEMORY))):
                content.write(block)
                left -= len(block)
            if left:
                raise _incomplete("the end of its answer within an object")
            stream.read(1)
            content.seek(0)
            yield f"git {parts[1]} {parts[0]}", content


def _incomplete(got: str) -> WorkspaceError:
    return WorkspaceError(
        "git could not list all of its objects", got=got, remedy="run `git fsck` in the workspace"
    )
