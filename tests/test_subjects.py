"""Which spellings are one person by the contract's rules, and which only may be."""

import unicodedata
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.datasets.alike import alike, inferred
from expunge.subjects import RULES, Identity, folded, join_parts, likely, spellings, split_parts

EVERY = tuple(rule for rule in RULES if rule != "exact")
UUID = "03cdee89-b7dd-ba52-e000-000000000000"
NFD = unicodedata.normalize("NFD", "Zoë")
RULES_ST = st.lists(st.sampled_from(RULES), unique=True).map(tuple)
NASTY = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("0019.,e+- @|\\ıİß\u0345\u200b\u00a0")
)


@pytest.mark.parametrize(
    ("rules", "spelled"),
    [
        (
            ("uuid",),
            [UUID, UUID.upper(), f"{{{UUID}}}", f"urn:uuid:{UUID}", UUID.replace("-", ""), f" {UUID}"],
        ),
        (
            ("email",),
            ["ann@example.org", " Ann@EXAMPLE.org\u00a0", "mailto:ann@example.org", "\u200bANN@example.org"],
        ),
        (("nfc",), ["Zoë", NFD]),
        (("trim", "casefold", "nfc"), [" ZOË", NFD, "zoë\u200b", "\ufeffZoë"]),
        (("casefold",), ["Straße", "STRASSE", "strasse"]),
        (("integer",), ["1008", "1008.0", " 1008", "0001008", "１００８", "+1008", "1008,0", "1008.00"]),
        (("phone",), ["+49 30 1234567", "0049301234567", "+49 (0)30/123-4567", "+49.30.1234567"]),
    ],
)
def test_what_a_rule_makes_one_person(rules, spelled) -> None:
    assert len({Identity(rules).canonical(one) for one in spelled}) == 1
    assert len({folded(one) for one in spelled}) == 1
    assert len({Identity(()).canonical(one) for one in spelled}) == len(spelled)
    assert {Identity().canonical(one) for one in spelled} == set(spelled)


@pytest.mark.parametrize(
    "others",
    [
        [
            "ann@example.org",
            "ann+tag@example.org",
            "a.nn@example.org",
            "ann@example.com",
            "ann@example.org.uk",
        ],
        ["1008", "1008.5", "10080", "-1008", "1,008", "1.008"],
        ["1000", "1.000,5", "1000.5"],
        [UUID, UUID[:-1] + "1"],
        ["+49301234567", "+43301234567", "030 1234567"],
        ["h1|77", "h17|7", "h1|7|7"],
        ["Zoë", "Zoe", "Zo"],
    ],
)
def test_whoever_is_another_person_stays_one(others) -> None:
    for one, other in combinations(others, 2):
        assert Identity(EVERY).canonical(one) != Identity(EVERY).canonical(other)
        assert folded(one) != folded(other)


def test_what_only_may_be_the_same_is_a_near_match_and_no_more() -> None:
    """A dotless i is another letter; a number in scientific notation may have lost digits."""
    for one, other in (("Işık", "işik"), ("1e3", "1000"), ("1.008E+03", "1008"), ("Ann  Lee", "Ann Lee")):
        assert folded(one) == folded(other)
        assert Identity(EVERY).canonical(one) != Identity(EVERY).canonical(other)


@given(NASTY, RULES_ST)
def test_the_one_form_stays_as_it_is(text: str, rules) -> None:
    for parts in (1, 2):
        identity = Identity(rules, parts)
        form = identity.canonical(text)
        assert identity.canonical(form) == form
    assert folded(folded(text)) == folded(text)


@given(NASTY, RULES_ST)
def test_rules_never_join_what_does_not_look_alike(text: str, rules) -> None:
    assert folded(Identity(rules).canonical(text)) == folded(text)


@given(st.lists(NASTY, min_size=1, max_size=4), st.lists(NASTY, min_size=1, max_size=4))
def test_ids_of_several_columns_are_never_mixed_up(one: list[str], other: list[str]) -> None:
    if len(one) > 1:
        assert split_parts(join_parts(one)) == one
    if len(one) == len(other):
        assert (join_parts(one) == join_parts(other)) == (one == other)


def test_rules_are_for_each_part_of_an_id() -> None:
    identity = Identity(("trim", "integer"), 2)
    assert identity.canonical(" h1|0077.0") == "h1|77"
    assert identity.canonical("h1|77|x") == "h1|77|x"


def test_columns_suggest_rules_that_join_surely_one_person() -> None:
    assert inferred([UUID, UUID.upper()])[-1] == "uuid"
    assert inferred(["a@b.org", " C@D.org "])[-1] == "email"
    assert inferred(["1008.0", "7"])[-1] == "integer"
    assert inferred(["+49301234567", "0043 1 2345678"])[-1] == "phone"
    for ids in (["007", "008"], ["a1", "7"], ["1e3"], ["ann@b.org", "7"], []):
        assert inferred(ids) == ("trim", "nfc")


def test_what_is_told_apart_by_spelling_alone_is_counted_by_form() -> None:
    found = alike(["ann", "Ann", " bob", "bob", "eve", NFD, "Zoë"], ("trim", "nfc"))
    assert found is not None
    assert (found.ids, found.people, found.rules) == (6, 3, ("trim", "casefold", "nfc"))
    assert found.words == ("blanks", "case", "how accents are encoded")
    assert alike(["ann", "bob"]) is None
    padded = alike(["007", "7"])
    assert padded is not None
    assert padded.rules == ("integer",)
    tail = alike(["Işık", "işik"])
    assert tail is not None
    assert "characters that look alike" in tail.words


@pytest.mark.parametrize("one", [UUID, "ann@example.org", "Zoë-12345", "123456", "h1|77"])
def test_spellings_are_of_the_same_person(one: str) -> None:
    assert one in spellings(one)
    assert all(folded(other) == folded(one) for other in likely(one))
    assert {one.upper(), one.casefold()} <= spellings(one)
