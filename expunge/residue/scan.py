"""Search every file of a workspace for the ids and the rows of erased people.

Files are told apart by their first bytes, not by names: DVC's objects have none. Parquet is decoded, SQLite
is read cell by cell, compressed files are opened (what they hold is told apart in turn), everything else is
searched as bytes. What cannot be read is a hit: nobody knows what it holds.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa

from expunge import progress
from expunge.errors import ResidueError
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.search import BLOCK, SHORTEST_TOKEN, Scanner, Target

__all__ = ["ScanReport", "Target", "scan"]

_DEPTH = 4  # archives inside archives that are opened; deeper ones count as unreadable
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    sqlite3.Error,
    pa.ArrowException,
)


@dataclass(frozen=True)
class ScanReport:
    """What was searched and found; without personal data.

    Args:
        hits: ``{where, kind}``: kind is subject-id, row, or unreadable (it could hold anything).
        searched: ``{kind, files, bytes}``.
        notes: What the search could not see.
    """

    hits: tuple[dict[str, Any], ...]
    searched: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.hits

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            ``{clean, hits, searched, notes}``.
        """
        return {
            "clean": self.clean,
            "hits": list(self.hits),
            "searched": list(self.searched),
            "notes": list(self.notes),
        }


def scan(
    roots: Sequence[Path],
    target: Target,
    *,
    extra: Iterable[tuple[str, bytes]] = (),
    skip: Collection[Path] = (),
    only: Path | None = None,
    relative_to: Path | None = None,
) -> ScanReport:
    """Search all files below some folders, after proving on a planted canary that the search works.

    Args:
        roots: Folders.
        target: Whom and which rows to look for.
        extra: Further named byte streams, such as git objects.
        skip: Files and folders to leave out.
        only: Search this one file alone.
        relative_to: Folder that file names in the report are relative to.

    Returns:
        The report.

    Raises:
        ResidueError: If the canary was not found, or a folder is missing: no search is no proof.
    """
    if absent := [root.name for root in roots if not root.is_dir()]:
        raise ResidueError(
            "a folder to search is not there", got=", ".join(absent), remedy="name existing folders"
        )
    _try_canary()
    scanner = Scanner(target)
    files = [path for root in roots for path in _files(root, skip) if only is None or path == only]
    for number, path in enumerate(files):
        if number % 50 == 0:
            progress.report("residue scan", number, len(files))
        where = str(path.relative_to(relative_to)) if relative_to else path.name
        if scanner.names(path.name):
            where = str(Path(where).with_name("(a name with an id)"))
            scanner.found(where, "subject-id")
        _scan_file(scanner, where, path)
    for where, content in extra:
        label = "git object" if where.startswith("git ") else "extra"
        _scan_stream(scanner, where, io.BytesIO(content), _DEPTH, label=label)
    notes = []
    if target.pseudonyms:
        notes.append(
            "people whose ids are erased are recognised by pseudonym: in subject columns, and in tokens of "
            f"at least {SHORTEST_TOKEN} characters elsewhere; their rows were searched for at the purge"
        )
    short = sum(len(subject) < SHORTEST_TOKEN for subject in target.subjects)
    if short:
        notes.append(
            f"{short} id(s) shorter than {SHORTEST_TOKEN} characters were searched in subject columns and "
            "fields only"
        )
    searched = tuple(
        {"kind": k, "files": n, "bytes": scanner.bytes[k]} for k, n in sorted(scanner.files.items())
    )
    return ScanReport(tuple(scanner.hits), searched, tuple(notes))


def _files(root: Path, skip: Collection[Path]) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(name for name in names if here / name not in skip)
        yield from (
            here / name
            for name in sorted(files)
            if here / name not in skip and not (here / name).is_symlink()
        )


def _scan_file(scanner: Scanner, where: str, path: Path) -> None:
    try:
        with path.open("rb") as stream:
            if stream.read(1) == b"x" and ".git" in path.parts:
                return  # loose git objects come uncompressed through `extra`
            stream.seek(0)
            _scan_stream(scanner, where, stream, _DEPTH, path)
    except FileNotFoundError:
        return  # a temporary file that its owner has removed meanwhile
    except OSError:
        scanner.found(where, "unreadable")


def _scan_stream(
    scanner: Scanner, where: str, stream: IO[bytes], depth: int, path: Path | None = None, label: str = ""
) -> None:
    """Search a seekable stream by what its first bytes say it is."""
    magic = stream.read(16)
    kind, size = _kind(magic), stream.seek(0, os.SEEK_END)
    try:
        if kind == "parquet":
            scanner.parquet(where, stream)
        elif kind == "sqlite":
            with _on_disk(stream, path) as place:
                scanner.sqlite(where, place)
        elif kind == "zip":
            with zipfile.ZipFile(stream) as archive:
                for number, item in enumerate(archive.infolist()):
                    with archive.open(item) as member:
                        _nested(scanner, f"{where} member {number}", member, depth)
        elif kind == "compressed":
            stream.seek(0)
            opener = next(opener for start, opener in _COMPRESSED.items() if magic.startswith(start))
            with opener(stream, "rb") as content:
                _nested(scanner, where, content, depth)
        elif path is not None and path.suffix == ".csv":
            _csv(scanner, where, path)
    except _BROKEN:
        scanner.found(where, "unreadable")
    stream.seek(0)
    scanner.raw(where, iter(lambda: stream.read(BLOCK), b""), pages=kind in ("sqlite", "sqlite-log"))
    scanner.count(label or kind, size)


def _kind(magic: bytes) -> str:
    if magic.startswith(b"PAR1"):
        return "parquet"
    if magic.startswith(b"SQLite format 3"):
        return "sqlite"
    if magic.startswith((b"\x37\x7f\x06", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")):
        return "sqlite-log"  # a write-ahead log or rollback journal: copies of pages
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "compressed" if magic.startswith(tuple(_COMPRESSED)) else "bytes"


def _nested(scanner: Scanner, where: str, stream: IO[bytes], depth: int) -> None:
    if depth == 0:
        scanner.found(where, "unreadable")
        return
    with tempfile.TemporaryFile() as unpacked:  # has no name: gone even if this process is killed
        shutil.copyfileobj(stream, unpacked, BLOCK)
        unpacked.seek(0)
        _scan_stream(scanner, where, unpacked, depth - 1)


@contextmanager
def _on_disk(stream: IO[bytes], path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        stream.seek(0)
        with (Path(folder) / "database").open("wb") as copy:
            shutil.copyfileobj(stream, copy, BLOCK)
        yield Path(folder) / "database"


def _csv(scanner: Scanner, where: str, path: Path) -> None:
    try:
        for frame in pd.read_csv(path, dtype={"subject_id": str, "subject": str}, chunksize=20000):
            scanner.frame(where, frame, set(frame.columns))
    except ValueError:
        return  # not a table after all: searched as bytes


def _try_canary() -> None:
    """Plant a made-up person where the search must find it: a search that cannot fail proves nothing."""
    key, person = os.urandom(32), f"canary-{os.urandom(8).hex()}"
    frame = pd.DataFrame({"record_id": [0], "subject_id": [person], "label": ["x"], "value": [0.5]})
    columns = ("record_id", "label", "value")
    target = Target(frozenset({person}), frozenset(row_fingerprints(frame, columns, key)), columns, key)
    scanner = Scanner(target)
    with tempfile.TemporaryDirectory() as folder:
        table, text = Path(folder) / "object-without-suffix", Path(folder) / "log"
        frame.to_parquet(table)
        text.write_text(f"x {person} y")
        for path in (table, text):
            _scan_file(scanner, path.name, path)
    kinds = Counter((hit["where"], hit["kind"]) for hit in scanner.hits)
    expected = {(table.name, "subject-id"), (table.name, "row"), (text.name, "subject-id")}
    if set(kinds) != expected:
        raise ResidueError(
            "the residue scan did not find its canary",
            expected="3 hits",
            got=str(len(kinds)),
            remedy="report this",
        )
