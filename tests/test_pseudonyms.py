"""Pseudonyms and their key files."""

import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import WorkspaceError
from expunge.pseudonyms import Pseudonymiser, create_key, load_key

KEY = b"\x07" * 32


def test_a_pseudonym_is_half_of_the_hmac() -> None:
    # From `openssl dgst -sha256 -mac HMAC` over "pseudonym:patient-ä-42": old evidence must verify for ever.
    assert Pseudonymiser(KEY, 3).of("patient-ä-42") == "p3-9740b274e733e28f597cea55f538bdb9"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=5, unique=True))
def test_people_differ_and_keys_differ(people: list[str]) -> None:
    one, other = Pseudonymiser(KEY), Pseudonymiser(b"\x08" * 32)
    made = [maker.of(person) for maker in (one, other) for person in people]
    assert len(set(made)) == 2 * len(people)
    assert all(re.fullmatch(r"p1-[0-9a-f]{32}", pseudonym) for pseudonym in made)
    assert [one.of(person) for person in people] == made[: len(people)]


def test_requests_and_people_do_not_mix() -> None:
    maker = Pseudonymiser(KEY)
    assert re.fullmatch(r"k1-[0-9a-f]{64}", maker.of_request("42"))
    assert maker.of("42")[3:] not in maker.of_request("42")


def test_the_key_is_not_shown() -> None:
    assert repr(Pseudonymiser(KEY, 2)) == "Pseudonymiser(epoch=2)"


def test_a_key_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym-1.key"
    previous = os.umask(0)
    try:
        key = create_key(path)
    finally:
        os.umask(previous)
    assert load_key(path) == key
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert create_key(tmp_path / "other.key") != key


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    key = create_key(tmp_path / "a.key")
    with pytest.raises(WorkspaceError, match=r"a\.key exists"):
        create_key(tmp_path / "a.key")
    assert load_key(tmp_path / "a.key") == key


@pytest.mark.parametrize("content", [None, b"", b"not base64!", base64.b64encode(b"short")])
def test_a_missing_or_damaged_key_is_said_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "pseudonym-1.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"pseudonym-1\.key .*restore it"):
        load_key(path)
