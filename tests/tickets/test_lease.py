"""The lease of a lineage is renewed while the work lasts, and given back."""

import time
from dataclasses import dataclass

import pytest

from expunge.errors import RefusedError
from expunge.tickets.batches import BatchStore
from tasks.intake import lineage_lease


@dataclass
class Workplace:
    batches: BatchStore
    lineage: str = "expunge-clinic"


def taken_by_another(batches):
    try:
        batches.acquire_lease("expunge-clinic", "elsewhere:1", 60.0)
    except RefusedError:
        return False
    return True


def test_a_heartbeat_keeps_the_lease(batches):
    with lineage_lease(Workplace(batches), seconds=1.5, every=0.2):
        time.sleep(2.5)  # longer than the lease itself
        assert not taken_by_another(batches)
    assert taken_by_another(batches)


def test_whoever_comes_second_is_refused_and_disturbs_nothing(batches):
    assert taken_by_another(batches)
    with pytest.raises(RefusedError, match="at work"), lineage_lease(Workplace(batches)):
        raise AssertionError("entered")
    batches.release_lease("expunge-clinic", "elsewhere:1")
    with lineage_lease(Workplace(batches)):
        assert not taken_by_another(batches)


def test_its_holder_may_enter_it_again(batches):
    with lineage_lease(Workplace(batches)):
        with lineage_lease(Workplace(batches)):
            assert not taken_by_another(batches)
        assert not taken_by_another(batches)  # the inner one gave nothing back
    assert taken_by_another(batches)
