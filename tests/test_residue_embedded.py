"""Removed rows that somebody stored as numbers are found wherever they lie, and retained ones are not."""

import bz2
import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from expunge.residue.embedded import Embedded, embeddings
from expunge.residue.scan import ScanReport, Target, scan
from expunge.residue.stores import folder
from tests.test_residue import in_tar, zipped

KEY = b"k" * 32
WIDTH = 12
COLUMNS = tuple(f"x{i}" for i in range(WIDTH))
REAL = np.random.default_rng(1).normal(size=(6, WIDTH))
WHOLE = np.random.default_rng(2).integers(0, 256, size=(6, 64)).astype(float)


def table(numbers: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(numbers, columns=[f"x{i}" for i in range(numbers.shape[1])])


def target(numbers: np.ndarray) -> Target:
    frame = table(numbers)
    return Target(key=KEY, embedded=embeddings(frame, [(list(frame.columns), numbers)], KEY))


# rows 0 and 1 are removed, the others stay
REMOVED = {"float32": target(REAL[:2]), "float64": target(REAL[:2]), "uint8": target(WHOLE[:2])}


def array(kind: str, rows: slice) -> np.ndarray:
    return (WHOLE if kind == "uint8" else REAL)[rows].astype(kind)


def saved_by_torch(numbers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    torch.save({"buffer": torch.from_numpy(numbers.copy()), "step": 3}, buffer)
    return buffer.getvalue()


def saved_by_numpy(numbers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    return buffer.getvalue()


def compressed_by_numpy(numbers: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, examples=numbers, more=np.zeros(100_000))
    return buffer.getvalue()


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {
    "safetensors": lambda numbers: save_safetensors({"a": np.ones(5), "examples": numbers.copy()}),
    "torch": saved_by_torch,
    "npy": saved_by_numpy,
    "npz, compressed": compressed_by_numpy,
    "pickle": lambda numbers: pickle.dumps({"x": 1, "seen": numbers}),
    "memory": lambda numbers: b"odd" + numbers.tobytes() + b"end",
    "gzip": lambda numbers: gzip.compress(saved_by_numpy(numbers)),
    "tar of zip of bz2": lambda numbers: in_tar(zipped(bz2.compress(numbers.tobytes()))),
}


def search(root: Path, kind: str, **arguments: object) -> ScanReport:
    return scan([folder(root, "files")], REMOVED[kind], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("form", FORMATS)
def test_rows_in_every_kind_of_file(tmp_path: Path, form: str, kind: str) -> None:
    (tmp_path / "model").write_bytes(FORMATS[form](array(kind, slice(2, 6))))
    assert search(tmp_path, kind).clean
    (tmp_path / "model").write_bytes(FORMATS[form](array(kind, slice(1, 6))))
    report = search(tmp_path, kind)
    assert {hit["kind"] for hit in report.hits} == {"row"}
    assert all(hit["where"].startswith("model") for hit in report.hits)


@pytest.mark.parametrize("shift", [*range(-9, 10), 1, 2, 3])
def test_a_row_across_two_blocks(tmp_path: Path, shift: int) -> None:
    block = 1 << 22
    noise = np.random.default_rng(3).bytes(2 * block)
    row = array("float64", slice(0, 1)).tobytes()
    start = block + shift * len(row) // 9
    (tmp_path / "file").write_bytes(noise[:start] + row + noise[start:])
    assert {hit["kind"] for hit in search(tmp_path, "float64").hits} == {"row"}


@pytest.mark.parametrize("rows", [1, 50])
def test_numbers_that_a_retained_row_has_too_are_no_hits(tmp_path: Path, rows: int) -> None:
    (tmp_path / "file").write_bytes(array("float32", slice(0, 2)).tobytes())
    twin = table(np.repeat(REAL[:1], rows, axis=0))
    assert not search(tmp_path, "float32", retained=lambda: [table(REAL[2:]), twin]).clean  # row 1
    (tmp_path / "file").write_bytes(array("float32", slice(0, 1)).tobytes())
    assert not search(tmp_path, "float32", retained=lambda: [table(REAL[2:])]).clean
    assert search(tmp_path, "float32", retained=lambda: [table(REAL[2:]), twin]).clean


def test_nothing_of_a_row_is_kept() -> None:
    kept = repr(REMOVED["float32"].embedded)
    for number in REAL[0]:
        assert repr(float(number))[:8] not in kept
    for row in (REAL[0].astype("float32"), REAL[0]):
        assert row.tobytes().hex()[:16] not in kept
    other = embeddings(table(REAL[:2]), [(COLUMNS, REAL[:2])], b"o" * 32)["forms"]
    assert all(
        not set(map(tuple, one["rows"])) & set(map(tuple, two["rows"]))
        for one, two in zip(other, REMOVED["float32"].embedded["forms"], strict=True)
    )


def test_rows_of_few_distinct_numbers_are_not_searched_for() -> None:
    few = np.tile([0.0, 1.0, 5.0], (1, 4))
    assert embeddings(table(few), [(COLUMNS, few)], KEY)["forms"] == []


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(["float32", "float64", "uint8"]))
@settings(deadline=None)
def test_a_row_is_found_wherever_it_lies(before: bytes, after: bytes, kind: str) -> None:
    planted, other = array(kind, slice(0, 1)).tobytes(), array(kind, slice(3, 4)).tobytes()
    find = Embedded(REMOVED[kind].embedded, KEY)
    assert len(find.find(before + planted + after)) == 1
    assert find.find(before + other + after) == set()


@given(st.integers(0, 2**20), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_a_row_is_found_in_any_chunk(place: int, wide: int) -> None:
    content = bytearray(np.random.default_rng(wide).bytes(2**20 + 200))
    row = array("float64", slice(1, 2)).tobytes()
    content[place : place + len(row)] = row
    assert len(Embedded(REMOVED["float64"].embedded, KEY).find(bytes(content))) == 1
