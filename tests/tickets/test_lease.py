"""The lease of a lineage is renewed while the work lasts, and given back."""

import time
from dataclasses import dataclass
from functools import partial

import pytest

from expunge.errors import LeaseHeldError, RefusedError
from expunge.tickets.batches import BatchStore
from tasks import leases
from tasks.leases import require_leases, unlearning_lease, unlearning_lives

# Here is no workspace that could have been copied.
lineage_lease = partial(leases.lineage_lease, anywhere=True)


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


def test_whoever_waits_knows_that_a_batch_is_being_unlearned(batches):
    assert not unlearning_lives(Workplace(batches), "b-1")
    with unlearning_lease(Workplace(batches), "b-1"):
        assert unlearning_lives(Workplace(batches), "b-1")
        assert not unlearning_lives(Workplace(batches), "b-2")
    assert not unlearning_lives(Workplace(batches), "b-1")
    batches.acquire_lease("unlearn:b-1", "elsewhere:1:1", 0.2)
    assert unlearning_lives(Workplace(batches), "b-1")
    time.sleep(0.3)  # no heartbeat came
    assert not unlearning_lives(Workplace(batches), "b-1")


@pytest.mark.parametrize("still_at_work", [True, False])
def test_a_holder_that_was_paused_learns_that_another_took_over(batches, still_at_work):
    """Also when the other is done: what it did must not be done again."""
    work = Workplace(batches)
    with lineage_lease(work, seconds=0.2, every=1.0):
        require_leases(work)
        time.sleep(0.3)  # paused: no heartbeat came, the lease expired
        require_leases(work, seconds=0.2)  # nobody wanted it
        time.sleep(0.3)
        assert taken_by_another(batches)
        if not still_at_work:
            batches.release_lease("expunge-clinic", "elsewhere:1")
        time.sleep(0.8)  # the heartbeat does not take it back
        with pytest.raises(LeaseHeldError, match="lost its lease"):
            require_leases(work)
    require_leases(work)  # it holds none any more
    assert batches.lease_held("expunge-clinic") is still_at_work
