"""The residue scan finds a person in any spelling, says whose rows they are, and drowns in no false hits."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from expunge.pseudonyms import Pseudonymiser
from expunge.residue.scan import Target, scan
from expunge.residue.stores import folder
from expunge.subjects import Identity

MAKER = Pseudonymiser(b"k" * 32)
UUID, EMAIL, NAME, SHORT = "03cdee89-b7dd-ba52-e000-00000000000a", "ann@example.org", "Zoë Müller", "77"
TARGET = Target(frozenset({UUID, EMAIL, NAME, SHORT}), pseudonymiser=MAKER, subject_column="patient")


def hits(root: Path, target: Target = TARGET) -> list[dict]:
    report = scan([folder(root, "files")], target)
    text = json.dumps(report.to_json()).lower()
    assert not any(one.lower() in text for one in (UUID, EMAIL, NAME))
    return list(report.hits)


@pytest.mark.parametrize(
    "text",
    [
        f"saw {UUID.upper()} today",
        f"urn:uuid:{UUID.replace('-', '').upper()}",
        "mail to Ann@Example.ORG now",
        "GET /people/ann%40example.org",
        '{"note": "zo\\u00eb m\\u00fcller"}',
        "ZOË MÜLLER",
        "Zoe\u0308 Mu\u0308ller",
        "patient,x\n 77.0 ,1\n",
        "patient,x\n0077,1\n",
        '{"patient": "077", "x": 1}\n{"y": 2}\n',
        'log {"subject": "Ann@example.org "} end',
    ],
)
def test_a_person_in_another_spelling(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text, encoding="utf-8")
    assert {hit["kind"] for hit in hits(tmp_path)} == {"subject-id"}


@pytest.mark.parametrize(
    "text",
    [
        "joann@example.org, ann@example.organic",
        f"0{UUID[:-1]}b",
        "count,value\n77,77.0\n",
        "patient,x\n770,1\n7.7,1\n",
        '{"patient": 771}',
        "zoe muller",
    ],
)
def test_others_are_no_hits(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text, encoding="utf-8")
    assert hits(tmp_path) == []


def test_a_table_says_column_rows_and_whose(tmp_path: Path) -> None:
    cells = [f" {EMAIL.upper()} ", EMAIL.title(), "bob@example.org", EMAIL]
    pd.DataFrame({"patient": cells, "x": range(4)}).to_parquet(tmp_path / "p", compression="zstd")
    (hit,) = [hit for hit in hits(tmp_path) if "column" in hit]
    assert (hit["column"], hit["rows"], hit["whose"]) == ("patient", 3, [MAKER.of(EMAIL)])


def test_forms_that_other_people_share_are_searched_for_as_they_are(tmp_path: Path) -> None:
    target = Target(frozenset({"person-bob", EMAIL}), forms=frozenset({EMAIL}), pseudonymiser=MAKER)
    (tmp_path / "file").write_text("PERSON-BOB stays")
    assert hits(tmp_path, target) == []
    (tmp_path / "file").write_text("person-bob is left")
    assert hits(tmp_path, target)


def test_whoever_is_known_by_pseudonym_is_found_in_another_spelling(tmp_path: Path) -> None:
    codes = frozenset({MAKER.of_spelling(EMAIL)})
    for target in (
        Target(pseudonyms=frozenset({MAKER.of(UUID)}), pseudonymiser=MAKER, subject_column="patient"),
        Target(codes=frozenset({MAKER.of_spelling(UUID)}), pseudonymiser=MAKER, subject_column="patient"),
    ):
        pd.DataFrame({"patient": [UUID.upper()], "x": [1]}).to_parquet(tmp_path / "p", compression="zstd")
        assert {hit["kind"] for hit in hits(tmp_path, target)} == {"subject-id"}
        pd.DataFrame({"patient": [UUID.replace("a", "b")], "x": [1]}).to_parquet(tmp_path / "p")
        assert hits(tmp_path, target) == []
    (tmp_path / "log").write_text(f"{EMAIL.upper()} left")
    assert hits(tmp_path, Target(codes=codes, pseudonymiser=MAKER))
    settled = replace(MAKER, identity=Identity(()))
    assert hits(tmp_path, Target(codes=codes, pseudonymiser=settled)) == []


def test_a_person_of_several_columns(tmp_path: Path) -> None:
    target = Target(frozenset({"h1|77"}), pseudonymiser=MAKER, subject_parts=("hospital", "number"))
    table = pd.DataFrame({"hospital": ["h1", "H1", "h2"], "number": [7, 77, 77]})
    table.to_parquet(tmp_path / "p")
    (hit,) = hits(tmp_path, target)
    assert (hit["column"], hit["rows"]) == ("hospital|number", 1)
    table.to_csv(tmp_path / "p", index=False)
    assert len(hits(tmp_path, target)) == 1
    table[table["hospital"] != "H1"].to_csv(tmp_path / "p", index=False)
    assert hits(tmp_path, target) == []


def test_an_id_in_a_longer_text_is_found_in_the_people_s_own_column_too(tmp_path: Path) -> None:
    """Whatever the contract settles: a false alarm is the lesser evil."""
    settled = replace(MAKER, identity=Identity(()))
    target = Target(frozenset({EMAIL}), pseudonymiser=settled, subject_column="patient", forms=frozenset())
    # among many others, so that neither a table's statistics nor its compressed bytes repeat it
    cells = [f"call {n} about nothing at all" for n in range(2000)]
    cells[1000] = f"call 1000 about {EMAIL}"
    pd.DataFrame({"patient": cells}).to_parquet(tmp_path / "p", compression="zstd")
    assert {hit["kind"] for hit in hits(tmp_path, target)} == {"subject-id"}
