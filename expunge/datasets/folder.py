"""One's own folder of files: every file below it is read, or named as not read; how each was read is said."""

import codecs
import csv
import gzip
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from expunge.datasets.contract import DatasetContract
from expunge.datasets.numbers import Decimal, as_numbers, decimal_marks
from expunge.errors import DatasetError

CONTRACT_FILE = "contract.yaml"
# Empty cells of a number column. In a text column only "" is empty: a person may be called "NA", a category "None".
_NO_NUMBER = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
# Rows that would be left out without anybody knowing: refused. Anything else beside the data is named.
_OTHER_TABLES = (
    *(
        ".xlsx",
        ".xls",
        ".ods",
        ".json",
        ".jsonl",
        ".ndjson",
        ".feather",
        ".arrow",
        ".orc",
        ".avro",
        ".dta",
        ".sav",
    ),
    *(".txt", ".dat", ".gz", ".zip", ".xz", ".bz2", ".zst", ".7z", ".tar", ".db", ".sqlite", ".h5", ".pkl"),
)
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DELIMITERS = (",", ";", "\t", "|")
_HEAD, _SHOWN, _BLOCK = 1 << 16, 8, 1 << 20
_LARGEST_RATIO, _ALWAYS = 200, 1 << 26  # of a gzip file: more is a bomb, and no table
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def some(names: "list[str]") -> str:
    """The first few of many names.

    Args:
        names: Of files or columns.

    Returns:
        At most eight, and how many more there are.

    Example:
        >>> some(["a", "b"])
        'a, b'
    """
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:60] for name in names[:_SHOWN]) + more


def files_of(folder: Path) -> tuple[list[Path], list[str]]:
    """Every table of a folder and below, and what beside them is not read.

    Args:
        folder: The folder.

    Returns:
        Tables by path, and names of other files.

    Raises:
        DatasetError: If it holds tables in a form that is not read, or none at all.
    """
    paths: list[Path] = []
    left: list[str] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        left += [f"{one}/" for one in folders if one.startswith(".") or (Path(place) / one).is_symlink()]
        folders[:] = [
            one for one in folders if not one.startswith(".") and not (Path(place) / one).is_symlink()
        ]
        for name in sorted(names):
            path = Path(place) / name
            if path == folder / CONTRACT_FILE:
                continue
            readable = name.lower().endswith(_TABLES) and not name.startswith((".", "_"))
            if readable:
                paths.append(path)
            else:
                left.append(str(path.relative_to(folder)))
    refused = [one for one in left if one.lower().endswith(_OTHER_TABLES) and not one.startswith((".", "_"))]
    if refused:
        raise DatasetError(
            "files of the folder cannot be read",
            expected=f"tables that end in {', '.join(_TABLES)}",
            got=some(refused),
            remedy="export them in one of these forms, or move them out of the folder",
        )
    if not paths:
        images = sum(one.lower().endswith(_IMAGES) for one in left)
        raise DatasetError(
            "the folder holds no data",
            expected="CSV, TSV (also .gz) or Parquet files",
            got=f"{images} images, which are not read" if images else some(left) or folder.name,
            remedy="write one table, a row for each image: the person, the label, and a number column for each pixel"
            if images
            else "export the rows into the folder",
        )
    return sorted(paths), left


def read(folder: Path, contract: DatasetContract) -> tuple[pd.DataFrame, list[str]]:
    """Read every table of a folder.

    Args:
        folder: With tables.
        contract: What it promises; ``files`` says how they are written where that cannot be told.

    Returns:
        Rows in the order of the files' paths, and what was read how, or not read, in words.

    Raises:
        DatasetError: If a file cannot be read, can be read in two ways, or lacks a column that others have.
    """
    paths, left = files_of(folder)
    frames: list[pd.DataFrame] = []
    said: list[str] = []
    decimals: dict[str, Decimal] = {}
    for path in paths:
        name = str(path.relative_to(folder))
        try:
            if path.suffix.lower() == ".parquet":
                frame, form = _parquet(path, name), "Parquet"
            else:
                frame, form, decimal = _text(path, name, contract)
                if decimal is not None:
                    decimals[name] = decimal
        except DatasetError:
            raise
        except UnicodeError as error:
            raise _encoding(name, contract) from error
        except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
            said_by = " ".join(str(error).split())[:200]
            raise DatasetError(
                f"cannot read {name}", got=f"{type(error).__name__}: {said_by}", remedy="correct the file"
            ) from error
        for key, value in _partition(path.relative_to(folder)):
            if key not in frame.columns:
                frame[key] = value
        frames.append(frame)
        said.append(f"{name}: {len(frame):,} rows, {form}")
    if len(set(decimals.values())) > 1:
        raise DatasetError(
            "the files write numbers in two ways",
            expected="decimal points or decimal commas in all of them",
            got="commas in "
            + some([one for one, mark in decimals.items() if mark == ","])
            + "; points in others",
            remedy="export them alike",
        )
    _whole([str(path.relative_to(folder)) for path in paths], frames, contract)
    lines = said[:_SHOWN] + ([f"and {len(said) - _SHOWN} more files"] if len(said) > _SHOWN else [])
    return pd.concat(frames, ignore_index=True), lines + ([f"not read: {some(left)}"] if left else [])


def needed(contract: DatasetContract) -> list[str]:
    """Every column that a contract names.

    Args:
        contract: The contract.

    Returns:
        Their names.
    """
    special = (*contract.subject_columns, contract.label, contract.split.column)
    return [*(rule.name for rule in contract.columns), *(name for name in special if name)]


def _whole(names: list[str], frames: list[pd.DataFrame], contract: DatasetContract) -> None:
    """A column that one file lacks would be empty in its rows, and filled with `missing` without a word."""
    wanted = needed(contract)
    there = {one for frame in frames for one in frame.columns}
    lacking = {
        name: [one for one in wanted if one in there and one not in frame.columns]
        for name, frame in zip(names, frames, strict=True)
    }
    if faults := [f"{name} lacks {some(columns)}" for name, columns in lacking.items() if columns]:
        raise DatasetError(
            "files of the folder have different columns",
            expected="every column of contract.yaml in each file",
            got=some(faults),
            remedy="add the column to the file, or leave it out of contract.yaml",
        )


def _partition(path: Path) -> Iterator[tuple[str, str | None]]:
    """Columns in the names of folders: ``year=2024/part.parquet``."""
    for part in path.parent.parts:
        key, mark, value = part.partition("=")
        if mark and key:
            yield unquote(key), None if value == _NO_PARTITION else unquote(value)


def _unique(name: str, columns: list[str]) -> None:
    twice = [one for one, n in Counter(columns).items() if n > 1 and one]
    if twice:
        raise DatasetError(
            f"{name} names columns twice",
            expected="a different name for each column",
            got=some(twice),
            remedy="rename one of them in the file's first line",
        )


def _parquet(path: Path, name: str) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        _unique(name, list(file.schema_arrow.names))
        frame: pd.DataFrame = file.read().to_pandas()
    return frame


def columns_of(path: Path, name: str) -> list[str]:
    """Names of a table's columns.

    Args:
        path: The file.
        name: For errors.

    Returns:
        In the file's order.
    """
    if path.suffix.lower() == ".parquet":
        return list(pq.read_schema(path).names)
    line, _, mark = first_line(path, name, None)
    return next(csv.reader([line], delimiter=mark or delimiter_of(line, [])), [])


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _bounded(path: Path, name: str) -> None:
    """A gzip file that unpacks into hundreds of times its size would fill the memory."""
    largest, total = _LARGEST_RATIO * path.stat().st_size + _ALWAYS, 0
    with _open(path) as file:
        while block := file.read(_BLOCK):
            total += len(block)
            if total > largest:
                raise DatasetError(
                    f"{name} unpacks into more than {_LARGEST_RATIO} times its size",
                    remedy="unpack it yourself, if it is what it should be",
                )


def _encoding(name: str, contract: DatasetContract) -> DatasetError:
    said = contract.files.encoding
    return DatasetError(
        f"{name} is not in {said or 'UTF-8'}",
        expected="UTF-8, UTF-16 with a mark at its beginning, or the encoding that contract.yaml names",
        got="other bytes: read wrongly, names and ids would be others",
        remedy="save it as UTF-8, or say in contract.yaml how it is written, such as `files: {encoding: cp1252}` "
        "(Windows in western Europe)",
    )


def first_line(path: Path, name: str, encoding: str | None) -> tuple[str, str, str | None]:
    """The header of a text file.

    Args:
        path: The file, maybe a gzip one.
        name: For errors.
        encoding: Where somebody said it.

    Returns:
        The line, its encoding, and the delimiter that a line ``sep=;`` before it names.
    """
    with _open(path) as file:
        head = file.read(_HEAD)
    found = encoding or next((kind for mark, kind in _MARKS if head.startswith(mark)), "utf-8")
    lines = codecs.getincrementaldecoder(found)().decode(head).splitlines() or [""]
    if lines[0].lower().startswith("sep=") and len(lines[0]) == 5:
        return [*lines, ""][1], found, lines[0][4]
    return lines[0], found, None


def delimiter_of(line: str, wanted: list[str]) -> str:
    """The delimiter under which a header names most of the columns that are wanted.

    Args:
        line: The header.
        wanted: Names of columns; none for the delimiter that parts most.

    Returns:
        A comma if nothing speaks for another one.

    Example:
        >>> delimiter_of("person;age, in years", ["person"])
        ';'
    """

    def fits(mark: str) -> tuple[int, int]:
        names = next(csv.reader([line], delimiter=mark), [])
        return len(set(names) & set(wanted)), len(names)

    return max(_DELIMITERS, key=fits)


def _text(path: Path, name: str, contract: DatasetContract) -> tuple[pd.DataFrame, str, Decimal | None]:
    rule = contract.files
    if path.suffix.lower() == ".gz":
        _bounded(path, name)
    line, encoding, said = first_line(path, name, rule.encoding)
    mark = rule.delimiter or said or delimiter_of(line, needed(contract))
    _unique(name, next(csv.reader([line], delimiter=mark), []))
    # ids and classes are text: "007" must not become 7
    text: dict[str, Any] = {
        one: str for one in (*contract.subject_columns, contract.label, contract.split.column) if one
    }
    text |= {one.name: str for one in contract.columns if one.kind == "categorical"}
    empty = {one.name: _NO_NUMBER for one in contract.columns} | {one: [""] for one in text}
    numeric = [one.name for one in contract.columns if one.kind == "numeric"]

    def table(types: dict[str, Any]) -> pd.DataFrame:
        with _open(path) as file, warnings.catch_warnings():
            # a row with more cells than the header has names would lose some, or shift them
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                return pd.read_csv(
                    file,
                    sep=mark,
                    encoding=encoding,
                    dtype=types,
                    na_values=empty,
                    keep_default_na=False,
                    low_memory=False,
                    index_col=False,
                    skiprows=0 if said is None else 1,
                )
            except pd.errors.ParserWarning as error:
                raise ValueError("a row has more cells than the first line has names") from error

    frame = table(text)
    here = [one for one in numeric if one in frame.columns]
    words = [one for one in here if not pd.api.types.is_numeric_dtype(frame[one])]
    decimal: Decimal | None = rule.decimal
    commas = any(frame[one].astype(str).str.contains(r"\d,\d", regex=True).any() for one in words)
    if decimal == "," or (decimal is None and commas):
        frame = table(text | dict.fromkeys(here, str))
        words = here
    if decimal is None and commas:
        marks = decimal_marks(cell for one in here for cell in frame[one].dropna().unique())
        if len(marks) != 1:
            raise DatasetError(
                f"numbers of {name} can be read in two ways",
                expected="one mark for the fraction of a number",
                got="both 1,5 and 1.5" if marks else "numbers such as 1,234 alone",
                remedy='write `files: {decimal: ","}` or `files: {decimal: "."}` into contract.yaml',
            )
        (decimal,) = marks
    elif decimal is None and any(pd.api.types.is_float_dtype(frame[one]) for one in here):
        fractions = (frame[one].dropna() % 1 != 0 for one in here if pd.api.types.is_float_dtype(frame[one]))
        decimal = "." if any(bool(one.any()) for one in fractions) else None
    for one in words:
        frame[one] = as_numbers(frame[one], decimal or ".")
    names = {",": "comma", ";": "semicolon", "\t": "tab"}
    form = f"{encoding.removesuffix('-sig')}{' with a mark' if encoding.endswith('-sig') else ''}"
    return (
        frame,
        f"{form}, delimiter {names.get(mark, mark)}, decimal {names.get(decimal or '.', 'point')}",
        decimal,
    )
