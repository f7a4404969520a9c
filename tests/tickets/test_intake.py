"""CSV files of requests: every bad line is named by its number, no person ever."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from expunge.errors import TicketError
from expunge.tickets.intake import IntakeRow, check_reason, read_tickets_csv

PEOPLE = {"person-one": 3, "person-two": 1, "person, three": 2, "Zoë": 1}


def known(subjects: Iterable[str]) -> dict[str, int]:
    return {subject: PEOPLE.get(subject, 0) for subject in subjects}


def read(tmp_path: Path, content: str | bytes) -> list[IntakeRow]:
    path = tmp_path / "requests.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_tickets_csv(path, known)


def refusal(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(TicketError) as raised:
        read(tmp_path, content)
    message = str(raised.value)
    assert "person" not in message
    assert "\n" not in message
    return message


def test_a_good_file(tmp_path: Path) -> None:
    content = (
        "\ufeffidempotency_key,subject,regime\r\nk1,person-one,CCPA\r\n\r\n"
        ',"person, three", gdpr \r\n,Zoë,\r\n'
    )
    assert read(tmp_path, content) == [
        IntakeRow(2, "person-one", "ccpa", "k1"),
        IntakeRow(4, "person, three", "gdpr", None),
        IntakeRow(5, "Zoë", "gdpr", None),
    ]


def test_the_subject_is_enough(tmp_path: Path) -> None:
    assert read(tmp_path, "subject\nperson-two\n") == [IntakeRow(2, "person-two", "gdpr", None)]


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    content = (
        "subject,regime,idempotency_key\nperson-one,gdpr,k1\nperson-nobody,gdpr,\n,gdpr,\nperson-two,hipaa,k1\n"
        "person-one,gdpr,\nZoë,gdpr,k3,more\n"
    )
    message = refusal(tmp_path, content)
    found = {(int(n), what.strip()) for n, what in re.findall(r"line (\d+): ([^;]+)", message)}
    assert found == {
        (3, "nobody of that id is in the dataset"),
        (4, "no subject"),
        (5, "unknown regime"),
        (5, "the same idempotency key as line 2"),
        (6, "the same subject as line 2"),
        (7, "more fields than columns"),
    }


def test_a_file_without_header_does_not_show_its_first_person(tmp_path: Path) -> None:
    message = refusal(tmp_path, "person-one,gdpr\nperson-two,gdpr\n")
    assert "line 1: column 1 is none of" in message
    assert "column 'subject' is missing" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "column 'subject' is missing"),
        ("subject\n", "there are no lines after the header"),
        ("subject,subject\nperson-one,person-two\n", "line 1: column 2 is none of"),
        ('subject\nperson-two\n"person-one" x\nperson-nobody\n', "line 3: not CSV"),
        ('subject\n"person-one\n', "line 2: not CSV"),
        (b"subject\nperson-\xff\n", "cannot be read"),
    ],
)
def test_other_faults(tmp_path: Path, content: str | bytes, told: str) -> None:
    assert told in refusal(tmp_path, content)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="cannot be read"):
        read_tickets_csv(tmp_path / "none.csv", known)


def test_a_reason_may_hold_what_only_looks_like_the_id() -> None:
    check_reason("held for 12 days", "2")
    check_reason("anything", None)
    with pytest.raises(TicketError):
        check_reason("see (2)", "2")
