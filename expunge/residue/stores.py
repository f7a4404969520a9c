"""The stores that are searched: folders, single files, databases, and streams that another tool gives."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from expunge import progress
from expunge.residue.databases import search_postgresql
from expunge.residue.formats import scan_file, scan_stream
from expunge.residue.search import Scanner


@dataclass(frozen=True)
class Store:
    """A place that may hold a person.

    Args:
        name: In the report; no password, no personal data.
        search: Searches all of it.
    """

    name: str
    search: Callable[[Scanner], None]


def folder(path: Path, name: str, *, prefix: str = "", skip: Collection[Path] = ()) -> Store:
    """All files below a folder; one that is not there is unreadable: nobody knows what it holds elsewhere.

    Args:
        path: The folder.
        name: In the report.
        prefix: Before the names of its files there.
        skip: Files and folders to leave out.

    Returns:
        The store.
    """

    def search(scanner: Scanner) -> None:
        if not path.is_dir():
            scanner.found(name, "unreadable")
            return
        total = sum(one.stat(follow_symlinks=False).st_size for one in _files(path, skip) if one.exists())
        done = 0
        for number, file in enumerate(_files(path, skip)):
            if number % 50 == 0:
                progress.report(f"residue scan of {name}", done, total)
            done += _search_file(scanner, file, path, prefix)

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


def _files(root: Path, skip: Collection[Path]) -> Iterator[Path]:
    for here, names, files in os.walk(root):
        names[:] = sorted(name for name in names if Path(here) / name not in skip)
        yield from (
            path
            for path in (Path(here) / name for name in sorted(files))
            if path not in skip and not path.is_symlink()
        )


def _search_file(scanner: Scanner, path: Path, root: Path, prefix: str) -> int:
    where = str(Path(prefix) / path.relative_to(root))
    if scanner.names(path.name):
        where = str(Path(where).with_name("(a name with an id)"))
        scanner.found(where, "subject-id")
    scan_file(scanner, where, path)
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
