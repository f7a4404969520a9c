"""Clocks that step: no date is before the one that it follows, and the advice is to set the clock."""

from datetime import UTC, datetime, timedelta

import pytest

from expunge.database import open_database
from expunge.errors import RefusedError, WorkspaceError
from expunge.evidence import keys as key_files
from expunge.evidence import store as stores
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import moment_of
from expunge.evidence.store import LedgerStore
from expunge.evidence.verify_ledger import verify_ledger

NOW = datetime.now(UTC).replace(microsecond=0)
LINEAGE = "expunge-clocks"


class Clock(datetime):
    """One that the test sets."""

    ahead = timedelta(0)

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.ahead


@pytest.fixture
def clock(monkeypatch):
    for module in (stores, key_files):
        monkeypatch.setattr(module, "datetime", Clock)
    yield lambda **ahead: setattr(Clock, "ahead", timedelta(**ahead))
    Clock.ahead = timedelta(0)


@pytest.fixture
def store(tmp_path):
    keys = SigningKeys(tmp_path)
    keys.create(NOW - timedelta(days=300))
    return LedgerStore(open_database(f"sqlite:///{tmp_path}/ledger.db"), keys)


def append(store, **content):
    return store.append(LINEAGE, issued_at=store.now(LINEAGE).isoformat(timespec="seconds"), **content)


@pytest.mark.parametrize("ahead", [{"seconds": 2}, {"minutes": 30}, {"hours": 23}])
def test_a_clock_that_was_ahead_leaves_a_ledger_that_verifies(store, clock, ahead):
    clock(**ahead)
    opening = append(store, kind="opening")
    clock(hours=0)
    purge = append(store, kind="purge", batch="b-1")
    assert moment_of(purge.issued_at) >= moment_of(opening.issued_at)
    outcome = verify_ledger(store.read(LINEAGE), keys=store._keys.keyring())
    assert outcome.verified, outcome.findings
    clock(days=2)
    assert store.now(LINEAGE) > NOW + timedelta(days=1)


@pytest.mark.parametrize("behind", [{"days": 2}, {"days": 200}])
def test_a_clock_that_is_far_behind_is_to_be_set(store, clock, behind):
    append(store, kind="opening")
    clock(**{name: -value for name, value in behind.items()})
    with pytest.raises(RefusedError, match="set the clock"):
        store.now(LINEAGE)
    assert len(store.entries(LINEAGE)) == 1


def test_a_key_of_tomorrow_wants_a_clock_and_no_other_key(tmp_path, clock):
    keys = SigningKeys(tmp_path)
    keys.create(datetime.now(UTC) + timedelta(minutes=30))
    with pytest.raises(WorkspaceError, match="set the clock") as refused:
        keys.signer()
    assert "rotate" not in str(refused.value)
    clock(hours=1)
    assert keys.signer()
