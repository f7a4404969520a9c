"""Whose rows they are: what a contract decides about spellings, and what is asked before anything is made."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from expunge.datasets.catalogue import load
from expunge.datasets.contract import read_contract, write_contract
from expunge.errors import DatasetError
from tests.conftest import CONTRACT, clinic_rows

UUIDS = [f"{n:08x}-b7dd-ba52-e000-000000abcdef" for n in range(24)]


def dump(folder: Path, spell, subject: object = "person", people: int = 24) -> Path:
    """The clinic, each row's person spelled by a function of their number and the row's."""
    folder.mkdir(exist_ok=True)
    rows = clinic_rows(people)
    numbers = rows["person"].factorize()[0]
    rows["person"] = [spell(int(number), row) for row, number in enumerate(numbers)]
    rows.to_csv(folder / "v.csv", index=False)
    content = yaml.safe_load(CONTRACT)
    (folder / "contract.yaml").write_text(yaml.safe_dump({**content, "subject": subject}), encoding="utf-8")
    return folder


def email(number: int, row: int) -> str:
    plain = f"user{number}@example.org"
    return (plain, plain.upper(), f" {plain} ")[row % 3]


def test_ids_that_differ_in_form_only_are_refused_until_the_contract_says_what_they_are(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        DatasetError, match=r"[0-9]+ ids of column person differ only in blanks or case"
    ) as told:
        load(str(dump(tmp_path / "d", email)))
    assert "normalise: [trim, nfc, email]" in str(told.value)
    assert "normalise: []" in str(told.value)
    assert "user1" not in str(told.value)

    joined = load(str(dump(tmp_path / "d", email, {"column": "person", "normalise": ["trim", "email"]})))
    assert joined.frame["subject_id"].nunique() == 25
    assert joined.spellings > 25
    assert joined.frame.groupby("subject_id")["split"].nunique().max() == 1  # a person is in one split
    apart = load(str(dump(tmp_path / "d", email, {"column": "person", "normalise": []})))
    assert apart.frame["subject_id"].nunique() == joined.spellings


def test_rules_that_join_some_are_not_the_last_word(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="differ only in case"):
        load(str(dump(tmp_path / "d", email, {"column": "person", "normalise": ["trim"]})))
    loaded = load(str(dump(tmp_path / "d", email, {"column": "person", "normalise": ["trim", "exact"]})))
    assert 25 < loaded.frame["subject_id"].nunique() < loaded.spellings


def test_padding_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="how a whole number is written"):
        load(str(dump(tmp_path / "d", lambda number, row: (str(number), f"{number:04d}")[row % 2])))


@pytest.mark.parametrize(
    ("spell", "rule", "third"),
    [
        (lambda number, _: f"{1000 + number}.0", "integer", "1002"),
        (
            lambda number, _: UUIDS[number % 24].upper() if number % 2 else UUIDS[number % 24],
            "uuid",
            UUIDS[2],
        ),
        (lambda number, _: f"+49 30 {number:07d}", "phone", "+49300000002"),
        (lambda number, _: f"{number:05d}", None, "00002"),
        (lambda number, _: f"Zoe\u0308 {number}", None, "Zoë 2"),
    ],
)
def test_defaults_by_what_a_column_looks_like_are_written_down(tmp_path: Path, spell, rule, third) -> None:
    loaded = load(str(dump(tmp_path / "d", spell)))
    rules = loaded.contract.identity.rules
    assert rules == ("trim", "nfc", *([rule] if rule else []))
    assert third in set(loaded.frame["subject_id"])
    write_contract(loaded.contract, tmp_path / "c.yaml")
    assert read_contract(tmp_path / "c.yaml") == loaded.contract
    assert "normalise:" in (tmp_path / "c.yaml").read_text()


def test_a_plain_contract_means_what_it_always_meant(tmp_path: Path) -> None:
    plain = read_contract(dump(tmp_path / "d", email) / "contract.yaml")
    assert plain.identity.canonical(" A") == " A"
    write_contract(plain, tmp_path / "c.yaml")
    assert "subject: person\n" in (tmp_path / "c.yaml").read_text()


@pytest.mark.parametrize(
    ("spell", "told"),
    [
        (lambda number, _: "nan" if number == 3 else f"p{number}", "writes for an empty cell"),
        (lambda number, _: "\u200b\u00a0" if number == 3 else f"p{number}", "without a person"),
        (lambda number, _: str(bool(number % 2)), "true and false"),
        (lambda number, _: f"{number}.5E+11" if number % 2 else f"{number}", "scientific notation"),
    ],
)
def test_ids_that_name_nobody_or_have_lost_digits(tmp_path: Path, spell, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        load(str(dump(tmp_path / "d", spell)))


def test_numbers_that_floating_point_cannot_tell_apart(tmp_path: Path) -> None:
    folder = dump(tmp_path / "d", lambda number, _: f"p{number}")
    rows = pd.read_csv(folder / "v.csv")
    (folder / "v.csv").unlink()
    rows.assign(person=rows["person"].factorize()[0] + 2.0**60).to_parquet(folder / "v.parquet")
    with pytest.raises(DatasetError, match="digits are lost"):
        load(str(folder))
    rows.assign(person=rows["person"].factorize()[0] + 1000.0).to_parquet(folder / "v.parquet")
    assert "1002" in set(load(str(folder)).frame["subject_id"])


def test_a_person_of_several_columns(tmp_path: Path) -> None:
    folder = dump(tmp_path / "d", lambda number, _: f"p{number}", {"column": ["hospital", "number"]})
    rows = pd.read_csv(folder / "v.csv")
    numbers = rows.pop("person").factorize()[0]
    rows["hospital"], rows["number"] = [f"h{n % 2}" for n in numbers], [f"{n // 2}.0" for n in numbers]
    rows.to_csv(folder / "v.csv", index=False)
    loaded = load(str(folder))
    assert loaded.contract.identity.rules == ("trim", "nfc", "integer")
    assert {"h0|1", "h1|1"} <= set(loaded.frame["subject_id"])
    assert loaded.frame["subject_id"].nunique() == 25
    rows.loc[0, "number"] = None
    rows.to_csv(folder / "v.csv", index=False)
    with pytest.raises(DatasetError, match="column number has 1 rows without a person"):
        load(str(folder))


@pytest.mark.parametrize(
    "subject",
    [
        {"column": "person", "normalise": ["upper"]},
        {"column": []},
        {"column": ["a", "a"]},
        {"columns": "person"},
        True,
    ],
)
def test_a_rule_that_there_is_not(tmp_path: Path, subject: object) -> None:
    with pytest.raises(DatasetError, match="not a valid contract"):
        read_contract(dump(tmp_path / "d", email, subject) / "contract.yaml")
