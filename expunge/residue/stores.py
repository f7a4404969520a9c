"""The stores that are searched: folders, single files, databases, and streams that another tool gives."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from expunge import progress
from expunge.errors import WorkspaceError
from expunge.residue.databases import search_postgresql
from expunge.residue.formats import scan_file, scan_stream
from expunge.residue.search import Scanner
from expunge.residue.walk import FILE, FOLDER, UNREADABLE, is_git_folder, is_loose_object, walk


@dataclass(frozen=True)
class Store:
    """A place that may hold a person.

    Args:
        name: In the report; no password, no personal data.
        search: Searches all of it.
    """

    name: str
    search: Callable[[Scanner], None]


def folder(
    path: Path,
    name: str,
    *,
    prefix: str = "",
    skip: Collection[Path] = (),
    git: Callable[[Path], Iterable[tuple[str, IO[bytes]]]] | None = None,
    listed: Collection[Path] = (),
) -> Store:
    """All files below a folder; one that is not there is unreadable: nobody knows what it holds elsewhere.

    Args:
        path: The folder.
        name: In the report.
        prefix: Before the names of its files there.
        skip: Files and folders to leave out.
        git: Lists the objects of a git folder, unpacked; without it they are files like any other.
        listed: Git folders whose objects are searched as another store.

    Returns:
        The store.
    """

    def search(scanner: Scanner) -> None:
        if not path.is_dir():
            scanner.found(name, "unreadable")
            return
        total, done = sum(_size(real) for real, _, kind in walk(path, skip) if kind == FILE), 0
        masked = lru_cache(1024)(lambda shown: _masked(scanner, shown))
        repositories = {one.resolve() for one in listed}
        for number, (real, shown, kind) in enumerate(walk(path, skip)):
            if number % 50 == 0:
                progress.report(f"residue scan of {name}", done, total)
            where = str(prefix / masked(shown.parent) / _masked(scanner, Path(shown.name)))
            if scanner.names(shown.name):
                scanner.found(where, "subject-id")
            if kind == UNREADABLE:
                scanner.found(where, "unreadable")
            elif kind == FOLDER:
                if git is not None and real not in repositories and is_git_folder(real):
                    repositories.add(real)
                    _search_git(scanner, where, git(real))
            elif kind == FILE:
                done += _size(real)
                # Loose git objects are searched uncompressed, with all other objects.
                if not (is_loose_object(real) and real.parents[2] in repositories):
                    scan_file(scanner, where, real)

    return Store(name, search)


def file(path: Path, name: str) -> Store:
    """A SQLite database or another single file, with the journal that may lie beside it.

    Args:
        path: The file.
        name: In the report.

    Returns:
        The store.
    """

    def search(scanner: Scanner) -> None:
        if not path.is_file():
            scanner.found(name, "unreadable")
            return
        for one in [path, *sorted(path.parent.glob(f"{path.name}-*"))]:
            scan_file(scanner, name, one)

    return Store(name, search)


def database(url: str, name: str) -> Store:
    """A database; one of another kind than SQLite and PostgreSQL is unreadable.

    Args:
        url: SQLAlchemy URL.
        name: In the report.

    Returns:
        The store.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        return unreadable(name)
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        return file(Path(str(parsed.database)), name)
    if kind == "postgresql":
        return Store(name, lambda scanner: search_postgresql(scanner, name, url))
    return unreadable(name)


def unreadable(name: str) -> Store:
    """A store that cannot be searched: nobody knows what it holds.

    Args:
        name: In the report.

    Returns:
        The store.
    """
    return Store(name, lambda scanner: scanner.found(name, "unreadable"))


def streams(found: Iterable[tuple[str, IO[bytes]]], name: str, kind: str) -> Store:
    """Named streams, one at a time.

    Args:
        found: Names for the report, and seekable streams.
        name: Of the store.
        kind: What each counts as.

    Returns:
        The store.
    """

    def search(scanner: Scanner) -> None:
        for number, (where, stream) in enumerate(found):
            if number % 50 == 0:
                progress.report(f"residue scan of {name}", number, 0)
            scan_stream(scanner, where, stream, label=kind)

    return Store(name, search)


def _masked(scanner: Scanner, shown: Path) -> Path:
    """A path without the parts that hold an id: places are repeated in errors and histories."""
    return Path(*("(a name with an id)" if scanner.names(part) else part for part in shown.parts))


def _search_git(scanner: Scanner, where: str, objects: Iterable[tuple[str, IO[bytes]]]) -> None:
    try:
        for name, stream in objects:
            scan_stream(scanner, f"{where} {name}", stream, label="git object")
    except WorkspaceError:  # damaged: nobody knows what it holds
        scanner.found(where, "unreadable")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
