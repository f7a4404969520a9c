"""Unlearning on the pool: a refusal comes back as it was, a crash leaves the batch resumable."""

from types import SimpleNamespace

import pytest

from expunge.errors import CertificateRefusedError, NotConvergedError, ServiceUnavailableError
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

    def pool(remote, completed=True):
        def run_deployment(name, *, parameters, timeout, poll_interval):
            assert name == "unlearn/unlearn"
            assert parameters == {"batch_id": "b-1", "mechanism": "convex"}
            remote()
            state = SimpleNamespace(
                is_completed=lambda: completed, name="Completed" if completed else "Crashed"
            )
            return SimpleNamespace(state=state)

        monkeypatch.setattr(dispatch, "run_deployment", run_deployment)

    return SimpleNamespace(data=data, pool=pool)


@pytest.mark.parametrize("kind", [CertificateRefusedError, NotConvergedError])
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
    batch.pool(lambda: None, completed=False)
    with pytest.raises(ServiceUnavailableError, match="Crashed"):
        dispatch.unlearn_on_pool("b-1", "convex")


def test_a_run_without_an_answer_is_a_crash(batch):
    batch.pool(lambda: None)
    with pytest.raises(ServiceUnavailableError):
        dispatch.unlearn_on_pool("b-1", "convex")
