"""Every loader, source files and their checksums, one's own folders."""

import gzip
import hashlib
import io
import json
import lzma
import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from cli.main import invoke
from expunge.datasets import sources
from expunge.datasets.catalogue import ENTRIES, load
from expunge.datasets.loaders.images import parse_idx
from expunge.datasets.loaders.tabular import icd_chapter, packaged_contract
from expunge.datasets.preprocessing import encode, fit
from expunge.datasets.sources import SourceFile, read_source
from expunge.errors import DatasetError
from tests.conftest import CONTRACT, clinic_rows, make_clinic

DATA = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def published_counts(name):
    """Rows a class, from the manifest that came with the files."""
    manifest = json.loads((DATA / "MANIFEST.json").read_text())
    (per_class,) = [entry["per_class"] for entry in manifest["datasets"] if entry["name"] == name]
    totals: dict[str, int] = {}
    for part in [per_class] if name == "diabetes130" else per_class.values():
        for label, count in part.items() if isinstance(part, dict) else enumerate(part):
            if label != "rows":
                totals[str(label).rstrip(".")] = totals.get(str(label).rstrip("."), 0) + count
    return totals


@pytest.mark.parametrize(
    ("name", "source", "rows", "people", "features"),
    [
        ("breast-cancer", None, 569, 569, 30),
        ("digits", None, 1797, 1797, 64),
        ("diabetes130", "diabetes130/dataset_diabetes.zip", 101_766, 71_518, 295),
        ("adult", "adult", 48_842, 48_842, 108),
        ("mnist", "mnist", 70_000, 70_000, 784),
        ("fashion-mnist", "fashion_mnist", 70_000, 70_000, 784),
        pytest.param("cifar10", "cifar10", 60_000, 60_000, 3072, marks=pytest.mark.slow),
    ],
)
def test_catalogue(name, source, rows, people, features):
    if source is not None and not (DATA / source).exists():
        pytest.skip(f"{source} is not at hand; set EXPUNGE_DATA")
    loaded = load(name, DATA / source if source else None)
    assert len(loaded.frame) == rows
    assert loaded.frame["subject_id"].nunique() == people
    assert set(loaded.frame["split"]) == {"train", "test"}
    assert loaded.frame.groupby("subject_id")["split"].nunique().max() == 1  # a person is wholly in one split
    sample = loaded.frame.iloc[:: max(1, rows // 500)]
    preprocessing = fit(sample, loaded.contract)
    encoded = encode(sample, preprocessing)
    assert encoded.features.shape == (len(sample), features)
    assert encoded.labels.min() >= 0
    if loaded.contract.subject is None:
        assert loaded.frame["subject_id"].tolist()[:3] == ["0", "1", "2"]
    if source is not None:
        assert loaded.frame["label"].value_counts().to_dict() == published_counts(source.split("/")[0])


def test_every_entry_is_described():
    assert [entry.name for entry in ENTRIES if not entry.description] == []
    with pytest.raises(DatasetError, match="unknown dataset") as error:
        load("minst")
    assert all(entry.name in str(error.value) for entry in ENTRIES)


def test_diabetes_contract_leaves_nothing_to_the_data():
    assert packaged_contract("diabetes130").data_dependent == ()
    assert packaged_contract("adult").data_dependent == ()


def test_diabetes_is_covered_by_public_constants_and_encodes_in_seconds():
    source = DATA / "diabetes130" / "dataset_diabetes.zip"
    if not source.exists():
        pytest.skip("diabetes130 is not at hand; set EXPUNGE_DATA")
    loaded = load("diabetes130", source)
    outside = [
        rule.name
        for rule in loaded.contract.columns
        if rule.kind == "categorical" and not loaded.frame[rule.name].isin(rule.categories).all()
    ]
    assert outside == []
    train = loaded.frame[loaded.frame["split"] == "train"]
    made = fit(train, loaded.contract)
    forget = train["subject_id"].isin(train["subject_id"].iloc[::7])
    assert fit(train[~forget], loaded.contract) == made
    began = time.perf_counter()
    assert len(encode(train, made).features) == len(train) > 80_000
    assert time.perf_counter() - began < 20
    assert loaded.frame.groupby("subject_id").size().max() == 40


@pytest.mark.parametrize(
    ("code", "chapter"),
    [
        ("250.83", "diabetes"),
        ("428", "circulatory"),
        ("785", "circulatory"),
        ("V45", "other"),
        ("?", "?"),
        ("8", "other"),
    ],
)
def test_icd_chapters(code, chapter):
    assert icd_chapter(code) == chapter


def test_wrong_checksum_and_damaged_files(tmp_path):
    good = b"hello"
    file = SourceFile("a.bin", hashlib.sha256(good).hexdigest())
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(good))
    assert read_source(file, tmp_path) == good
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(DatasetError, match="wrong checksum") as error:
        read_source(file, tmp_path)
    assert file.sha256 in str(error.value)
    (tmp_path / "a.bin.gz").write_bytes(gzip.compress(good)[:-6])
    with pytest.raises(DatasetError, match="cannot read"):
        read_source(file, tmp_path)
    broken = bytearray(gzip.compress(good))
    broken[10] = 0x07  # a block of a kind that does not exist
    (tmp_path / "a.bin.gz").write_bytes(broken)
    with pytest.raises(DatasetError, match="cannot read"):
        read_source(file, tmp_path)
    with pytest.raises(DatasetError, match="not there"):
        read_source(file, tmp_path / "absent")
    (tmp_path / "a.zip").write_bytes(b"no zip file")
    with pytest.raises(DatasetError, match=r"a zip file with rows\.csv"):
        read_source(SourceFile("a.zip", file.sha256, member="rows.csv"), tmp_path)


def test_download_is_checked_cached_and_fails_clearly(tmp_path, monkeypatch):
    """From a file URL, which the same code path reads."""
    content = b"rows"
    (tmp_path / "served").write_bytes(content)
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(content).hexdigest()
    file = SourceFile("rows.bin", digest, (tmp_path / "served").as_uri())
    assert read_source(file, None) == content
    (tmp_path / "served").unlink()
    assert read_source(file, None) == content  # from the cache
    absent = SourceFile("x.bin", "0" * 64, (tmp_path / "absent").as_uri())
    with pytest.raises(DatasetError, match="--source"):
        read_source(absent, None)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != "rows.bin"]


def test_only_checked_bytes_enter_the_cache(tmp_path, monkeypatch):
    served, cache = tmp_path / "served", tmp_path / "cache"
    monkeypatch.setenv("EXPUNGE_CACHE", str(cache))
    file = SourceFile("rows.bin", hashlib.sha256(b"rows").hexdigest(), served.as_uri())
    served.write_bytes(b"an error page")
    with pytest.raises(DatasetError, match="wrong checksum"):
        read_source(file, None)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    served.write_bytes(b"rows")
    assert read_source(file, None) == b"rows"
    (kept,) = [path for path in cache.rglob("*") if path.is_file()]
    kept.write_bytes(b"damaged")
    assert read_source(file, None) == b"rows"
    assert kept.read_bytes() == b"rows"
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="EXPUNGE_CACHE"):
        read_source(file, None)


def test_idx_files_that_are_none():
    with pytest.raises(DatasetError, match="2049"):
        parse_idx(struct.pack(">II", 1, 2))


def test_own_parquet_and_text_ids(tmp_path):
    rows = clinic_rows().replace({"person": {"person-00001-x": "007"}})
    folder = tmp_path / "p"
    folder.mkdir()
    rows.to_csv(folder / "a.csv", index=False)
    (folder / "contract.yaml").write_text(CONTRACT)
    from_csv = load(str(folder)).frame
    (folder / "a.csv").unlink()
    rows.to_parquet(folder / "a.parquet")
    pd.testing.assert_frame_equal(from_csv, load(str(folder)).frame)
    assert "007" in set(from_csv["subject_id"])


def test_words_for_nothing_are_words_in_text_columns(tmp_path):
    rows = clinic_rows().replace({"person": {"person-00001-x": "NA"}, "ward": {"north": "None"}})
    folder = make_clinic(tmp_path / "words")
    rows.assign(dose=rows["dose"].astype(object).where(rows.index > 0, "NA")).to_csv(
        folder / "visits.csv", index=False
    )
    with pytest.raises(DatasetError, match="dose has 1 rows that are empty"):
        load(str(folder))
    rows.to_csv(folder / "visits.csv", index=False)
    frame = load(str(folder)).frame
    assert "NA" in set(frame["subject_id"])
    assert set(frame["ward"]) == {"None", "south", "rare"}
    with pytest.raises(DatasetError, match="no --source"):
        load(str(folder), tmp_path)


def test_whole_numbers_kept_as_floats_are_the_same_text(tmp_path):
    """A Parquet file turns ids into 7.0 as soon as one cell of the column was empty."""
    folder = make_clinic(tmp_path / "floats")
    (folder / "visits.csv").unlink()
    rows = clinic_rows()
    rows["person"] = rows["person"].str.extract(r"(\d+)", expand=False).astype(float)
    rows.to_parquet(folder / "visits.parquet")
    assert {"0", "5", "7777"} <= set(load(str(folder)).frame["subject_id"])


ZEROS = b"\0" * (32 << 20)


def zipped(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", content)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["plain", "gzip", "gzip of many members", "xz", "zip"])
def test_a_file_that_unfolds_beyond_all_bounds_is_refused_in_time(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sources, "_MOST", 1 << 20)
    packed = {
        "plain": ZEROS,
        "gzip": gzip.compress(ZEROS),
        "gzip of many members": gzip.compress(ZEROS[: 1 << 19]) * 64,
        "xz": lzma.compress(ZEROS),
        "zip": zipped(ZEROS),
    }[kind]
    path = tmp_path / "a.bin"
    path.write_bytes(packed)
    file = SourceFile("a.bin", hashlib.sha256(ZEROS).hexdigest(), member="rows.csv" if kind == "zip" else "")
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"not the original file.*at most 1 MiB"):
        read_source(file, path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20  # it was not unfolded; a dictionary of xz alone takes 8 MiB


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, zipped])
def test_a_file_within_the_bounds_is_read(tmp_path, monkeypatch, pack):
    content = b"\0" * (1 << 20)
    monkeypatch.setattr(sources, "_MOST", len(content))
    (tmp_path / "a.bin").write_bytes(pack(content))
    member = "rows.csv" if pack is zipped else ""
    file = SourceFile("a.bin", hashlib.sha256(content).hexdigest(), member=member)
    assert read_source(file, tmp_path / "a.bin") == content


def test_a_small_file_cannot_ask_for_much_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_XZ_MEMORY", 1 << 20)
    (tmp_path / "a.bin").write_bytes(lzma.compress(b"rows"))  # its dictionary: 8 MiB
    with pytest.raises(DatasetError, match="cannot read"):
        read_source(SourceFile("a.bin", hashlib.sha256(b"rows").hexdigest()), tmp_path / "a.bin")


def test_memory_that_is_not_there_is_said_in_one_sentence(monkeypatch, capsys, tmp_path):
    def hungry(*arguments):
        raise MemoryError

    monkeypatch.setattr("tasks.workspace.load", hungry)
    assert invoke(["init", str(tmp_path / "w"), "--dataset", "breast-cancer"]) == 2
    assert "not enough memory" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
