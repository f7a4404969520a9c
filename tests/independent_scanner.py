"""A second residue scanner, for tests only: it shares no code with the product's, so that both cannot be blind alike.

It knows what it looks for in the clear: ids, and record numbers with the values beside them. Whatever it cannot open it
reads as text. It is slow, and holds one file in memory.
"""

import bz2
import gzip
import io
import lzma
import re
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
import pyarrow.parquet as pq

WORD = re.compile(rb"[0-9A-Za-z][0-9A-Za-z_.-]*")
OPENERS = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ": lzma.decompress}


def hits(root: Path, people: Iterable[str], records: Iterable[int], postgres: str | None = None) -> list[str]:
    """Where ids of these people, or rows with these record numbers, lie: in files, git objects and a database."""
    wanted, numbers = {person.encode() for person in people}, set(records)
    found = []
    for name, content in _everything(root, postgres):
        if reason := _look(content, wanted, numbers):
            found.append(f"{name}: {reason}")
    return found


def _everything(root: Path, postgres: str | None) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        yield f"name of {path.relative_to(root)}", path.name.encode()
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(root)), path.read_bytes()
    listed = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch-check"], cwd=root, capture_output=True, check=True
    ).stdout.split(b"\n")
    for line in filter(None, listed):
        name, kind, _ = line.decode().split()
        content = subprocess.run(["git", "cat-file", kind, name], cwd=root, capture_output=True, check=True)
        yield f"git {name}", content.stdout
    if postgres is not None:
        with psycopg.connect(postgres) as connection:
            tables = connection.execute(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT LIKE 'pg_%'"
                " AND schemaname <> 'information_schema'"
            ).fetchall()
            for schema, table in tables:
                rows = connection.execute(f'SELECT * FROM "{schema}"."{table}"').fetchall()  # type: ignore[arg-type]
                yield f"table {table}", "\n".join("\t".join(map(str, row)) for row in rows).encode()


def _look(content: bytes, wanted: set[bytes], numbers: set[int], depth: int = 4) -> str:
    if content[:4] == b"PAR1" and content[-4:] == b"PAR1":
        return _table(content, wanted, numbers)
    if content[:4] == b"PK\x03\x04" and depth:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inside = (_look(archive.read(name), wanted, numbers, depth - 1) for name in archive.namelist())
            return next(filter(None, inside), "")
    for magic, opener in OPENERS.items():
        if content.startswith(magic) and depth:
            return _look(opener(content), wanted, numbers, depth - 1)
    if content.startswith(b"SQLite format 3\x00"):
        with sqlite3.connect(":memory:") as database:
            # what is in a write-ahead log is read as that file
            database.deserialize(content[:18] + b"\x01\x01" + content[20:])
            content = b"\n".join([content, *(line.encode(errors="replace") for line in database.iterdump())])
    return "an id" if not wanted.isdisjoint(_words(content)) else ""


def _words(content: bytes) -> Iterator[bytes]:
    for match in WORD.finditer(content):
        word = match.group().strip(b"._-")
        yield word
        yield from re.split(rb"[_.]", word) if not re.fullmatch(rb"[0-9]+\.[0-9]+", word) else ()


def _table(content: bytes, wanted: set[bytes], numbers: set[int]) -> str:
    table = pq.read_table(io.BytesIO(content))
    for name in table.column_names:
        values = set(table.column(name).to_pylist())
        if name == "record_id" and not numbers.isdisjoint(values):
            return "a row"
        if name == "subject_id" and not wanted.isdisjoint(str(value).encode() for value in values):
            return "an id"
    return ""
