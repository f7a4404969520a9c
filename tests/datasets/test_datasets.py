"""Contract, catalogue, partitions and preprocessing."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.datasets.catalogue import ENTRIES, load
from expunge.datasets.contract import (
    DatasetContract,
    canonical_frame,
    check_raw,
    read_contract,
    write_contract,
)
from expunge.datasets.loaders.images import parse_idx
from expunge.datasets.loaders.tabular import icd_chapter, packaged_contract
from expunge.datasets.partitions import (
    find_subjects,
    partition_index,
    read_dataset,
    remove_subjects,
    rows_of,
    write_partitions,
)
from expunge.datasets.preprocessing import Preprocessing, encode, encode_features, fit, synthetic_example
from expunge.datasets.sources import SourceFile, read_source
from expunge.errors import DatasetError
from tests.conftest import CONTRACT, clinic_rows, make_clinic

DATA = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
KEY = b"k" * 32


@pytest.fixture(scope="module")
def clinic_frame(tmp_path_factory):
    return load(str(make_clinic(tmp_path_factory.mktemp("own") / "clinic")))


@pytest.fixture
def partitioned(clinic_frame, tmp_path):
    write_partitions(clinic_frame.frame, tmp_path / "dataset", KEY, count=8)
    return tmp_path / "dataset"


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


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


def test_every_entry_is_described():
    assert [entry.name for entry in ENTRIES if not entry.description] == []
    with pytest.raises(DatasetError, match="unknown dataset") as error:
        load("minst")
    assert all(entry.name in str(error.value) for entry in ENTRIES)


def test_diabetes_contract_leaves_nothing_to_the_data():
    assert packaged_contract("diabetes130").data_dependent == ()
    assert packaged_contract("adult").data_dependent == ()


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
    with pytest.raises(DatasetError, match="not there"):
        read_source(file, tmp_path / "absent")


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


def test_idx_files_that_are_none():
    with pytest.raises(DatasetError, match="2049"):
        parse_idx(struct.pack(">II", 1, 2))


def test_contract_round_trip(tmp_path):
    contract = DatasetContract.model_validate(yaml.safe_load(CONTRACT))
    write_contract(contract, tmp_path / "c.yaml")
    assert read_contract(tmp_path / "c.yaml") == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["one"]}, "classes"),
        ({"columns": [{"name": "age"}, {"name": "age"}]}, "named twice: age"),
        ({"columns": [{"name": "outcome"}]}, "cannot be features: outcome"),
        ({"columns": [{"name": "age", "kind": "picture"}]}, "columns.0.kind"),
        ({"invented": 1}, "invented"),
        ({"name": "No Spaces"}, "name"),
    ],
)
def test_contract_with_faults(change, message, tmp_path):
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONTRACT), **change}))
    with pytest.raises(DatasetError, match=message):
        read_contract(path)


def test_every_fault_of_the_rows_is_listed():
    contract = DatasetContract.model_validate(yaml.safe_load(CONTRACT))
    raw = clinic_rows().drop(columns="ward").astype({"age": object})
    raw.loc[0, "age"], raw.loc[1, "dose"], raw.loc[2, "outcome"], raw.loc[3, "person"] = (
        "old",
        None,
        "?",
        None,
    )
    faults = "; ".join(check_raw(raw, contract))
    for part in (
        "ward is missing",
        "age has 1 rows that are not numbers",
        "dose has empty rows",
        "outside classes",
    ):
        assert part in faults
    assert "without a person" in faults
    assert "person-000" not in faults
    with pytest.raises(DatasetError):
        canonical_frame(raw, contract)


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


def test_partitions_hold_each_person_once_under_opaque_names(partitioned, clinic_frame):
    seen: dict[str, str] = {}
    for path in partitioned.iterdir():
        assert path.name.startswith("part-")
        for subject in set(pd.read_parquet(path)["subject_id"]):
            assert seen.setdefault(subject, path.name) == path.name
    pd.testing.assert_frame_equal(read_dataset(partitioned), clinic_frame.frame)


def test_partitions_depend_on_the_key(clinic_frame, partitioned, tmp_path):
    write_partitions(clinic_frame.frame, tmp_path / "again", KEY, count=8)
    assert digests(tmp_path / "again") == digests(partitioned)
    write_partitions(clinic_frame.frame, tmp_path / "other", b"o" * 32, count=8)
    assert not set(digests(tmp_path / "other")) & set(digests(partitioned))


def test_removal_rewrites_only_what_it_must_and_repeats_harmlessly(partitioned):
    before = digests(partitioned)
    people = ["person-00005-x", "person-00011-x"]
    rows, names = rows_of(partitioned, people)
    assert len(rows) == 12
    assert remove_subjects(partitioned, people) == 12
    after = digests(partitioned)
    assert {name for name in before if before[name] != after[name]} == set(names)
    assert find_subjects(partitioned, people) == dict.fromkeys(people, 0)
    assert remove_subjects(partitioned, people) == 0
    assert digests(partitioned) == after


def test_an_emptied_partition_keeps_its_file(tmp_path, clinic_frame):
    one = clinic_frame.frame[clinic_frame.frame["subject_id"] == "person-00005-x"]
    write_partitions(one, tmp_path / "d", KEY, count=2)
    remove_subjects(tmp_path / "d", ["person-00005-x"])
    assert len(list((tmp_path / "d").iterdir())) == 2
    assert read_dataset(tmp_path / "d").columns.tolist() == one.columns.tolist()


@given(st.text(min_size=1, max_size=20), st.integers(1, 300))
def test_partition_index_is_stable_and_in_range(subject, count):
    index = partition_index(KEY, subject, count)
    assert 0 <= index < count
    assert index == partition_index(KEY, subject, count)


def test_an_empty_folder_says_what_happened(tmp_path):
    with pytest.raises(DatasetError, match="dvc checkout"):
        read_dataset(tmp_path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(range(80)), min_size=1, max_size=20, unique=True))
def test_statistics_recomputed_on_the_retain_set_are_those_of_a_dataset_without_the_people(people):
    contract = DatasetContract.model_validate(yaml.safe_load(CONTRACT))
    everyone = canonical_frame(clinic_rows(), contract)
    gone = {f"person-{number:05d}-x" for number in people}
    retained = everyone[~everyone["subject_id"].isin(gone)]
    never = canonical_frame(
        clinic_rows()[lambda rows: ~rows["person"].isin(gone)].reset_index(drop=True), contract
    )
    assert fit(retained, contract) == fit(never, contract)
    assert retained["split"].tolist() == never["split"].tolist()


def test_preprocessing_round_trip_and_provenance(clinic_frame):
    made = fit(clinic_frame.frame, clinic_frame.contract)
    assert Preprocessing.from_json(made.to_json()) == made
    assert made.from_data == ("age", "dose", "ward")
    features = encode_features(clinic_frame.frame, made)
    assert features.flags.c_contiguous
    np.testing.assert_allclose(features[:, :2].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(features[:, 2:].sum(axis=1), 1)


def test_unknown_categories_are_all_zeros_and_holes_are_refused(clinic_frame):
    made = fit(clinic_frame.frame, clinic_frame.contract)
    row = synthetic_example(made)
    assert encode_features(row.assign(ward="moon"), made)[0, 2:].sum() == 0
    with pytest.raises(DatasetError, match="age"):
        encode_features(row.assign(age=float("nan")), made)
    with pytest.raises(DatasetError, match="ward"):
        encode_features(row.drop(columns="ward"), made)


def test_the_synthetic_example_is_nobodys(clinic_frame):
    example = synthetic_example(fit(clinic_frame.frame, clinic_frame.contract))
    names = list(example.columns)
    assert not (clinic_frame.frame[names] == example.iloc[0]).all(axis=1).any()
