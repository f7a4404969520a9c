"""Streams at toy size: arrivals, batches, and that the budget forces retraining where the accountant says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import arrivals, common, runner
from benchmarks.experiments import streams
from expunge.errors import BudgetExceededError, InputError
from expunge.privacy.accountant import LedgerLimits, SequentialAccount, compose_m
from expunge.privacy.gaussian import admitted_sensitivity, gaussian_epsilon, gaussian_m

OPTIONS = {"per_day": 2.0, "burst": 10, "burst_hours": 6.0}
SETTING = {
    "experiment": "streams",
    "dataset": "breast-cancer",
    "records": 200,
    "seed": 3,
    "requests": 9,
    "class": 0,
    "model": {
        "name": "softmax",
        "hyperparameters": {},
        "training": {"l2": 1e-2, "gradient_tolerance": 1e-7},
        "rank": 10,
        "sample": 100,
    },
    "release": {"sigma": 0.01, "epsilon": 0.05, "delta": 1e-6},
    "ledger": {"accumulated_error": 5e-4, "composed_epsilon": 1.0, "releases": 100},
    "arrivals": {"poisson": {"per_day": 2.0}, "bursty": OPTIONS},
    "policies": [{"minimum_size": 1, "maximum_wait_days": 7}, {"minimum_size": 4, "maximum_wait_days": 7}],
    "streams": [
        {"arrivals": "poisson", "deletions": "uniform"},
        {"arrivals": "bursty", "deletions": "class"},
    ],
}


@pytest.mark.parametrize("kind", ["poisson", "bursty"])
def test_arrivals_come_from_the_seed_alone(kind):
    days = arrivals.arrive(kind, 400, OPTIONS, seed=1)
    assert np.array_equal(days, arrivals.arrive(kind, 400, OPTIONS, seed=1))
    assert not np.array_equal(days, arrivals.arrive(kind, 400, OPTIONS, seed=2))
    assert (np.diff(days) >= 0).all()
    assert days[0] > 0
    assert days[-1] == pytest.approx(400 / OPTIONS["per_day"], rel=0.4)


def test_bursts_are_burstier():
    def variation(kind):
        gaps = np.diff(arrivals.arrive(kind, 2000, OPTIONS, seed=1))
        return gaps.std() / gaps.mean()

    assert variation("poisson") == pytest.approx(1.0, abs=0.1)  # of an exponential
    assert variation("bursty") > 2


def test_unknown_kinds_are_refused():
    data = common.synthetic(10, 2, 2)
    with pytest.raises(InputError, match="arrivals"):
        arrivals.arrive("tides", 3, OPTIONS, seed=1)
    with pytest.raises(InputError, match="deletions"):
        arrivals.choose_people("tides", data, 3, seed=1)
    with pytest.raises(InputError, match="too few"):
        arrivals.choose_people("uniform", data, 11, seed=1)


def test_a_batch_starts_when_enough_wait_or_one_has_waited_long():
    days = np.array([0.0, 1.0, 2.0, 20.0, 21.0, 40.0])
    formed = arrivals.form_batches(days, 3, 7)
    assert [(batch.at, batch.requests, batch.why) for batch in formed] == [
        (2.0, (0, 1, 2), "size"),
        (27.0, (3, 4), "wait"),
        (47.0, (5,), "wait"),
    ]
    assert [batch.at for batch in arrivals.form_batches(days, 1, 7)] == list(days)


@pytest.mark.parametrize("kind", ["poisson", "bursty"])
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_every_request_is_in_one_batch_and_none_waits_too_long(kind, size):
    days = arrivals.arrive(kind, 300, OPTIONS, seed=5)
    formed = arrivals.form_batches(days, size, 7)
    assert [request for batch in formed for request in batch.requests] == list(range(300))
    for batch in formed:
        waits = batch.at - days[list(batch.requests)]
        assert waits.min() >= 0
        assert waits.max() <= 7 + 1e-9
        assert len(batch.requests) == size if batch.why == "size" else len(batch.requests) < size


def test_batches_queue_for_one_worker():
    opened = [arrivals.Opened(day, (number,), "size") for number, day in enumerate([0.0, 0.1, 5.0])]
    ends = arrivals.closed(opened, [86400 / 2, 86400 / 4, 0.0])
    assert ends.tolist() == pytest.approx([0.5, 0.75, 5.0])


def test_who_asks():
    subjects = np.repeat(np.arange(40), 3)[:100]
    subjects[90:] = 7  # seven has most rows
    data = replace(common.synthetic(100, 2, 2), subjects=subjects)
    assert arrivals.choose_people("person", data, 3, seed=1)[0] == 7
    of_class = arrivals.choose_people("class", data, 5, seed=1, label=1)
    first = {person: int(data.labels[np.flatnonzero(subjects == person)[0]]) for person in of_class}
    assert set(first.values()) == {1}
    drawn = arrivals.choose_people("uniform", data, 20, seed=1)
    assert len(set(drawn)) == 20
    assert drawn == arrivals.choose_people("uniform", data, 20, seed=1)


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    place = runner.Place(scratch=folder)
    found = []
    for cell in streams.cells(SETTING):
        found.append({"cell": cell, "result": streams.run(SETTING, cell, place), "seconds": 0.0})
    return {"name": "toy", "setting": SETTING, "cells": found}


def test_the_budget_forces_retraining_where_the_accountant_says(document):
    bound = admitted_sensitivity(0.01, 0.05, 1e-6)
    limits = LedgerLimits(5e-4, 1.0, 100)
    for row in runner.rows(document):
        account, retrained = SequentialAccount(), []
        for batch in range(1, row["batches"] + 1):
            try:
                following = account.after_release(bound)
                following.check(limits)
                account = following
            except BudgetExceededError as error:
                account = SequentialAccount()
                retrained.append(batch)
                message = str(error)
        assert row["retrained_at"] == retrained
        assert row["retrainings"] == len(retrained)
        assert row["why_retrained"] == (message if retrained else "")
        assert row["accumulated_error"] == account.accumulated_error
        assert row["largest_accumulated_error"] <= limits.accumulated_error
        assert row["uniform_error"] == bound
    alone = runner.rows(document)[0]
    assert alone["retrained_at"] == [4, 8]  # 5e-4 admits three of 1.44e-4


def test_unlearned_weights_stay_within_the_bound_of_retraining(document):
    for row in runner.rows(document):
        assert row["distance"] <= row["certified_bound"] == pytest.approx(2 * (1e-7 + 1e-9) / 1e-2)
        if row["retrained_at"][-1:] != [row["batches"]]:  # the last release is noised
            assert row["distance_released"] == pytest.approx(0.01 * math.sqrt(row["parameters"]), rel=0.3)


def test_epsilons(document):
    m = gaussian_m(0.05, 1e-6)
    for row in runner.rows(document):
        assert row["epsilon"] == 0.05
        assert row["guarantee"] == "convex"
        secret = gaussian_epsilon(1e-6, compose_m([m] * row["longest_lineage"]))
        assert row["secret_state_epsilon"] == pytest.approx(secret)
        assert row["secret_state_epsilon"] >= row["epsilon"] * (1 - 1e-9)


def test_larger_batches_cost_less_and_take_longer(document):
    alone, together = runner.rows(document)[:2]
    assert alone["alone"] == 1.0
    assert alone["wait_days_mean"] == 0.0
    assert together["people_per_batch"] > alone["people_per_batch"]
    assert together["wait_days_mean"] > 0
    assert together["products"] < alone["products"]
    assert together["records_removed"] == alone["records_removed"] == 9
    for row in (alone, together):
        assert row["close_days_mean"] > row["wait_days_mean"]
        assert len(row["timeline"]["close_days"]) == row["requests"]


def test_tables_figure_and_expected_come_from_the_document_alone(document, tmp_path):
    text = "\n".join(streams.tables(document).values())
    assert "0.05 (convex)" in text
    assert "2 (batch 4, 8)" in text
    streams.figure(document).savefig(tmp_path / "streams.png")
    figures = streams.expected(document)
    assert figures["poisson, uniform, 1 or 7 d: retrainings"] == 2
    assert not any("second" in name for name in figures)
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("name", ["small-streams", "streams-diabetes130"])
def test_settings_name_cells_that_differ(name):
    setting = runner.read_setting(name)
    there = runner.experiment(setting["experiment"]).cells(setting)
    assert len({str(cell) for cell in there}) == len(there) > 0
    assert torch.tensor([cell["minimum_size"] for cell in there]).max() == 1000
