"""The residue scan must find a person wherever bytes of them can hide, and nobody who is not there."""

import bz2
import gzip
import io
import json
import lzma
import re
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.scan import Target, scan
from expunge.residue.search import Scanner
from expunge.residue.stores import folder, streams

KEY = b"k" * 32
PERSON, SHORT, NUMBER = "person-000313", "77", "482913"
COLUMNS = ("record_id", "label", "value", "count")


def rows(size: int = 2000) -> pd.DataFrame:
    """Random rows: person 313 is in the middle, so that no statistic in a Parquet footer names them."""
    values = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "record_id": range(size),
            "subject_id": [f"person-{i:06d}" for i in range(size)],
            "label": ["yes", "no"] * (size // 2),
            "value": values.normal(size=size),
            "count": values.integers(0, 9, size),
        }
    )


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, compression="zstd")
    return buffer.getvalue()


ROW = rows().iloc[[313]]
TARGET = Target(
    frozenset({PERSON, SHORT, NUMBER}), frozenset(row_fingerprints(ROW, COLUMNS, KEY)), COLUMNS, KEY
)
RETAINED = rows().drop(index=313)


def kinds(root: Path, extra: tuple[tuple[str, bytes], ...] = (), target: Target = TARGET) -> set[str]:
    objects = [(name, io.BytesIO(content)) for name, content in extra]
    report = scan([folder(root, "files"), streams(objects, "git", "git object")], target)
    text = json.dumps(report.to_json())
    assert PERSON not in text
    assert NUMBER not in text
    assert report.clean == (not report.hits)
    return {hit["kind"] for hit in report.hits}


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", content)
    return buffer.getvalue()


PACKINGS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress, zipped]


@pytest.mark.parametrize("pack", [*PACKINGS, lambda b: gzip.compress(zipped(b))])
def test_rows_and_ids_in_parquet_however_packed_and_named(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "0ab1").write_bytes(pack(parquet(rows())))
    assert kinds(tmp_path) == {"subject-id", "row"}
    (tmp_path / "0ab1").write_bytes(pack(parquet(RETAINED)))
    assert kinds(tmp_path) == set()


@pytest.mark.parametrize("pack", [*PACKINGS, lambda b: gzip.compress(zipped(b))])
def test_ids_in_text_however_packed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "log").write_bytes(pack(b"removed %s today" % PERSON.encode()))
    assert kinds(tmp_path) == {"subject-id"}
    (tmp_path / "log").write_bytes(pack(b"removed %s0 today" % PERSON.encode()))
    assert kinds(tmp_path) == set()


def test_a_row_whose_subject_column_was_dropped(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(parquet(rows().drop(columns="subject_id")))
    assert kinds(tmp_path) == {"row"}


def test_a_row_is_recognised_in_other_number_types(tmp_path: Path) -> None:
    frame = rows().drop(columns="subject_id").astype({"record_id": "int32", "count": "float64"})
    (tmp_path / "object").write_bytes(parquet(frame))
    assert kinds(tmp_path) == {"row"}


@pytest.mark.parametrize(
    "text",
    [
        f"a {PERSON}.",
        f"report_{PERSON}.csv",
        f'{{"log": "line\\n{PERSON}"}}',
        f"\\t{NUMBER}",
        f"id={NUMBER};",
        f"{NUMBER}. End.",
        f'{{"subject_id": "{SHORT}"}}',
        f'{{"subject_id": {SHORT}, "x": 1}}',
        f'"{{\\"subject_id\\": \\"{SHORT}\\"}}"',
    ],
)
def test_ids_in_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert kinds(tmp_path) == {"subject-id"}


@pytest.mark.parametrize(
    "text",
    [
        f"x{PERSON}",
        f"{PERSON}1",
        f"0.{NUMBER}",
        f"{NUMBER}.25",
        f"f{NUMBER}e0",
        f"{SHORT} rows",
        f'{{"subject_id": "{SHORT}1"}}',
    ],
)
def test_what_only_looks_like_an_id(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    assert kinds(tmp_path) == set()


@pytest.mark.parametrize("shift", [-8, 0, 3])
def test_an_id_across_two_blocks_is_found_and_a_cut_word_is_not_one(tmp_path: Path, shift: int) -> None:
    block = 1 << 22
    (tmp_path / "file").write_bytes(b" " * (block + shift) + PERSON.encode() + b" " * block)
    assert kinds(tmp_path) == {"subject-id"}
    (tmp_path / "file").write_bytes(b"w" * (block - 256) + PERSON.encode() + b"w" * block)
    assert kinds(tmp_path) == set()


def database(path: Path, *values: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a TEXT, subject_id TEXT, note TEXT, z TEXT)")
    connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (("abc", "", PERSON, "xyz"), True),  # glued to its neighbours in the file
        (("abc", "", NUMBER, "xyz"), True),
        (("abc", SHORT, "", "xyz"), True),
        (("abc", "", f"see {PERSON}!", "xyz"), True),
        (("abc", "12", SHORT, "xyz"), False),
    ],
)
def test_cells_of_a_database(tmp_path: Path, values: tuple[str, ...], found: bool) -> None:
    database(tmp_path / "x.db", *values)
    assert kinds(tmp_path) == ({"subject-id"} if found else set())


def test_deleted_rows_in_free_pages_of_a_database(tmp_path: Path) -> None:
    database(tmp_path / "x.db", "abc", PERSON, "", "xyz")
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("DELETE FROM t")
    connection.commit()
    assert kinds(tmp_path) == {"subject-id"}
    connection.execute("VACUUM")
    connection.close()
    assert kinds(tmp_path) == set()


def test_a_csv_file_by_id_and_by_row(tmp_path: Path) -> None:
    rows().drop(columns="subject_id").to_csv(tmp_path / "copy.csv", index=False)
    assert kinds(tmp_path) == {"row"}
    pd.DataFrame({"subject_id": ["12", SHORT]}).to_csv(tmp_path / "copy.csv", index=False)
    assert kinds(tmp_path) == {"subject-id"}


def test_git_objects_are_decoded_like_files(tmp_path: Path) -> None:
    content = parquet(rows().drop(columns="subject_id"))
    assert kinds(tmp_path, (("git blob 1", content),)) == {"row"}
    assert kinds(tmp_path, (("git commit 2", f"about {PERSON}".encode()),)) == {"subject-id"}


def test_a_file_name_is_searched_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / f"{PERSON}.txt").write_text("")
    assert kinds(tmp_path) == {"subject-id"}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_cannot_be_read_is_not_clean(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A writer that was killed leaves half a Parquet file: its compressed rows cannot be searched."""
    (tmp_path / "half").write_bytes(pack(parquet(rows())[:-2000]))
    assert kinds(tmp_path) == {"unreadable"}


def test_a_missing_folder_is_not_a_clean_one(tmp_path: Path) -> None:
    assert kinds(tmp_path / "typo") == {"unreadable"}


def test_the_report_counts_what_was_searched_and_says_what_it_could_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(parquet(RETAINED))
    (tmp_path / "b").write_text("nothing")
    objects = streams([("git blob 1", io.BytesIO(b"nothing"))], "git", "git object")
    report = scan([folder(tmp_path, "here"), objects], TARGET)
    assert [(item["store"], item["kind"], item["files"]) for item in report.searched] == [
        ("git", "git object", 1),
        ("here", "bytes", 1),
        ("here", "parquet", 1),
    ]
    assert report.searched[1]["bytes"] == 7
    assert any("1 id(s) shorter" in note for note in report.notes)


def test_fingerprints_depend_on_every_column_and_on_the_key() -> None:
    base = row_fingerprints(ROW, COLUMNS, KEY)
    assert base == row_fingerprints(ROW.assign(subject_id="someone else"), COLUMNS, KEY)
    changed = [ROW.assign(value=0.25), ROW.assign(label="?"), ROW.assign(record_id=1), ROW.assign(count=99)]
    assert all(row_fingerprints(frame, COLUMNS, KEY) != base for frame in changed)
    assert row_fingerprints(ROW, COLUMNS, b"other") != base


IDS: dict[str, Callable[[int], str]] = {
    "numbers": lambda i: str(100_000 + 7 * i),
    "long numbers": lambda i: str(10**11 + 7 * i),
    "with a common start and end": lambda i: f"person-{i:06d}-x",
    "addresses": lambda i: f"{['ann', 'bob', 'carl'][i % 3]}.{i:x}@example.com",
    "hexadecimal": lambda i: f"{(i + 1) * 0x9E3779B97F4A7C15 % 2**64:016x}",
    "with spaces and accents": lambda i: f"Zoë {i} Müller",
}


@pytest.mark.parametrize("shape", IDS)
@pytest.mark.parametrize("number", [0, 1, 500, 999])
def test_each_of_a_thousand_people_is_found_and_their_neighbours_are_not(
    tmp_path: Path, shape: str, number: int
) -> None:
    make = IDS[shape]
    target = Target(frozenset(make(i) for i in range(1000)))
    others = "\n".join(make(i) for i in range(1000, 3000))
    (tmp_path / "log").write_text(f"{others}\nx{make(number)} {make(number)}0\n")
    database(tmp_path / "x.db", "abc", make(2000), make(1500), "xyz")
    assert kinds(tmp_path, target=target) == set()
    (tmp_path / "log").write_text(f"{others}\nsaw {make(number)}, then left\n{others}")
    assert kinds(tmp_path, target=target) == {"subject-id"}
    (tmp_path / "log").unlink()
    database(tmp_path / "y.db", "abc", "", make(number), "xyz")
    assert kinds(tmp_path, target=target) == {"subject-id"}


TEXTS = st.text('ab1.-\\n" :', max_size=40).map(str.encode)


def found_by_expression(ids: set[str], text: bytes) -> bool:
    """The search as one regular expression of all ids: slow, and the measure of what must be found."""
    after = rb"(?![0-9A-Za-z])"
    for one in map(str.encode, ids):
        bounded = rb"(?<![0-9]\.)%b(?!\.[0-9])" % one if one.isdigit() else re.escape(one)
        alone = rb"(?:\A|(?<=[^0-9A-Za-z])|(?<=\\[nrt]))(?=%b)" % re.escape(one) + bounded + after
        keyed = rb'"subject(?:_id)?\\*"\s*:\s*\\*"?%b' % re.escape(one) + after
        if (len(one) >= 6 and re.search(alone, text)) or re.search(keyed, text):
            return True
    return False


@given(
    st.sets(st.one_of(st.text("ab1.-", min_size=1, max_size=8), st.text("12", min_size=5)), min_size=1),
    st.data(),
)
def test_the_search_finds_what_one_expression_of_all_ids_finds(ids: set[str], data: st.DataObject) -> None:
    keys = [b'"subject_id":', b'"subject": ', b'\\"subject_id\\":\\"', b'"subject":"subject_id"', b'"']
    piece = st.one_of(TEXTS, st.sampled_from(sorted(map(str.encode, ids))), st.sampled_from(keys))
    text = b"".join(data.draw(st.lists(piece, max_size=6)))
    scanner = Scanner(Target(frozenset(ids)))
    scanner.raw("here", [text])
    assert bool(scanner.hits) == found_by_expression(ids, text)


def test_every_copy_of_a_table_is_named(tmp_path: Path) -> None:
    for name in ("cache", "dataset", "remote"):
        (tmp_path / name).write_bytes(parquet(rows()))
    report = scan([folder(tmp_path, "files")], TARGET)
    expected = {(name, kind) for name in ("cache", "dataset", "remote") for kind in ("subject-id", "row")}
    assert {(hit["where"], hit["kind"]) for hit in report.hits} == expected
