"""Streams by what their first bytes say they are: DVC's objects have no names that would tell.

Parquet, Arrow files and ORC are decoded, SQLite is read cell by cell, tables of text row by row, archives and
compressed files are opened (what they hold is told apart in turn); everything is searched as bytes besides. What
cannot be read is a hit: nobody knows what it holds. Memory stays bounded: what must be sought in lies in temporary
files.
"""

import bz2
import gzip
import json
import lzma
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.ipc
from pyarrow import orc

from expunge.residue.databases import search_sqlite
from expunge.residue.search import BLOCK, Scanner

_DEPTH = 4  # archives inside archives that are opened; deeper ones count as unreadable
_HEAD = 1 << 16  # a table of text names its columns within these bytes
_ROWS = 20_000
_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
    b"\x28\xb5\x2f\xfd": lambda stream, _: pa.CompressedInputStream(stream, "zstd"),
    b"\x04\x22\x4d\x18": lambda stream, _: pa.CompressedInputStream(stream, "lz4"),
}
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    sqlite3.Error,
    pa.ArrowException,
)


def scan_file(scanner: Scanner, where: str, path: Path) -> None:
    """Search a file; one that its owner has removed meanwhile is passed over.

    Args:
        scanner: Collects the hits.
        where: Name of the file in them.
        path: The file.
    """
    try:
        with path.open("rb") as stream:
            scan_stream(scanner, where, stream, path=path)
    except FileNotFoundError:
        return
    except OSError:
        scanner.found(where, "unreadable")


def scan_stream(
    scanner: Scanner,
    where: str,
    stream: IO[bytes],
    *,
    depth: int = _DEPTH,
    path: Path | None = None,
    label: str = "",
) -> None:
    """Search a seekable stream.

    Args:
        scanner: Collects the hits.
        where: Its name in them.
        stream: The bytes.
        depth: How many archives inside archives may still be opened.
        path: The file, if it is one.
        label: What it counts as; else what it is.
    """
    stream.seek(0)
    head = stream.read(_HEAD)
    kind, size = _kind(head), stream.seek(0, os.SEEK_END)
    stream.seek(0)
    blocks = iter(lambda: stream.read(BLOCK), b"")
    pages, packed = kind in ("sqlite", "sqlite-log"), kind in ("parquet", "orc", "compressed")
    scanner.raw(where, blocks, pages=pages, packed=packed)
    scanner.count(label or kind, size)
    stream.seek(0)
    try:  # last: some of these close the stream
        if kind == "parquet":
            scanner.parquet(where, stream)
        elif kind == "arrow":
            with pa.ipc.open_file(stream) as table:
                scanner.table(where, map(table.get_batch, range(table.num_record_batches)))
        elif kind == "orc":
            stripes = orc.ORCFile(stream)
            scanner.table(where, map(stripes.read_stripe, range(stripes.nstripes)))
        elif kind == "hdf5":  # nothing here reads it
            scanner.found(where, "unreadable")
        elif kind == "sqlite":
            with _on_disk(stream, path) as place:
                search_sqlite(scanner, where, place)
        elif kind == "zip":
            with zipfile.ZipFile(stream) as archive:
                for number, item in enumerate(archive.infolist()):
                    with archive.open(item) as member:
                        _nested(scanner, f"{where} member {number}", member, depth)
        elif kind == "tar":
            with tarfile.open(fileobj=stream, mode="r:") as tape:
                for number, entry in enumerate(tape):
                    if (content := tape.extractfile(entry) if entry.isreg() else None) is not None:
                        _nested(scanner, f"{where} member {number}", content, depth)
        elif kind == "compressed":
            opener = next(opener for start, opener in _COMPRESSED.items() if head.startswith(start))
            with opener(stream, "rb") as content:
                _nested(scanner, where, content, depth)
        else:
            _text_table(scanner, where, stream, head)
    except _BROKEN:
        scanner.found(where, "unreadable")


def _kind(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1\x00\x00"):
        return "arrow"
    if head.startswith(b"ORC") and b"\x00" in head:  # no text that begins like this
        return "orc"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"SQLite format 3"):
        return "sqlite"
    if head.startswith((b"\x37\x7f\x06", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")):
        return "sqlite-log"  # a write-ahead log or rollback journal: copies of pages
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    return "compressed" if head.startswith(tuple(_COMPRESSED)) else "bytes"


def _nested(scanner: Scanner, where: str, stream: IO[bytes], depth: int) -> None:
    if depth == 0:
        scanner.found(where, "unreadable")
        return
    with tempfile.TemporaryFile() as unpacked:  # has no name: gone even if this process is killed
        shutil.copyfileobj(stream, unpacked, BLOCK)
        scan_stream(scanner, where, unpacked, depth=depth - 1)


@contextmanager
def _on_disk(stream: IO[bytes], path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "database").open("wb") as copy:
            shutil.copyfileobj(stream, copy, BLOCK)
        yield Path(folder) / "database"


def _text_table(scanner: Scanner, where: str, stream: IO[bytes], head: bytes) -> None:
    """Search rows of text whose first line names the columns, with any separator, or as JSON, one a line."""
    first = head.partition(b"\n")[0].decode("utf-8-sig", errors="replace").strip("\r")
    if first.startswith("{"):
        if _tells(scanner, _record(first)):
            for frame in _json_frames(stream):
                scanner.frame(where, frame, set(frame.columns))
        return
    for separator in ",\t;|":
        if _tells(scanner, first.replace('"', "").split(separator)):
            try:
                for frame in _csv_frames(scanner, stream, separator):
                    scanner.frame(where, frame, set(frame.columns))
            except ValueError:
                return  # not a table after all: searched as bytes
            return


def _tells(scanner: Scanner, names: Collection[str]) -> bool:
    target, parts = scanner.target, set(scanner.target.subject_parts)
    person = not set(target.subject_columns).isdisjoint(names) or (parts and parts <= set(names))
    return bool(person) or scanner.comparable(names)


def _csv_frames(scanner: Scanner, stream: IO[bytes], separator: str) -> Iterator[pd.DataFrame]:
    # Text stays text: neither digits become numbers nor "None" nothing; numbers are read to the last bit.
    reader = pd.read_csv(
        stream,
        sep=separator,
        encoding="utf-8-sig",
        encoding_errors="replace",
        dtype=dict.fromkeys(
            (*scanner.target.texts, *scanner.target.subject_columns, *scanner.target.subject_parts), str
        ),
        keep_default_na=False,
        na_values=[""],
        float_precision="round_trip",
        on_bad_lines="skip",
        chunksize=_ROWS,
    )
    yield from reader


def _json_frames(stream: IO[bytes]) -> Iterator[pd.DataFrame]:
    lines = iter(lambda: stream.readline(_HEAD), b"")
    while part := list(islice(lines, _ROWS)):
        yield pd.DataFrame([record for line in part if (record := _record(line))])


def _record(line: bytes | str) -> dict[str, Any]:
    """An object in JSON; of anything else, an empty one."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
