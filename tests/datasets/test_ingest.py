"""Sorting a dump out, and adding who is new to partitions that are there."""

from pathlib import Path

import pandas as pd
import pytest

from expunge.datasets.catalogue import load
from expunge.datasets.contract import read_contract, write_contract
from expunge.datasets.ingest import install, read_backup, read_dump, sort_out, stage
from expunge.datasets.partitions import (
    partition_index,
    partition_name,
    read_dataset,
    remove_subjects,
    write_partitions,
)
from expunge.datasets.placement import Placement
from expunge.errors import DatasetError
from tests.conftest import clinic_rows, make_clinic

KEY = b"k" * 32
ANN = "person-00001-x"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return make_clinic(tmp_path / "dump", people=24)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A dataset of the first 20 people of the dump."""
    loaded = load(str(make_clinic(tmp_path / "first", people=20)))
    write_partitions(loaded.frame, tmp_path / "dataset", KEY, count=8)
    return tmp_path / "dataset"


def placed(directory: Path) -> Placement:
    return Placement(KEY, directory.parent / "placement.json")


def contract(dump: Path):
    return read_contract(dump / "contract.yaml")


def test_the_removed_the_present_and_the_new_are_told_apart(dump: Path, directory: Path) -> None:
    remove_subjects(directory, [ANN], placed(directory))
    frame = read_dump(str(dump), contract(dump))
    arrivals = sort_out(frame, directory, placed(directory), {ANN: "p1-x"})
    assert set(arrivals.frame["subject_id"]) == {f"person-{number:05d}-x" for number in range(20, 24)}
    assert arrivals.suppressed == (2, 1)
    assert arrivals.read == (len(frame), 25)
    assert arrivals.present[1] == 20  # 19 of them, and the one in the rare ward
    rows = arrivals.suppressed[0] + arrivals.present[0] + len(arrivals.frame) + len(arrivals.further)
    assert rows == arrivals.read[0]


def test_new_people_go_into_their_own_partitions(dump: Path, directory: Path) -> None:
    before, files = read_dataset(directory), {path: path.read_bytes() for path in directory.iterdir()}
    arrivals = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {})
    staging = directory.parent / "staging"
    staging.mkdir()
    stage(arrivals.frame, directory, KEY, staging)
    assert {path: path.read_bytes() for path in directory.iterdir()} == files  # nothing yet
    people = list(arrivals.frame["subject_id"].unique())
    assert {path.name for path in staging.iterdir()} == {
        partition_name(KEY, partition_index(KEY, person, 8)) for person in people
    }
    first = sorted(staging.iterdir())[0]
    first.replace(directory / first.name)  # killed after the first file, and done again
    install(staging, directory)
    install(staging, directory)
    after = read_dataset(directory)
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    added = after.iloc[len(before) :].reset_index(drop=True)
    largest = before["record_id"].max()
    assert list(added["record_id"]) == list(range(largest + 1, largest + 1 + len(added)))
    columns = ["subject_id", "label", "split", "age", "dose", "ward"]
    pd.testing.assert_frame_equal(
        added[columns], arrivals.frame[columns].reset_index(drop=True), check_dtype=False
    )
    assert sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {}).frame.empty


def test_one_new_person_is_dump_enough(tmp_path: Path, directory: Path, dump: Path) -> None:
    rows = clinic_rows(24)
    rows[rows["person"] == "person-00020-x"].to_csv(dump / "visits.csv", index=False)
    with pytest.raises(DatasetError, match="no rows fall into"):
        load(str(dump))
    frame = read_dump(str(dump), contract(dump))
    assert set(sort_out(frame, directory, placed(directory), {}).frame["subject_id"]) == {"person-00020-x"}


def test_whole_numbers_and_fractions_meet_in_one_column(directory: Path, dump: Path) -> None:
    rows = clinic_rows(24)
    rows[rows["person"] == "person-00020-x"].assign(age=41, dose=2.5).to_csv(dump / "visits.csv", index=False)
    before = read_dataset(directory)
    frame = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {}).frame
    staging = directory.parent / "staging"
    staging.mkdir()
    stage(frame, directory, KEY, staging)
    install(staging, directory)
    after = read_dataset(directory)
    assert after["dose"].iloc[-1] == 2.5
    assert list(after["dose"].iloc[: len(before)]) == list(before["dose"])


def test_a_row_is_there_as_often_as_it_lies_there_and_the_rest_is_further(
    directory: Path, dump: Path
) -> None:
    rows = clinic_rows(24)
    mine = rows[rows["person"] == "person-00001-x"]
    later = mine.iloc[:1].assign(dose=mine["dose"].iloc[0] + 1.5)
    pd.concat([mine, mine.iloc[:1], later]).to_csv(dump / "visits.csv", index=False)  # one twice, one new
    arrivals = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {})
    assert arrivals.frame.empty
    assert arrivals.present == (len(mine), 1)
    assert len(arrivals.further) == 2
    before = read_dataset(directory)
    staging = directory.parent / "staging"
    staging.mkdir()
    stage(arrivals.further, directory, KEY, staging)
    assert len(list(staging.iterdir())) == 1  # beside the rows of the same person
    install(staging, directory)
    after = read_dataset(directory)
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before, check_dtype=False)
    assert len(after) == len(before) + 2
    again = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {})
    assert again.further.empty
    assert again.present == again.read


def test_another_contract_is_refused(dump: Path) -> None:
    other = contract(dump).model_copy(update={"classes": ("ill", "well", "unknown")})
    with pytest.raises(DatasetError, match="another contract"):
        read_dump(str(dump), other)


def test_a_dump_without_people_is_refused(dump: Path) -> None:
    nameless = contract(dump).model_copy(update={"subject": None})
    write_contract(nameless, dump / "contract.yaml")
    with pytest.raises(DatasetError, match="does not say whose rows"):
        read_dump(str(dump), nameless)


def test_a_bundled_dataset_is_its_own_dump() -> None:
    loaded = load("breast-cancer")
    pd.testing.assert_frame_equal(read_dump("breast-cancer", loaded.contract), loaded.frame)


@pytest.mark.parametrize("what", ["absent", "empty", "other"])
def test_what_is_no_dump_is_refused(tmp_path: Path, dump: Path, what: str) -> None:
    folder = tmp_path / what
    if what != "absent":
        folder.mkdir()
    if what == "other":
        (folder / "visits.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="no dump"):
        read_dump(str(folder), contract(dump))


def test_a_backup_of_the_dataset_is_read_as_it_is(directory: Path, dump: Path) -> None:
    frame = read_backup(directory, contract(dump))
    columns = ["subject_id", "label", "split", "age", "dose", "ward"]
    expected = read_dataset(directory).sort_values(["subject_id", "age"], ignore_index=True)[columns]
    pd.testing.assert_frame_equal(
        frame.sort_values(["subject_id", "age"], ignore_index=True)[columns], expected
    )


@pytest.mark.parametrize("fault", ["absent", "damaged", "label", "column"])
def test_a_faulty_backup_is_refused(directory: Path, dump: Path, fault: str) -> None:
    folder = directory.parent / "backup"
    if fault != "absent":
        folder.mkdir()
        frame = read_dataset(directory)
        if fault == "label":
            frame = frame.assign(label="unheard of")
        if fault == "column":
            frame = frame.drop(columns="ward")
        frame.to_parquet(folder / "part-1.parquet")
    if fault == "damaged":
        (folder / "part-1.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError):
        read_backup(folder, contract(dump))


def test_partitions_of_another_key_are_refused(dump: Path, directory: Path) -> None:
    frame = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {}).frame
    with pytest.raises(DatasetError, match="not those of the workspace's key"):
        stage(frame, directory, b"x" * 32, directory.parent)


def test_a_person_who_lies_elsewhere_is_found_all_the_same(dump: Path, directory: Path) -> None:
    """Somebody wrote rows into another partition by hand: they are there, and not brought in twice."""
    frame = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {}).frame
    person = frame["subject_id"].iloc[0]
    own = partition_name(KEY, partition_index(KEY, person, 8))
    path = next(path for path in directory.iterdir() if path.name != own)
    rows = frame[frame["subject_id"] == person]
    pd.concat([pd.read_parquet(path), rows]).to_parquet(path, index=False)
    again = sort_out(read_dump(str(dump), contract(dump)), directory, placed(directory), {})
    assert person not in set(again.frame["subject_id"])
