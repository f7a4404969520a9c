"""The residue scan must find a person wherever bytes of them can hide, and nobody who is not there."""

import bz2
import gzip
import io
import json
import lzma
import re
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import orc

from expunge.pseudonyms import Pseudonymiser
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.scan import ScanReport, Target, scan
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


def in_tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("inside")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        buffer = pa.BufferOutputStream()
        with pa.CompressedOutputStream(buffer, codec) as out:
            out.write(content)
        return buffer.getvalue().to_pybytes()

    return pack


PACKINGS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    bz2.compress,
    lzma.compress,
    zipped,
    in_tar,
    by_arrow("zstd"),
    by_arrow("lz4"),
]


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


def in_arrow(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_feather(buffer)
    return buffer.getvalue()


def in_orc(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    orc.write_table(pa.Table.from_pandas(frame), buffer, compression="zstd")
    return buffer.getvalue()


TABLES: dict[str, Callable[[pd.DataFrame], bytes]] = {"parquet": parquet, "arrow": in_arrow, "orc": in_orc}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("patient_nbr", [NUMBER]),
        ("patient_nbr", [int(NUMBER)]),
        ("notes", [f"saw {PERSON} today"]),
        ("notes", [f"saw {PERSON} today".encode()]),
        ("visits", [["first", PERSON]]),
        ("visit", [{"who": PERSON}]),
        ("subject", [int(SHORT)]),
        ("subject", [float(SHORT)]),
        ("patient", [SHORT]),
        ("patient", [int(SHORT)]),
    ],
)
def test_an_id_in_any_column_of_a_table(tmp_path: Path, form: str, column: str, cells: list[object]) -> None:
    target = replace(TARGET, subject_column="patient")
    (tmp_path / "0ab1").write_bytes(TABLES[form](pd.DataFrame({column: cells * 3, "x": range(3)})))
    assert kinds(tmp_path, target=target) == {"subject-id"}


@pytest.mark.parametrize("form", TABLES)
def test_numbers_of_a_table_that_are_nobody(tmp_path: Path, form: str) -> None:
    """Short numbers anywhere, record numbers, and what a partition of the dataset measured."""
    number = int(NUMBER)
    partition = RETAINED.assign(split="train", income=number).astype({"subject_id": str})
    for frame in (
        pd.DataFrame({"count": [int(SHORT)], "note": [SHORT], "value": [float(number)]}),
        pd.DataFrame({"record_id": [number]}),
        partition.assign(record_id=range(number - 5, number - 5 + len(partition))),
    ):
        (tmp_path / "0ab1").write_bytes(TABLES[form](frame.reset_index(drop=True)))
        assert kinds(tmp_path) == set()
    (tmp_path / "0ab1").write_bytes(
        TABLES[form](partition.assign(note=f"see {PERSON}").reset_index(drop=True))
    )
    assert kinds(tmp_path) == {"subject-id"}


def test_an_id_whose_person_is_known_by_pseudonym_in_any_column(tmp_path: Path) -> None:
    maker = Pseudonymiser(KEY)
    target = Target(pseudonyms=frozenset({maker.of(NUMBER)}), pseudonymiser=maker)
    (tmp_path / "0ab1").write_bytes(parquet(pd.DataFrame({"patient_nbr": [int(NUMBER)]})))
    assert kinds(tmp_path, target=target) == {"subject-id"}
    (tmp_path / "0ab1").write_bytes(parquet(pd.DataFrame({"patient_nbr": [int(NUMBER) + 1]})))
    assert kinds(tmp_path, target=target) == set()


def test_the_source_s_name_of_the_subject_column_in_text(tmp_path: Path) -> None:
    target = replace(TARGET, subject_column="patient")
    for text in (f"patient,x\n{SHORT},1\n", f'log {{"patient": {SHORT}}}'):
        (tmp_path / "file").write_text(text)
        assert kinds(tmp_path, target=target) == {"subject-id"}
        assert kinds(tmp_path) == set()


def test_a_format_that_nothing_here_reads_is_not_clean(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert kinds(tmp_path) == {"unreadable"}
    (tmp_path / "weights").write_bytes(b"ORCHARD, a text")
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


def as_csv(frame: pd.DataFrame, separator: str) -> bytes:
    return frame.to_csv(index=False, sep=separator).encode()


TEXT_TABLES: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "commas": lambda frame: as_csv(frame, ","),
    "tabs": lambda frame: as_csv(frame, "\t"),
    "semicolons": lambda frame: as_csv(frame, ";"),
    "byte order mark, line ends": lambda frame: frame.to_csv(index=False, lineterminator="\r\n").encode(
        "utf-8-sig"
    ),
    "JSON lines": lambda frame: frame.to_json(orient="records", lines=True, double_precision=15).encode(),
}


@pytest.mark.parametrize("pack", [bytes, lambda content: in_tar(gzip.compress(content))])
@pytest.mark.parametrize("form", TEXT_TABLES)
def test_rows_in_text_however_named_and_packed(
    tmp_path: Path, form: str, pack: Callable[[bytes], bytes]
) -> None:
    """Classes that are digits stay text; a number is read to its last bit."""
    frame = rows().drop(columns="subject_id").assign(label="3")
    if form == "JSON lines":
        frame["value"] = frame["value"].round(9)
    codes = frozenset(row_fingerprints(frame.iloc[[313]], COLUMNS, KEY))
    target = Target(fingerprints=codes, columns=COLUMNS, key=KEY, texts=("label",))
    (tmp_path / "0ab1").write_bytes(pack(TEXT_TABLES[form](frame.drop(index=313))))
    assert kinds(tmp_path, target=target) == set()
    (tmp_path / "0ab1").write_bytes(pack(TEXT_TABLES[form](frame[frame.columns[::-1]])))
    assert kinds(tmp_path, target=target) == {"row"}


def test_a_damaged_line_hides_no_other_row(tmp_path: Path) -> None:
    content = TEXT_TABLES["commas"](rows().drop(columns="subject_id"))
    (tmp_path / "0ab1").write_bytes(content.replace(b"\n7,", b"\n7,,,,,,,", 1))
    assert kinds(tmp_path) == {"row"}
    content = TEXT_TABLES["JSON lines"](rows().drop(columns="subject_id").round(9))
    target = Target(
        fingerprints=frozenset(row_fingerprints(ROW.round(9), COLUMNS, KEY)), columns=COLUMNS, key=KEY
    )
    (tmp_path / "0ab1").write_bytes(content.replace(b'{"record_id":7,', b"{{{", 1))
    assert kinds(tmp_path, target=target) == {"row"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "gzip", "tar", "zip", "csv", "git object", "parquet"])
def test_memory_stays_bounded(tmp_path: Path, kind: str) -> None:
    """A file of 300 MB in a process that may not take 150 MB more than it has at the start; the end is searched."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    grown, size, found = done.stdout.split()
    assert int(size) > 300 << 20
    assert found == "True"
    assert int(grown) < 150 << 20


MEMORY = """
import gzip, io, os, resource, sys, tarfile, tempfile, zipfile
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
from expunge.residue.embedded import embeddings
from expunge.residue.scan import Target, scan
from expunge.residue.stores import folder, streams

kind, root = sys.argv[1], Path(sys.argv[2])
person, block = "person-000313", np.random.default_rng(0).bytes(1 << 20)
path, numbers = root / "file", np.random.default_rng(1).normal(size=(2000, 40))
frame = pd.DataFrame(numbers, columns=[f"x{i}" for i in range(40)])

def write(out):
    for _ in range(301):
        out.write(block)
    out.write(f" {person} ".encode())

if kind in ("bytes", "git object"):
    with path.open("wb") as out:
        write(out)
elif kind == "gzip":
    with gzip.open(path, "wb", 1) as out:
        write(out)
elif kind == "zip":
    with zipfile.ZipFile(path, "w") as archive, archive.open("x", "w", force_zip64=True) as out:
        write(out)
elif kind == "tar":
    with tempfile.TemporaryFile(dir=root) as out:
        write(out)
        entry = tarfile.TarInfo("x")
        entry.size = out.tell()
        out.seek(0)
        with tarfile.open(path, "w") as archive:
            archive.addfile(entry, out)
elif kind == "csv":
    with path.open("w") as out:
        out.write("subject_id,text\\n")
        for n in range(650_000):
            out.write(f"s{n},{'x' * 500}\\n")
        out.write(f"{person},x\\n")
else:
    table = pa.table({f"x{i}": np.random.default_rng(i).normal(size=1_000_000) for i in range(40)})
    table = table.append_column("subject_id", pa.array(["s"] * 999_999 + [person]))
    pq.write_table(table, path, compression="none", row_group_size=1_000_000)
    del table
    pa.default_memory_pool().release_unused()
pid = os.fork()  # its peak starts from what it has
if pid == 0:
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    key = b"k" * 32
    target = Target(frozenset({person}), key=key, embedded=embeddings(frame, [(list(frame.columns), numbers)], key))
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    store = streams([("git blob 1", path.open("rb"))], "git", "git object")
    report = scan([store if kind == "git object" else folder(root, "files")], target)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    size = max(item["bytes"] for item in report.searched)
    print(peak - before, size, any(hit["kind"] == "subject-id" for hit in report.hits))
    sys.stdout.flush()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


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
    # what the ledger and receipts keep says nothing of single rows
    assert [item["bytes"] for item in report.to_json()["searched"]] == [2**20] * 3
    large = ScanReport((), ({"store": "here", "kind": "bytes", "files": 1, "bytes": 2**22 + 1},), ())
    assert large.to_json()["searched"][0]["bytes"] == 2**23
    assert any("1 id shorter" in note for note in report.notes)


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
