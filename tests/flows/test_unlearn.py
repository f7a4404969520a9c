"""Unlearning on the pool: a refusal comes back as it was, a crash leaves the batch resumable."""

import time
from types import SimpleNamespace

import pytest

from expunge.errors import CertificateRefusedError, ExpungeError, NotConvergedError, ServiceUnavailableError
from tasks import dispatch


@pytest.fixture
def batch(monkeypatch):
    """A batch whose durable data is a dictionary, and a pool whose run is chosen by the test."""
    data: dict = {}
    store = SimpleNamespace(
        get=lambda batch_id: SimpleNamespace(data=data),
        record=lambda batch_id, **new: data.update(new),
    )
    monkeypatch.setattr(dispatch, "open_state", lambda: SimpleNamespace(batches=store))

    def pool(remote, *states, lives=lambda: False):
        """Its run does something, is found in these states, and has a heartbeat or not."""
        crashed, left = [], list(states or ["COMPLETED"])

        def run_deployment(name, *, parameters, timeout):
            assert name == "unlearn/unlearn"
            assert parameters == {"batch_id": "b-1", "mechanism": "convex"}
            assert timeout == 0
            remote()
            return SimpleNamespace(id="r-1")

        def api(url, path):
            assert (url, path) == ("http://prefect/api", "/flow_runs/r-1")
            found = left.pop(0) if len(left) > 1 else left[0]
            if found == "AWAY":
                raise ServiceUnavailableError("the Prefect server does not answer")
            return {"state_type": found}

        monkeypatch.setenv("PREFECT_API_URL", "http://prefect/api")
        monkeypatch.setattr(dispatch, "run_deployment", run_deployment)
        monkeypatch.setattr(dispatch, "api", api)
        monkeypatch.setattr(dispatch, "crash", lambda url, run_id, why: crashed.append(run_id))
        monkeypatch.setattr(dispatch, "unlearning_lives", lambda state, batch_id: lives())
        monkeypatch.setattr(dispatch, "_POLL_S", 0.01)
        monkeypatch.setattr(dispatch, "_SILENCE_S", {"PENDING": 0.2, "RUNNING": 0.2})
        return crashed

    return SimpleNamespace(data=data, pool=pool)


@pytest.mark.parametrize("kind", [CertificateRefusedError, NotConvergedError, ServiceUnavailableError])
def test_a_refusal_keeps_its_type_and_message(batch, kind):
    error = kind("no", expected="a", got="b", remedy="c")
    batch.pool(lambda: dispatch.answer("b-1", "convex", error, done=True))
    with pytest.raises(kind) as caught:
        dispatch.unlearn_on_pool("b-1", "convex")
    assert type(caught.value) is kind
    assert str(caught.value) == str(error)


def test_success(batch):
    batch.pool(lambda: dispatch.answer("b-1", "convex", None, done=True))
    dispatch.unlearn_on_pool("b-1", "convex")


def test_a_crash_is_not_a_refusal_even_after_an_older_one(batch):
    batch.data["answer"] = {"mechanism": "convex", "kind": "NotConvergedError", "reason": "old"}
    batch.pool(lambda: None, "CRASHED")
    with pytest.raises(ServiceUnavailableError, match="CRASHED"):
        dispatch.unlearn_on_pool("b-1", "convex")


@pytest.mark.parametrize(("elsewhere", "kind"), [(False, ExpungeError), (True, ServiceUnavailableError)])
def test_a_run_that_failed_is_no_outage_unless_another_is_at_work(batch, elsewhere, kind):
    """The same would happen again, and again noise would be drawn: nobody repeats it unasked."""
    batch.pool(lambda: None, "FAILED", lives=lambda: elsewhere)
    with pytest.raises(ExpungeError, match="FAILED") as caught:
        dispatch.unlearn_on_pool("b-1", "convex")
    assert type(caught.value) is kind


def test_a_run_without_an_answer_is_a_crash(batch):
    batch.pool(lambda: None)
    with pytest.raises(ServiceUnavailableError):
        dispatch.unlearn_on_pool("b-1", "convex")


def done():
    dispatch.answer("b-1", "convex", None, done=True)


def test_a_run_that_waits_or_has_a_heartbeat_is_waited_for(batch):
    until = time.monotonic() + 1.0  # longer than silence is borne
    assert not batch.pool(done, *["SCHEDULED"] * 40, *["RUNNING"] * 40, "COMPLETED", lives=lambda: True)
    dispatch.unlearn_on_pool("b-1", "convex")
    assert time.monotonic() > until - 0.2


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_vanished_is_noticed_and_marked(batch, state):
    crashed = batch.pool(done, "SCHEDULED", state)
    with pytest.raises(ServiceUnavailableError, match="CRASHED"):
        dispatch.unlearn_on_pool("b-1", "convex")
    assert crashed == ["r-1"]


def test_a_prefect_server_that_is_restarted_loses_nothing(batch, monkeypatch):
    batch.pool(done, "RUNNING", *["AWAY"] * 5, "COMPLETED", lives=lambda: True)
    dispatch.unlearn_on_pool("b-1", "convex")
    batch.pool(done, "AWAY")
    monkeypatch.setattr(dispatch, "_AWAY_S", 0.1)
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        dispatch.unlearn_on_pool("b-1", "convex")


def test_a_database_that_is_away_says_nothing_about_the_run(batch):
    def away():
        raise ServiceUnavailableError("the tickets database cannot be reached")

    crashed = batch.pool(done, *["RUNNING"] * 40, "COMPLETED", lives=away)
    dispatch.unlearn_on_pool("b-1", "convex")
    assert not crashed
