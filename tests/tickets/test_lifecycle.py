"""The lifecycle: what is allowed is written out here a second time; every other step must be refused."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import TicketError
from expunge.tickets.lifecycle import TicketState, advance, due_at

PATH = ["scheduled", "removed", "unlearned", "validated", "certified", "registered", "purged", "closed"]
ALLOWED = {
    ("received", "verified"),
    ("verified", "scheduled"),
    *pairwise(PATH),
    *((state, "failed") for state in PATH[:-1]),
    *((state, "on_hold") for state in ("received", "verified", *PATH[:-2])),
    *product(("received", "verified"), ("rejected", "withdrawn")),
}


@pytest.mark.parametrize(("state", "target"), product(TicketState, TicketState))
def test_only_the_listed_steps(state: TicketState, target: TicketState) -> None:
    if (state, target) in ALLOWED:
        assert advance(state, target) is target
    else:
        with pytest.raises(TicketError, match="cannot take this step"):
            advance(state, target)


@pytest.mark.parametrize(("before", "target"), product(TicketState, TicketState))
def test_a_hold_returns_to_the_state_it_left(before: TicketState, target: TicketState) -> None:
    early = before in ("received", "verified")
    returns = target == before and (early or before in PATH[:-2])
    if returns or (early and target in ("rejected", "withdrawn")):
        assert advance(TicketState.ON_HOLD, target, before=before) is target
    else:
        with pytest.raises(TicketError):
            advance(TicketState.ON_HOLD, target, before=before)


@pytest.mark.parametrize(("before", "target"), product(TicketState, TicketState))
def test_a_failure_resumes_at_the_state_it_left_or_is_held(before: TicketState, target: TicketState) -> None:
    resumes = target == before and before in PATH[:-1]
    held = target == "on_hold" and before in ("received", "verified", *PATH[:-2])
    if resumes or held:
        assert advance(TicketState.FAILED, target, before=before) is target
    else:
        with pytest.raises(TicketError):
            advance(TicketState.FAILED, target, before=before)


def test_the_error_says_what_would_be_right() -> None:
    with pytest.raises(TicketError, match="expected from scheduled to failed, on_hold, removed, got closed"):
        advance(TicketState.SCHEDULED, TicketState.CLOSED)


@pytest.mark.parametrize(
    ("received", "due"),
    [
        ((2026, 1, 15, 10, 30), (2026, 2, 15, 10, 30)),
        ((2026, 1, 31), (2026, 2, 28)),
        ((2028, 1, 30), (2028, 2, 29)),
        ((2026, 3, 31), (2026, 4, 30)),
        ((2026, 2, 28), (2026, 3, 28)),
        ((2026, 12, 31), (2027, 1, 31)),
    ],
)
def test_gdpr_is_one_calendar_month(received: tuple[int, ...], due: tuple[int, ...]) -> None:
    assert due_at(datetime(*received, tzinfo=UTC), "gdpr") == datetime(*due, tzinfo=UTC)


def test_ccpa_is_45_days() -> None:
    assert due_at(datetime(2026, 1, 31, tzinfo=UTC), "ccpa") == datetime(2026, 3, 17, tzinfo=UTC)


def test_other_regimes_are_refused() -> None:
    with pytest.raises(TicketError, match="gdpr, ccpa, uk-gdpr, lgpd"):
        due_at(datetime(2026, 1, 1, tzinfo=UTC), "hipaa")


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


@given(MOMENTS, MOMENTS)
def test_who_comes_first_is_due_first(one: datetime, other: datetime) -> None:
    # Days, not moments: ends of months fall together, and there the time of day may be the other way round.
    first, second = sorted([one, other])
    assert due_at(first, "gdpr").date() <= due_at(second, "gdpr").date()
    assert timedelta(days=28) <= due_at(one, "gdpr") - one <= timedelta(days=31)
    assert due_at(one, "ccpa") - one == timedelta(days=45)
