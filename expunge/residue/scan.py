"""Search every file of a workspace for the ids and the rows of erased people.

Files are told apart by their first bytes, not their names: DVC's objects have none. Parquet is decoded, SQLite is
read table by table, compressed files are opened, everything else is searched as bytes.
"""

import gzip
import lzma
import os
import re
import sqlite3
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expunge import progress
from expunge.errors import ResidueError
from expunge.pseudonyms import Pseudonymiser
from expunge.residue.fingerprints import row_fingerprints

SHORTEST_TOKEN = 6  # shorter ids occur by chance in any text: they are searched in structured places only
_BLOCK = 1 << 22
_WORD = rb"[0-9A-Za-z_]"
_TOKEN = re.compile(rb"[0-9A-Za-z_.@+-]{6,64}")
_SEPARATOR = re.compile(rb"[.@+-]")
_SUBJECT_KEY = rb'"subject(?:_id)?"\s*:\s*"?'


@dataclass(frozen=True)
class Target:
    """What is searched for.

    Args:
        subjects: Ids of the erased people, while they are known.
        fingerprints: Of the removed rows, while they are known.
        columns: The columns they were made over.
        key: The key they were made with.
        pseudonyms: Of erased people whose ids are no longer known.
        pseudonymiser: Makes pseudonyms of whatever is found, to compare.
    """

    subjects: frozenset[str] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    key: bytes = b""
    pseudonyms: frozenset[str] = frozenset()
    pseudonymiser: Pseudonymiser | None = None

    def is_subject(self, value: str) -> bool:
        """Whether a value is the id of an erased person.

        Args:
            value: Any text.

        Returns:
            True if it is.
        """
        if value in self.subjects:
            return True
        return self.pseudonymiser is not None and self.pseudonymiser.of(value) in self.pseudonyms


@dataclass(frozen=True)
class ScanReport:
    """What was searched and found; without personal data.

    Args:
        hits: ``{where, kind}``: kind is subject-id or row.
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


class _Scanner:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.hits: list[dict[str, Any]] = []
        self.files: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.unread: list[str] = []
        self._seen: set[bytes] = set()
        tokens = sorted(re.escape(s.encode()) for s in target.subjects if len(s) >= SHORTEST_TOKEN)
        every = sorted(re.escape(s.encode()) for s in target.subjects)
        self._token = (
            re.compile(rb"(?<!%b)(?:%b)(?!%b)" % (_WORD, b"|".join(tokens), _WORD)) if tokens else None
        )
        self._keyed = (
            re.compile(rb"%b(?:%b)(?!%b)" % (_SUBJECT_KEY, b"|".join(every), _WORD)) if every else None
        )

    def found(self, where: str, kind: str) -> None:
        self.hits.append({"where": where, "kind": kind})

    def count(self, kind: str, size: int) -> None:
        self.files[kind] += 1
        self.bytes[kind] += size

    def raw(self, where: str, blocks: Iterable[bytes]) -> int:
        """Search a stream of bytes; an id that straddles two blocks is found too."""
        tail, size, hit = b"", 0, False
        for block in blocks:
            size += len(block)
            text = tail + block
            hit = hit or any(
                pattern.search(text) is not None for pattern in (self._token, self._keyed) if pattern
            )
            hit = hit or self._any_token(text)
            tail = text[-256:]
        if hit:
            self.found(where, "subject-id")
        return size

    def _any_token(self, text: bytes) -> bool:
        """Whether any token of a text is an erased person's id, known by its pseudonym alone."""
        if not self.target.pseudonyms:
            return False
        tokens = set(_TOKEN.findall(text)) - self._seen
        parts = {
            part
            for token in tokens
            for part in (token, *_SEPARATOR.split(token))
            if len(part) >= SHORTEST_TOKEN
        }
        if any(self.target.is_subject(part.decode()) for part in parts):
            return True
        self._seen |= tokens
        return False

    def parquet(self, where: str, path: Path) -> None:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        for group in range(file.num_row_groups):
            frame = file.read_row_group(group).to_pandas()
            self.frame(where, frame, names)
        self.count("parquet", path.stat().st_size)

    def frame(self, where: str, frame: pd.DataFrame, names: set[str]) -> None:
        for column in sorted(names & {"subject_id", "subject"}):
            if any(self.target.is_subject(value) for value in frame[column].astype(str).unique()):
                self.found(where, "subject-id")
        if self.target.fingerprints and set(self.target.columns) <= names:
            codes = row_fingerprints(frame, self.target.columns, self.target.key)
            if not self.target.fingerprints.isdisjoint(codes):
                self.found(where, "row")

    def sqlite(self, where: str, path: Path) -> None:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            tables = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            for table in tables:
                quoted = table.replace('"', '""')
                cursor = connection.execute(f'SELECT * FROM "{quoted}"')
                columns = [item[0] for item in cursor.description]
                subject = [index for index, name in enumerate(columns) if name in ("subject_id", "subject")]
                for row in cursor:
                    if any(
                        self.target.is_subject(str(row[index])) for index in subject if row[index] is not None
                    ):
                        self.found(f"{where} table {table}", "subject-id")
                        break
        finally:
            connection.close()
        self.count("sqlite", path.stat().st_size)


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
        ResidueError: If the canary was not found.
    """
    _try_canary()
    scanner = _Scanner(target)
    files = [path for root in roots for path in _files(root, skip) if only is None or path == only]
    for number, path in enumerate(files):
        if number % 50 == 0:
            progress.report("residue scan", number, len(files))
        where = str(path.relative_to(relative_to)) if relative_to else path.name
        _scan_file(scanner, where, path)
    for where, content in extra:
        scanner.count("git object" if where.startswith("git ") else "extra", len(content))
        scanner.raw(where, [content])
    notes = [f"not readable: {name}" for name in scanner.unread]
    if target.pseudonyms:
        notes.append(
            "people whose ids are erased are recognised by pseudonym: in subject columns, and in tokens of at least "
            f"{SHORTEST_TOKEN} characters elsewhere; their rows were searched for when they were purged"
        )
    short = sum(len(subject) < SHORTEST_TOKEN for subject in target.subjects)
    if short:
        notes.append(
            f"{short} id(s) shorter than {SHORTEST_TOKEN} characters were searched in subject columns and fields only"
        )
    searched = tuple(
        {"kind": k, "files": n, "bytes": scanner.bytes[k]} for k, n in sorted(scanner.files.items())
    )
    return ScanReport(tuple(scanner.hits), searched, tuple(notes))


def _files(root: Path, skip: Collection[Path]) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(name for name in names if here / name not in skip)
        yield from (here / n for n in sorted(files) if here / n not in skip and not (here / n).is_symlink())


def _scan_file(scanner: _Scanner, where: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(16)
        if magic[:4] == b"PAR1":
            scanner.parquet(where, path)
        elif magic[:15] == b"SQLite format 3":
            scanner.sqlite(where, path)
            scanner.raw(f"{where} (pages)", _blocks(path))
        elif magic[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                size = sum(
                    scanner.raw(f"{where}:{name}", [archive.read(name)]) for name in archive.namelist()
                )
            scanner.count("zip", size)
        elif magic[:2] == b"\x1f\x8b" or magic[:6] == b"\xfd7zXZ\x00":
            opener: Any = gzip.open if magic[:2] == b"\x1f\x8b" else lzma.open
            with opener(path, "rb") as stream:
                scanner.count("compressed", scanner.raw(where, iter(lambda: stream.read(_BLOCK), b"")))
        elif path.suffix == ".csv":
            frame = pd.read_csv(path, dtype={"subject_id": str, "subject": str})
            scanner.frame(where, frame, set(frame.columns))
            scanner.count("csv", scanner.raw(where, _blocks(path)))
        else:
            content = _blocks(path)
            if magic[:1] == b"x" and ".git" in path.parts:
                return  # loose git objects come uncompressed through `extra`
            scanner.count("bytes", scanner.raw(where, content))
    except FileNotFoundError:
        return  # a temporary file that its owner has removed meanwhile
    except (
        OSError,
        EOFError,
        ValueError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        sqlite3.Error,
        pa.ArrowException,
    ):
        scanner.unread.append(where)
        scanner.raw(where, _blocks(path))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_BLOCK), b"")


def _try_canary() -> None:
    """Plant a made-up person where the search must find it: a search that cannot fail proves nothing."""
    key, person = os.urandom(32), f"canary-{os.urandom(8).hex()}"
    frame = pd.DataFrame({"record_id": [0], "subject_id": [person], "label": ["x"], "value": [0.5]})
    columns = ("record_id", "label", "value")
    target = Target(frozenset({person}), frozenset(row_fingerprints(frame, columns, key)), columns, key)
    scanner = _Scanner(target)
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
