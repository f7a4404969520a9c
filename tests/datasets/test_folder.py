"""Folders as people bring them: every file is read, or named as not read; what cannot be read one way is refused."""

import gzip
from pathlib import Path

import pytest
import yaml

from expunge.datasets.catalogue import load
from expunge.datasets.draft import draft
from expunge.errors import DatasetError
from tests.conftest import CONTRACT, clinic_rows, make_clinic


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    return make_clinic(tmp_path / "clinic")


def rewrite(folder: Path, **changes) -> None:
    (folder / "contract.yaml").write_text(yaml.safe_dump({**yaml.safe_load(CONTRACT), **changes}))


def test_gzip_subfolders_tabs_and_partitions_are_read_and_the_rest_is_named(clinic):
    rows = clinic_rows()
    whole = load(str(clinic)).frame
    (clinic / "visits.csv").write_bytes(rows.iloc[:50].to_csv(index=False).encode("utf-8-sig"))
    (clinic / "b.csv.gz").write_bytes(gzip.compress(rows.iloc[50:100].to_csv(index=False).encode()))
    (clinic / "2025").mkdir()
    rows.iloc[100:150].to_csv(clinic / "2025" / "c.tsv", sep="\t", index=False)
    (clinic / "year=2024").mkdir()
    rows.iloc[150:].to_parquet(clinic / "year=2024" / "p.parquet")
    (clinic / "README.md").write_text("ours")
    loaded = load(str(clinic))
    assert sorted(loaded.frame["age"].round(6)) == sorted(whole["age"].round(6))
    assert "not read: README.md" in loaded.read
    assert len(loaded.read) == 5
    (clinic / "more.xlsx").write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"cannot be read.*more\.xlsx"):
        load(str(clinic))


def test_european_numbers_are_read_and_ambiguous_ones_refused(clinic):
    expected = load(str(clinic)).frame["age"].tolist()
    rows = clinic_rows()
    rows["dose"] = [f"1.{int(one):03d}" for one in rows["dose"]]
    text = rows.assign(age=rows["age"].map(lambda a: repr(a).replace(".", ",")))
    text.to_csv(clinic / "visits.csv", sep=";", index=False)
    loaded = load(str(clinic))
    assert loaded.frame["age"].tolist() == expected
    assert loaded.frame["dose"].min() >= 1000
    assert "semicolon" in loaded.read[0]
    assert "comma" in loaded.read[0]
    rows.assign(age="1,234").to_csv(clinic / "visits.csv", sep=";", index=False)
    with pytest.raises(DatasetError, match="two ways"):
        load(str(clinic))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.assign(age="2024-11-27"), "age has .* but dates"),
        (lambda rows: rows.assign(age="yes"), "kind: categorical"),
        (lambda rows: rows.assign(age="12 kg"), "99 aa"),
        (lambda rows: rows.assign(outcome="sick"), "'sick' in"),
        (lambda rows: rows.assign(outcome=rows.index * 0.5), "regression"),
        (lambda rows: rows.rename(columns={"dose": "Dose"}), "there is 'Dose'"),
    ],
)
def test_messages_name_what_was_found(clinic, change, message):
    change(clinic_rows()).to_csv(clinic / "visits.csv", index=False)
    with pytest.raises(DatasetError, match=message) as error:
        load(str(clinic))
    assert "person-0" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "written"), [([0, 1], ["0.0", "1.0"]), ([True, False], ["True", "FALSE"])]
)
def test_labels_as_programs_write_them(clinic, classes, written):
    rows = clinic_rows()
    rows["outcome"] = rows["outcome"].map({"ill": written[0], "well": written[1]})
    rows.to_csv(clinic / "visits.csv", index=False)
    rewrite(clinic, classes=classes)
    assert set(load(str(clinic)).frame["label"]) == {str(one).lower() for one in classes}


def test_columns_twice_or_lacking_in_one_file_are_refused(clinic):
    clinic_rows().drop(columns="dose").to_csv(clinic / "b.csv", index=False)
    with pytest.raises(DatasetError, match=r"b\.csv lacks dose"):
        load(str(clinic))
    (clinic / "b.csv").write_text("person,age,age,ward,outcome,dose\n")
    with pytest.raises(DatasetError, match=r"b\.csv names columns twice.*age"):
        load(str(clinic))
    (clinic / "b.csv").write_bytes("person,age,dose,ward,outcome\nMüller,1,1,north,ill\n".encode("cp1252"))
    with pytest.raises(DatasetError, match="encoding: cp1252"):
        load(str(clinic))


def test_poor_data_warn_and_name_nobody(clinic):
    rows = clinic_rows()
    rows["split"] = ["train", "test"] * (len(rows) // 2) + ["train"] * (len(rows) % 2)
    rows.loc[: int(len(rows) * 0.6), "person"] = "person-00001-x"
    rows["outcome"] = "ill"
    rows.loc[1, "outcome"] = "well"
    rows.to_csv(clinic / "visits.csv", index=False)
    rewrite(clinic, split={"column": "split"})
    said = " ".join(load(str(clinic)).warnings)
    for part in ("one person has 6", "attack gates", "no training row has the class well", "one class"):
        assert part in said
    assert "person-0" not in said


@pytest.mark.parametrize("label", ["outcome", "label"])
def test_a_draft_of_a_contract_can_be_used(clinic, label):
    (clinic / "contract.yaml").unlink()
    rows = clinic_rows().rename(columns={"outcome": label}).assign(record_id=range(len(clinic_rows())))
    rows.to_csv(clinic / "visits.csv", index=False)
    notes = draft(clinic)
    assert notes[0] == "subject: person"
    assert len(load(str(clinic)).frame) == len(clinic_rows())
    with pytest.raises(DatasetError, match="which is there"):
        draft(clinic)
