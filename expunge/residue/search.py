"""What is searched for, and the searches themselves: bytes, tables, cells."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ahocorasick_rs import BytesAhoCorasick

from expunge.pseudonyms import Pseudonymiser
from expunge.residue.embedded import Embedded
from expunge.residue.fingerprints import row_fingerprints

SHORTEST_TOKEN = 6  # shorter ids occur by chance in any text: they are searched in structured places only
BLOCK = 1 << 22
_CELLS = 1 << 20  # of a table in memory at a time
_GLUED = 8  # ids this long are found in database pages even where other cells' text touches them
# "_" is no part of a word: report_<id>.csv must be found. Nor is the letter of an escaped line end or tab.
_BEFORE = re.compile(rb"(?:^|[^0-9A-Za-z]|\\[nrt])\Z", re.DOTALL)
_AFTER = re.compile(rb"[^0-9A-Za-z]|\Z", re.DOTALL)
_FRACTION, _DECIMALS = re.compile(rb"[0-9]\."), re.compile(rb"\.[0-9]")
_MOST_TOKENS = 1 << 20  # remembered: more would not stay in bounds
SUBJECT_COLUMNS = ("subject_id", "subject")
_HOLDS_IDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
)
_OWN_FORM = {
    "record_id",
    "subject_id",
    "label",
    "split",
}  # of a partition: its other numbers are measurements
_TOKEN = re.compile(rb"[0-9A-Za-z_.@+-]{6,64}")
_SEPARATOR = re.compile(rb"[.@+-]")


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
        texts: Those of the columns that are text, also where a file without types makes them look like numbers.
        embedded: How the rows are recognised as numbers in any file, while they are known.
        subject_column: What the dataset's source calls its column of people.
    """

    subjects: frozenset[str] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    key: bytes = b""
    pseudonyms: frozenset[str] = frozenset()
    pseudonymiser: Pseudonymiser | None = None
    texts: tuple[str, ...] = ()
    embedded: Mapping[str, Any] = field(default_factory=dict)
    subject_column: str | None = None

    @property
    def subject_columns(self) -> tuple[str, ...]:
        """Names of columns that hold people: short ids count there."""
        return (*SUBJECT_COLUMNS, *([self.subject_column] if self.subject_column else []))

    def is_subject(self, value: str) -> bool:
        """Whether a value is the id of an erased person.

        Args:
            value: Any text.

        Returns:
            True if it is.
        """
        if value in self.subjects:
            return True
        maker = self.pseudonymiser
        return maker is not None and not self.pseudonyms.isdisjoint(maker.every(value))


class Scanner:
    """Collects hits and counts what was searched.

    Args:
        target: Whom and which rows to look for.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.hits: list[dict[str, Any]] = []
        self.store = ""
        self.files: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.numbers = Embedded(target.embedded, target.key)
        self.owners: list[tuple[str, set[str]]] = []
        self._seen: set[bytes] = set()
        self._tables: dict[bytes, list[str]] = {}
        self._ids = {subject.encode() for subject in target.subjects}
        self._lengths = {len(one) for one in self._ids}
        self._needles = sorted(one for one in self._ids if len(one) >= SHORTEST_TOKEN)
        # One pass over a text finds any of thousands of ids; a regular expression would try each at every place.
        self._automaton = BytesAhoCorasick(self._needles)
        # Of databases and logs a field named "id" numbers anything; short ids would be found by chance.
        self._fields = [name for name in target.subject_columns if name != "id"]
        keys = b"|".join(re.escape(name.encode()) for name in self._fields)
        self._subject_key = re.compile(rb'"(?:%b)\\*"\s*:(?=(\s*\\*"?))' % keys)
        self._overlap = max([256, self.numbers.overlap, *(2 * length for length in self._lengths)])

    def found(self, where: str, kind: str) -> None:
        """Record a hit."""
        self.hits.append({"where": where, "kind": kind})

    def names(self, text: str) -> bool:
        """Whether a short text such as a file name holds an id."""
        content = text.encode(errors="replace")
        return self._holds(content, 0, len(content)) or self._any_token(content)

    def count(self, kind: str, size: int) -> None:
        """Count something searched, in the store that is searched now."""
        self.files[self.store, kind] += 1
        self.bytes[self.store, kind] += size

    def raw(self, where: str, blocks: Iterable[bytes], *, pages: bool = False, packed: bool = False) -> int:
        """Search a stream of bytes; an id or a row that straddles two blocks is found too.

        Args:
            where: Its name in hits.
            blocks: The bytes.
            pages: Whether they are a database's pages, where cells touch each other.
            packed: Whether they are compressed: numbers cannot be recognised in them.

        Returns:
            Number of bytes.
        """
        tail, size, hit, stream = b"", 0, False, iter(blocks)
        owners: set[str] = set()
        block = next(stream, None)
        while block is not None:
            following = next(stream, None)
            size += len(block)
            text = tail + block
            # A word cut off at an edge of the text looks complete: the neighbouring text shows it whole.
            first, last = (4 if tail else 0), (len(text) - 4 if following is not None else len(text))
            hit = hit or self._holds(text, first, last, pages) or self._any_token(text)
            owners |= set() if packed else self.numbers.find(text)
            tail, block = text[-self._overlap :], following
        if hit:
            self.found(where, "subject-id")
        if owners:
            self.owners.append((where, owners))
        return size

    def _holds(self, text: bytes, first: int, last: int, pages: bool = False) -> bool:
        for number, start, _ in self._automaton.find_matches_as_indexes(text, overlapping=True):
            one = self._needles[number]
            if pages and len(one) >= _GLUED:
                return True
            if start >= first and start + len(one) <= last and _stands_alone(text, start, one):
                return True
        return bool(self._ids) and any(
            text[start : start + length] in self._ids
            and start + length <= last
            and _AFTER.match(text, start + length)
            for key in self._subject_key.finditer(text, first)
            for start in range(key.start(1), key.end(1) + 1)
            for length in self._lengths
        )

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
        if len(self._seen) > _MOST_TOKENS:
            self._seen.clear()
        self._seen |= tokens
        return False

    def parquet(self, where: str, stream: IO[bytes]) -> None:
        """Search a Parquet file; of the same bytes in another place it is known what they hold."""
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").digest()  # type: ignore[arg-type]
        if digest in self._tables:
            for kind in self._tables[digest]:
                self.found(where, kind)
            return
        # Without these it would read a whole row group ahead, in a block for each column.
        file = pq.ParquetFile(stream, buffer_size=1 << 16, pre_buffer=False)
        rows = max(256, _CELLS // max(1, len(file.schema_arrow.names)))
        self._tables[digest] = self.table(where, file.iter_batches(batch_size=rows))

    def table(self, where: str, batches: Iterable[pa.RecordBatch]) -> list[str]:
        """Search a table: every cell that can hold an id, and every row's fingerprint.

        Args:
            where: Its name in hits.
            batches: Its rows, some at a time.

        Returns:
            Kinds of what was found.
        """
        kinds = set()
        for batch in batches:
            names = batch.schema.names
            for name, column in zip(names, batch.columns, strict=True):
                measured = name == "record_id" or (name != "subject_id" and set(names) >= _OWN_FORM)
                if "subject-id" not in kinds and any(
                    self._in_values(values, subject=name in self.target.subject_columns)
                    for values in _values(column)
                    if not (measured and pa.types.is_integer(values.type))
                ):
                    kinds.add("subject-id")
            if self.comparable(names) and self._has_row(batch.select(list(self.target.columns)).to_pandas()):
                kinds.add("row")
        for kind in sorted(kinds):
            self.found(where, kind)
        return sorted(kinds)

    def _in_values(self, values: pa.Array, *, subject: bool) -> bool:
        """Whether cells of a column hold an id: within a text, as a number, or whole where they are people."""
        measured = pa.types.is_floating(values.type)
        if measured and not subject:
            return False
        cells = pc.unique(values).drop_null()
        if subject and any(self.target.is_subject(_text(cell)) for cell in cells.to_pylist()):
            return True
        if measured:
            return False
        if not _is_bytes(values.type):
            cells = cells.cast(pa.large_string())
        joined = b"\x00".join(cells.cast(pa.large_binary()).to_pylist())
        return self._holds(joined, 0, len(joined)) or self._any_token(joined)

    def frame(self, where: str, frame: pd.DataFrame, names: set[str]) -> None:
        """Search the subject columns, and every row's fingerprint, of rows whose bytes are searched besides."""
        for column in sorted(names.intersection(self.target.subject_columns)):
            if any(self.target.is_subject(value) for value in frame[column].astype(str).unique()):
                self.found(where, "subject-id")
        if self.comparable(names) and self._has_row(frame):
            self.found(where, "row")

    def _has_row(self, frame: pd.DataFrame) -> bool:
        codes = row_fingerprints(frame, self.target.columns, self.target.key)
        return not self.target.fingerprints.isdisjoint(codes)

    def comparable(self, names: Iterable[str]) -> bool:
        """Whether rows of a table with these columns can be compared with the removed ones."""
        return bool(self.target.fingerprints) and set(self.target.columns) <= set(names)

    def cells(self, where: str, rows: Iterable[tuple[Any, ...]], names: list[str]) -> None:
        """Search the cells of a table: as text, and whole where the column names subjects."""
        named, subject = False, [index for index, name in enumerate(names) if name in self._fields]

        def texts() -> Iterator[bytes]:
            nonlocal named
            for row in rows:
                values = [v if isinstance(v, bytes) else b"" if v is None else str(v).encode() for v in row]
                named = named or any(
                    self.target.is_subject(values[i].decode(errors="replace")) for i in subject
                )
                yield b"\x00".join(values) + b"\x00"

        before = len(self.hits)
        self.raw(where, _gathered(texts()))
        if named and len(self.hits) == before:
            self.found(where, "subject-id")


def _values(column: pa.Array) -> Iterator[pa.Array]:
    """The texts and numbers of a column, out of lists and records too."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _values(column.dictionary)
    elif pa.types.is_map(kind):
        yield from _values(column.keys)
        yield from _values(column.items)
    elif pa.types.is_string_view(kind):  # of which distinct values cannot be had
        yield column.cast(pa.large_string())
    elif pa.types.is_binary_view(kind):
        yield column.cast(pa.large_binary())
    elif isinstance(column, pa.StructArray | pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        inner = column.flatten()
        for part in inner if isinstance(inner, list) else [inner]:
            yield from _values(part)
    elif any(holds(kind) for holds in _HOLDS_IDS):
        yield column


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(holds(kind) for holds in kinds)


def _text(cell: str | bytes | float) -> str:
    """A cell as an id: a column of whole numbers with gaps is one of floating point in many tools."""
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else ""
    return cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)


def _stands_alone(text: bytes, start: int, one: bytes) -> bool:
    end = start + len(one)
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if not (_BEFORE.search(before) and _AFTER.match(after)):
        return False
    # The digits of a decimal number are nobody's id.
    return not (one.isdigit() and (_FRACTION.fullmatch(before) or _DECIMALS.fullmatch(after)))


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= BLOCK:
            yield bytes(held)
            held.clear()
    yield bytes(held)
