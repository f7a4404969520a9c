"""Shadow models: balanced halves, the same numbers from any map, nothing trained twice, no record in a name."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import expunge.attacks.shadows as shadows_module
from expunge import progress
from expunge.attacks.shadows import ShadowCache, plan_shadows, score_models, train_shadow, train_shadows
from expunge.errors import InputError
from tests.attacks.problems import records, spec_of

SPEC = spec_of(epochs=3)


@pytest.fixture(scope="module")
def data():
    return records(60, 21)


@pytest.fixture
def plan():
    return plan_shadows(SPEC, 60, 4, seed=5, training_seconds=2.0)


@pytest.fixture
def cache(tmp_path):
    return ShadowCache(tmp_path / "shadows", b"key", "v1")


def test_every_record_is_in_half_of_the_models(plan):
    assert (plan.members.sum(axis=0) == 2).all()
    assert plan.members.shape == (4, 60)
    assert plan.seconds == 4.0
    assert "4 shadow models" in plan.cost()
    assert "min" in plan.cost()
    assert plan.to_json()["predicted_seconds"] == 4.0
    assert set(plan.seeds) == {SPEC.seed}
    assert len(set(plan_shadows(SPEC, 60, 4, vary_seeds=True).seeds)) == 4


def test_a_person_is_in_or_out_as_a_whole_and_names_do_not_matter():
    people = ["b", "a", "b", "c", "a", "b"]
    members = plan_shadows(SPEC, 6, 8, people=people).members
    for person in "abc":
        rows = [i for i, p in enumerate(people) if p == person]
        assert (members[:, rows] == members[:, rows[:1]]).all()
    renamed = plan_shadows(SPEC, 6, 8, people=[{"a": "zz", "b": "q", "c": "a"}[p] for p in people])
    np.testing.assert_array_equal(members, renamed.members)
    with pytest.raises(InputError, match="even"):
        plan_shadows(SPEC, 6, 3)
    with pytest.raises(InputError, match="people"):
        plan_shadows(SPEC, 5, 2, people=people)


def test_serial_threads_and_processes_give_identical_numbers(plan, data):
    serial = train_shadows(plan, *data)
    with ThreadPoolExecutor(2) as threads:
        torch.testing.assert_close(train_shadows(plan, *data, mapper=threads.map), serial, rtol=0, atol=0)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        torch.testing.assert_close(train_shadows(plan, *data, mapper=processes.map), serial, rtol=0, atol=0)
    assert not torch.equal(serial[0], serial[1])
    torch.testing.assert_close(train_shadow(plan, 2, *data), serial[2], rtol=0, atol=0)


def test_an_interrupted_run_continues_where_it_was(plan, data, cache, monkeypatch):
    trained = []

    def stopping(*arguments, **options):
        trained.append(arguments[1])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train_shadow(*arguments, **options)

    monkeypatch.setattr(shadows_module, "train_shadow", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_shadows(plan, *data, cache=cache)
    said = []
    with progress.listening(lambda what, done, total: said.append((what, done, total))):
        found = train_shadows(plan, *data, cache=cache)
    assert trained == [0, 1, 2, 2, 3]
    assert ("shadow models", 4, 4) in said
    torch.testing.assert_close(found, train_shadows(plan, *data), rtol=0, atol=0)
    cache.path(plan, 1).write_bytes(cache.path(plan, 1).read_bytes()[:100])  # half a file is no model
    trained.clear()
    train_shadows(plan, *data, cache=cache)
    assert trained == [1]


def test_names_in_the_cache_depend_on_all_that_matters_and_tell_nothing_without_the_key(plan, cache):
    other = [
        (replace(cache, key=b"other"), plan, 0),
        (replace(cache, dataset="v2"), plan, 0),
        (cache, plan, 1),
        (cache, replace(plan, spec=replace(SPEC, l2=1.0)), 0),
        (cache, plan_shadows(SPEC, 60, 4, seed=6), 0),
        (cache, replace(plan, seeds=(9, 9, 9, 9)), 0),
    ]
    names = {there.path(which, index).name for there, which, index in other}
    assert len(names) == len(other)
    assert cache.path(plan, 0).name not in names
    assert cache.path(plan_shadows(SPEC, 60, 4, seed=5), 0) == cache.path(plan, 0)


def test_scores_are_those_of_each_model(plan, data):
    weights = train_shadows(plan, *data)
    scores = score_models(plan, weights, *data)
    assert scores.logit_confidence.shape == scores.log_confidence.shape == (4, 60)
    inside = scores.log_confidence[plan.members].mean()
    assert inside > scores.log_confidence[~plan.members].mean()


def test_records_that_are_not_the_plans_are_refused(plan, data):
    with pytest.raises(InputError, match="do not fit the plan"):
        train_shadows(plan, data[0][:9], data[1][:9])
