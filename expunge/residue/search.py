"""The searches themselves: bytes, tables, cells."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ahocorasick_rs import BytesAhoCorasick

from expunge.residue.embedded import Embedded
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.target import Target
from expunge.subjects import join_parts, spellings

SHORTEST_TOKEN = 6  # shorter ids occur by chance in any text: they are searched in structured places only
BLOCK = 1 << 22
_CELLS = 1 << 20  # of a table in memory at a time
_GLUED = 8  # ids this long are found in database pages even where other cells' text touches them
# "_" is no part of a word: report_<id>.csv must be found. Nor is the letter of an escaped line end or tab.
_BEFORE = re.compile(rb"(?:^|[^0-9A-Za-z]|\\[nrt])\Z", re.DOTALL)
_AFTER = re.compile(rb"[^0-9A-Za-z]|\Z", re.DOTALL)
_FRACTION, _DECIMALS = re.compile(rb"[0-9]\."), re.compile(rb"\.[0-9]")
_Hit = tuple[str, dict[str, Any]]
_MOST_TOKENS = 1 << 20  # remembered: more would not stay in bounds
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
_FIELD = re.compile(rb'\s*(?:\\*"([^"\\]{1,200})|([^"\\,}\]\s]{1,200}))')  # the value after a key in JSON
_NUMBER = re.compile(rb"[0-9]+\.0")


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
        self._tables: dict[bytes, list[_Hit]] = {}
        self._ids = {subject.encode() for subject in target.subjects}
        self._lengths = {len(one) for one in self._ids}
        # One pass over a text finds any of thousands of ids; a regular expression would try each at every place. The
        # text is in small letters then, and so are the ids, in each of their spellings.
        blind = {one.encode().lower() for subject in target.by_form.values() for one in spellings(subject)}
        self._blind = sorted(
            one for one in blind if len(one) >= SHORTEST_TOKEN and not _NUMBER.fullmatch(one)
        )
        self._blindly = BytesAhoCorasick(self._blind)
        alike = set(target.by_form.values())
        self._needles = sorted(
            one.encode() for one in target.subjects - alike if len(one.encode()) >= SHORTEST_TOKEN
        )
        self._automaton = BytesAhoCorasick(self._needles)
        # Of databases and logs a field named "id" numbers anything; short ids would be found by chance.
        self._fields = [name for name in target.subject_columns if name != "id"]
        keys = b"|".join(re.escape(name.encode()) for name in self._fields)
        self._subject_key = re.compile(rb'"(?:%b)\\*"\s*:(?=(\s*\\*"?))' % keys)
        longest = [2 * len(one) for one in (*self._ids, *self._blind)]
        self._overlap = max([512, self.numbers.overlap, *longest])

    def found(self, where: str, kind: str, **detail: Any) -> None:
        """Record a hit: where, of what kind, and in a column of people which one, how many rows, and whose."""
        self.hits.append({"where": where, "kind": kind, **detail})

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
        passes: list[tuple[BytesAhoCorasick, list[bytes], bytes]] = []
        if self._blind:
            passes.append((self._blindly, self._blind, text.lower()))
        if self._needles:
            passes.append((self._automaton, self._needles, text))
        for automaton, needles, searched in passes:
            for number, start, _ in automaton.find_matches_as_indexes(searched, overlapping=True):
                one = needles[number]
                if pages and len(one) >= _GLUED:
                    return True
                if start >= first and start + len(one) <= last and _stands_alone(text, start, one):
                    return True
        return bool(self._ids) and any(
            self._in_field(text, key, last) for key in self._subject_key.finditer(text, first)
        )

    def _in_field(self, text: bytes, key: re.Match[bytes], last: int) -> bool:
        """Whether the value after a key that names people is one of them."""
        value = _FIELD.match(text, key.end())
        if value is not None and value.end() <= last:
            content = (value[1] or value[2]).decode(errors="replace")
            if content.strip() and self.target.is_subject(content):
                return True
        return any(
            text[start : start + length] in self._ids
            and start + length <= last
            and _AFTER.match(text, start + length)
            for start in range(key.start(1), key.end(1) + 1)
            for length in self._lengths
        )

    def _any_token(self, text: bytes) -> bool:
        """Whether any token of a text is an erased person's id, known by its pseudonym alone."""
        if not (self.target.pseudonyms or self.target.codes):
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
            for kind, detail in self._tables[digest]:
                self.found(where, kind, **detail)
            return
        # Without these it would read a whole row group ahead, in a block for each column.
        file = pq.ParquetFile(stream, buffer_size=1 << 16, pre_buffer=False)
        rows = max(256, _CELLS // max(1, len(file.schema_arrow.names)))
        self._tables[digest] = self.table(where, file.iter_batches(batch_size=rows))

    def table(self, where: str, batches: Iterable[pa.RecordBatch]) -> list["_Hit"]:
        """Search a table: every cell that can hold an id, and every row's fingerprint.

        Args:
            where: Its name in hits.
            batches: Its rows, some at a time.

        Returns:
            What was found.
        """
        people, kinds = _People(), set[str]()
        for batch in batches:
            names = batch.schema.names
            for name, column in zip(names, batch.columns, strict=True):
                measured = name == "record_id" or (name != "subject_id" and set(names) >= _OWN_FORM)
                for values in _values(column):
                    if measured and pa.types.is_integer(values.type):
                        continue
                    if name in self.target.subject_columns:
                        self._people(people, name, values)
                    if not people.seen and "subject-id" not in kinds and self._in_values(values):
                        kinds.add("subject-id")
            if self.target.subject_parts and set(self.target.subject_parts) <= set(names):
                parts = [batch.column(name).to_pylist() for name in self.target.subject_parts]
                self._joined(people, parts)
            if self.comparable(names) and self._has_row(batch.select(list(self.target.columns)).to_pandas()):
                kinds.add("row")
        hits: list[_Hit] = people.hits() or [("subject-id", {})] * ("subject-id" in kinds)
        hits += [("row", {})] * ("row" in kinds)
        for kind, detail in hits:
            self.found(where, kind, **detail)
        return hits

    def _people(self, people: "_People", name: str, values: pa.Array) -> None:
        """Note whose cells there are in a column that holds people."""
        for cell in pc.value_counts(values).to_pylist():
            if cell["values"] is not None:
                whose = self.target.whose(_text(cell["values"]), whole=True)
                people.note(name, whose, int(cell["counts"]))

    def _joined(self, people: "_People", parts: list[list[Any]]) -> None:
        """Note whose rows there are in a table where several columns are a person."""
        ids = Counter(
            join_parts([_text(part) for part in row])
            for row in zip(*parts, strict=True)
            if not any(part is None or part != part for part in row)
        )
        for one, rows in ids.items():
            people.note("|".join(self.target.subject_parts), self.target.whose(one, whole=True), rows)

    def _in_values(self, values: pa.Array) -> bool:
        """Whether cells of a column hold an id: within a text, or as a whole number."""
        if pa.types.is_floating(values.type):
            return False
        cells = pc.unique(values).drop_null()
        if not _is_bytes(values.type):
            cells = cells.cast(pa.large_string())
        joined = b"\x00".join(cells.cast(pa.large_binary()).to_pylist())
        return self._holds(joined, 0, len(joined)) or self._any_token(joined)

    def frame(self, where: str, frame: pd.DataFrame, names: set[str]) -> None:
        """Search the subject columns, and every row's fingerprint, of rows whose bytes are searched besides."""
        people = _People()
        for column in sorted(names.intersection(self.target.subject_columns)):
            for value, rows in frame[column].astype(str).value_counts().items():
                people.note(column, self.target.whose(str(value), whole=True), int(rows))
        if self.target.subject_parts and names.issuperset(self.target.subject_parts):
            self._joined(people, [frame[name].tolist() for name in self.target.subject_parts])
        for kind, detail in people.hits():
            self.found(where, kind, **detail)
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
        people, subject = _People(), [index for index, name in enumerate(names) if name in self._fields]

        def texts() -> Iterator[bytes]:
            for row in rows:
                values = [v if isinstance(v, bytes) else b"" if v is None else str(v).encode() for v in row]
                for i in subject:
                    if values[i]:
                        whose = self.target.whose(values[i].decode(errors="replace"), whole=True)
                        people.note(names[i], whose, 1)
                yield b"\x00".join(values) + b"\x00"

        before = len(self.hits)
        self.raw(where, _gathered(texts()))
        if people.seen:
            del self.hits[before:]
            for kind, detail in people.hits():
                self.found(where, kind, **detail)


class _People:
    """Rows of people that were found in columns that hold people."""

    def __init__(self) -> None:
        self.seen: dict[str, Counter[str]] = {}

    def note(self, column: str, whose: str | None, rows: int) -> None:
        if whose is not None:
            self.seen.setdefault(column, Counter())[whose] += rows

    def hits(self) -> list["_Hit"]:
        """One a column: it, its rows, and whose they are."""
        return [
            ("subject-id", {"column": column, "rows": rows.total(), "whose": sorted(filter(None, rows))})
            for column, rows in self.seen.items()
        ]


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
