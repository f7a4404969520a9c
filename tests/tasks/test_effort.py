"""Which figures of a training may still be looked at, and which go with a purge."""

import json
from types import SimpleNamespace

import pytest

from expunge.models.effort import Effort, save_effort
from tasks import effort
from tasks.effort import effort_of, superseded_efforts

DIGESTS = ["sha256:" + digit * 64 for digit in "123"]


@pytest.fixture
def state(tmp_path):
    return SimpleNamespace(workspace=SimpleNamespace(effort_dir=tmp_path / "effort"))


def version(number):
    parent = {"parent_version": str(number - 1)} if number > 1 else {}
    return SimpleNamespace(version=number, tags={"model_digest": DIGESTS[number - 1], **parent})


def test_the_block_of_an_earlier_release_counts_for_the_first_version_alone(state, tmp_path):
    """Its later versions carried the parent's figures on: those of a training that saw who left."""
    (tmp_path / "model.json").write_text(json.dumps({"training": {"seconds": 2.5, "products": 79}}))
    assert effort_of(state, version(1), tmp_path) == Effort(2.5, 79)
    assert effort_of(state, version(2), tmp_path) is None
    save_effort(state.workspace.effort_dir, DIGESTS[1], Effort(1.0, 7))
    assert effort_of(state, version(2), tmp_path) == Effort(1.0, 7)
    assert effort_of(state, version(3), tmp_path) is None


def test_a_purge_spares_what_trainings_without_these_people_took(state, monkeypatch):
    registry = SimpleNamespace(versions=lambda: [version(number) for number in (1, 2, 3)])
    monkeypatch.setattr(effort.access, "registry", lambda state: registry)
    assert superseded_efforts(state, 2) == []
    kept = [save_effort(state.workspace.effort_dir, digest, Effort(1.0, 1)) for digest in DIGESTS]
    discarded = save_effort(state.workspace.effort_dir, "sha256:" + "4" * 64, Effort(1.0, 1))
    assert superseded_efforts(state, 2) == [kept[0], discarded]
    assert superseded_efforts(state, 3) == [*kept[:2], discarded]
