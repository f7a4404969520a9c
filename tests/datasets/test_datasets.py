"""Contract, partitions and preprocessing."""

import hashlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.datasets.catalogue import load
from expunge.datasets.contract import (
    DatasetContract,
    canonical_frame,
    check_raw,
    read_contract,
    write_contract,
)
from expunge.datasets.partitions import (
    count_rows,
    find_subjects,
    partition_index,
    partition_name,
    read_dataset,
    remove_subjects,
    rows_of,
    write_partition,
    write_partitions,
)
from expunge.datasets.placement import Placement
from expunge.datasets.preprocessing import Preprocessing, encode, encode_features, fit, synthetic_example
from expunge.errors import DatasetError
from tests.conftest import CONTRACT, clinic_rows, make_clinic

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
        ({"label": False}, "label.*in quotes"),
        ({"columns": [{"name": "ward", "categories": ["north"]}]}, "need `kind: categorical`"),
        ({"columns": [{"name": "ward", "kind": "categorical", "missing": 1}]}, "for numeric columns"),
        ({"columns": [{"name": "ward", "kind": "categorical", "categories": ["a", "a"]}]}, "named twice"),
        ({"columns": [{"name": "age", "scale": {"shift": float("nan")}}]}, "finite"),
        ({"columns": [{"name": "age", "transform": "log1p", "missing": -1}]}, "above -1"),
    ],
)
def test_contract_with_faults(change, message, tmp_path):
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONTRACT), **change}))
    with pytest.raises(DatasetError, match=message):
        read_contract(path)


def test_contract_with_numbers_for_classes_and_one_in_another_encoding(tmp_path):
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONTRACT), "classes": [0, 1]}))
    assert read_contract(path).classes == ("0", "1")
    path.write_bytes(CONTRACT.encode("utf-16"))
    with pytest.raises(DatasetError, match="UTF-8"):
        read_contract(path)
    with pytest.raises(DatasetError, match="no contract"):
        read_contract(tmp_path / "none.yaml")


def test_rows_that_would_only_fail_in_training_are_refused_at_once():
    contract = DatasetContract.model_validate(yaml.safe_load(CONTRACT))
    raw = clinic_rows().assign(person=" ")
    raw.loc[0, "age"], raw.loc[1, "dose"] = float("inf"), -5
    faults = "; ".join(check_raw(raw, contract))
    assert "age has 1 rows that are infinite" in faults
    assert "dose has 1 rows without a logarithm" in faults
    assert f"person has {len(raw)} rows without a person" in faults
    one = clinic_rows().query("person == 'person-00005-x'")
    assert [fault for fault in check_raw(one, contract) if "no rows fall into" in fault]
    typo = contract.model_dump() | {
        "columns": [{"name": "ward", "kind": "categorical", "categories": ["nrth"]}]
    }
    assert check_raw(clinic_rows(), DatasetContract.model_validate(typo)) == [
        "column ward has no row inside its categories"
    ]
    assert check_raw(clinic_rows().iloc[:0], contract) == ["there are no rows"]


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
        "dose has 1 rows that are empty",
        "outside classes",
    ):
        assert part in faults
    assert "without a person" in faults
    assert "person-000" not in faults
    with pytest.raises(DatasetError):
        canonical_frame(raw, contract)


def test_partitions_hold_each_person_once_under_opaque_names(partitioned, clinic_frame):
    seen: dict[str, str] = {}
    for path in partitioned.iterdir():
        assert path.name.startswith("part-")
        for subject in set(pd.read_parquet(path)["subject_id"]):
            assert seen.setdefault(subject, path.name) == path.name
    pd.testing.assert_frame_equal(read_dataset(partitioned), clinic_frame.frame)


def test_partitions_depend_on_the_key(clinic_frame, partitioned, tmp_path):
    def people(folder):
        return {path.name: set(pd.read_parquet(path)["subject_id"]) for path in folder.iterdir()}

    write_partitions(clinic_frame.frame, tmp_path / "again", KEY, count=8)
    assert people(tmp_path / "again") == people(partitioned)
    write_partitions(clinic_frame.frame, tmp_path / "other", b"o" * 32, count=8)
    assert not set(people(tmp_path / "other")) & set(people(partitioned))
    assert list(people(tmp_path / "other").values()) != list(people(partitioned).values())


def test_removal_rewrites_only_what_it_must_and_repeats_harmlessly(partitioned):
    before = digests(partitioned)
    people = ["person-00005-x", "person-00011-x"]
    rows, names = rows_of(partitioned, people)
    assert len(rows) == 12
    rows_before = count_rows(partitioned)
    assert rows_before == len(read_dataset(partitioned))
    assert remove_subjects(partitioned, people) == 12
    assert count_rows(partitioned) == rows_before - 12
    after = digests(partitioned)
    assert {name for name in before if before[name] != after[name]} == set(names)
    assert find_subjects(partitioned, people) == dict.fromkeys(people, 0)
    assert remove_subjects(partitioned, people) == 0
    assert digests(partitioned) == after


def test_what_a_killed_removal_left_behind_is_swept(partitioned):
    leftover = partitioned / f".{next(partitioned.iterdir()).name}.tmp"
    leftover.write_bytes(b"rows of someone")
    remove_subjects(partitioned, ["nobody"])
    assert not leftover.exists()


def test_partitions_are_never_written_over_others(partitioned, clinic_frame):
    before = digests(partitioned)
    with pytest.raises(DatasetError, match="not empty"):
        write_partitions(clinic_frame.frame, partitioned, KEY)
    assert digests(partitioned) == before
    assert [path.name for path in partitioned.parent.iterdir()] == [partitioned.name]


def test_row_groups_keep_their_size_and_rows_their_order(partitioned):
    path = max(partitioned.iterdir(), key=lambda file: file.stat().st_size)
    rows = pq.read_table(path)
    person = rows["subject_id"][rows.num_rows // 2].as_py()
    pq.write_table(rows, path, row_group_size=7)
    staying = rows.to_pandas().query("subject_id != @person")
    removed = remove_subjects(partitioned, [person])
    assert 0 < removed == rows.num_rows - len(staying)
    written = pq.ParquetFile(path)
    pd.testing.assert_frame_equal(written.read().to_pandas(), staying.reset_index(drop=True))
    groups = [written.metadata.row_group(number).num_rows for number in range(written.num_row_groups)]
    assert len(groups) == -(-rows.num_rows // 7)
    assert max(groups) == 7
    assert written.metadata.row_group(0).column(0).compression == "ZSTD"


@pytest.fixture
def placement(tmp_path):
    return Placement(KEY, tmp_path / "placement.json")


@pytest.fixture
def opened(monkeypatch):
    """Names of the partitions whose rows are read."""
    names = []

    class Watched(pq.ParquetFile):
        def __init__(self, path, *arguments, **named):
            names.append(path.name)
            super().__init__(path, *arguments, **named)

    monkeypatch.setattr("expunge.datasets.partitions.pq.ParquetFile", Watched)
    return names


PERSON = "person-00005-x"
PLACE = partition_name(KEY, partition_index(KEY, PERSON, 8))


def plant(directory, person, name):
    """A row of somebody, copied by hand into the partition of another."""
    rows, _ = rows_of(directory, [person])
    path = directory / name
    there = pd.read_parquet(path)
    new = rows.iloc[:1].assign(record_id=1_000_000)
    pd.concat([there, new]).to_parquet(path, index=False)


def another(directory, but=PLACE):
    return next(path.name for path in sorted(directory.iterdir()) if path.name != but)


def test_only_the_partitions_that_a_person_hashes_to_are_opened(partitioned, placement, opened):
    assert find_subjects(partitioned, [PERSON], placement) == {PERSON: 6}
    assert len(set(opened)) == 8  # nothing was known of any
    opened.clear()
    assert find_subjects(partitioned, [PERSON, "nobody"], placement) == {PERSON: 6, "nobody": 0}
    nobody = partition_name(KEY, partition_index(KEY, "nobody", 8))
    assert set(opened) == {PLACE, nobody}
    opened.clear()
    rows, names = rows_of(partitioned, [PERSON], placement)
    assert (len(rows), names) == (6, (PLACE,))
    assert remove_subjects(partitioned, [PERSON], placement) == 6
    assert set(opened) == {PLACE}
    opened.clear()
    assert find_subjects(partitioned, ["nobody"], placement) == {"nobody": 0}
    assert set(opened) == {nobody}  # the rewritten one is known to have lost rows alone
    assert len(rows_of(partitioned, [], placement)[0].columns) == 7


def test_a_row_put_into_another_partition_by_hand_leaves_with_its_person(partitioned, placement, opened):
    find_subjects(partitioned, [PERSON], placement)
    other = another(partitioned)
    plant(partitioned, PERSON, other)
    for _ in range(2):  # a misplaced row stays misplaced: its partition is opened every time
        opened.clear()
        assert find_subjects(partitioned, [PERSON], placement) == {PERSON: 7}
        assert set(opened) == {PLACE, other}
    rows, names = rows_of(partitioned, [PERSON], placement)
    assert (len(rows), set(names)) == (7, {PLACE, other})
    assert remove_subjects(partitioned, [PERSON], placement) == 7
    assert find_subjects(partitioned, [PERSON]) == {PERSON: 0}
    opened.clear()
    find_subjects(partitioned, [], placement)
    find_subjects(partitioned, [PERSON], placement)
    assert opened.count(other) == 1  # mended by the removal


@pytest.mark.parametrize("change", ["another key", "another count", "another name", "damaged memory"])
def test_partitions_that_are_not_those_of_the_key_are_all_opened(
    change, partitioned, placement, opened, clinic_frame
):
    find_subjects(partitioned, [PERSON], placement)
    if change == "another key":
        placement = Placement(b"o" * 32, placement.known)
    elif change == "another count":  # of a name that the key would give to a ninth
        plant(partitioned, PERSON, another(partitioned))
        write_partition(pq.read_table(partitioned / PLACE), partitioned / partition_name(KEY, 8))
    elif change == "another name":
        (partitioned / PLACE).rename(partitioned / "part-of-mine.parquet")
    else:
        placement.known.write_text('{"count": 8}')
    opened.clear()
    people = read_dataset(partitioned)["subject_id"]
    assert find_subjects(partitioned, [PERSON], placement) == {PERSON: (people == PERSON).sum()}
    assert set(opened) == {path.name for path in partitioned.iterdir()}
    assert remove_subjects(partitioned, [PERSON], placement) == (people == PERSON).sum()
    assert find_subjects(partitioned, [PERSON]) == {PERSON: 0}


def test_a_file_that_is_no_partition_is_not_passed_over(partitioned, placement):
    (partitioned / PLACE).rename(partitioned / "mine.parquet")
    with pytest.raises(DatasetError, match=r"other than partitions.*1 other files"):
        find_subjects(partitioned, [PERSON], placement)


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


def test_places_spread_and_follow_the_key():
    people = [str(number) for number in range(4000)]
    places = np.array([partition_index(KEY, person, 8) for person in people])
    other = np.array([partition_index(b"o" * 32, person, 8) for person in people])
    assert np.bincount(places, minlength=8).min() > 400  # 500 expected, deviation 21
    assert 300 < (places == other).sum() < 700  # as often as by chance


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
    with pytest.raises(DatasetError, match="labels outside the classes"):
        encode(row.assign(label="dead"), made)


def test_the_synthetic_example_is_nobodys(clinic_frame):
    example = synthetic_example(fit(clinic_frame.frame, clinic_frame.contract))
    names = list(example.columns)
    assert not (clinic_frame.frame[names] == example.iloc[0]).all(axis=1).any()
