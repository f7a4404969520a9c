"""Whole people leave: who goes, and what is measured on groups."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from benchmarks import contrasts, runner
from benchmarks.experiments import people


def test_a_persons_rows_leave_together():
    subjects = np.array(["a", "b", "a", "c", "c", "d"])
    eligible = np.array([True, True, False, True, True, False])
    leaving = people.choose_people(subjects, eligible, 2, seed=1)
    assert len(set(leaving)) == 2
    assert set(leaving) <= {"a", "b", "c"}
    assert people.choose_people(subjects, eligible, 4, seed=1) is None
    draws = {tuple(people.choose_people(subjects, eligible, 1, seed=seed)) for seed in range(20)}
    assert len(draws) == 3


def test_resampling_keeps_a_persons_rows_together():
    subjects = np.array(["a", "b", "a", "c", "c"])
    seen = set()
    for weights in contrasts.resamples(subjects, 50):
        assert weights[0] == weights[2]
        assert weights[3] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3  # as many people as there are
        seen.add(tuple(weights))
    assert len(seen) > 3


def test_utility_by_hand():
    labels = np.array([0, 0, 0, 1])
    found = contrasts.utility(
        np.array([0, 0, 1, 1]), labels, contrasts.dense_rank(np.array([0.1, 0.4, 0.6, 0.6])), 1, np.ones(4)
    )
    # recalls 2/3 and 1; the positive is above two negatives and level with one
    assert found == {
        "accuracy": 0.75,
        "balanced_accuracy": pytest.approx(5 / 6),
        "auc": pytest.approx(2.5 / 3),
    }


def test_utility_agrees_with_scikit_learn_and_weights_are_copies():
    rng = np.random.default_rng(3)
    labels, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    score, weights = rng.integers(0, 9, 60) / 8, rng.integers(0, 4, 60).astype(float)
    copies = np.repeat(np.arange(60), weights.astype(int))
    found = contrasts.utility(predicted, labels, contrasts.dense_rank(score), 2, weights)
    assert found["auc"] == pytest.approx(roc_auc_score(labels[copies] == 2, score[copies]))
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels[copies], predicted[copies])
    )
    assert found["accuracy"] == pytest.approx((labels == predicted)[copies].mean())


def test_utility_without_positives_or_rows():
    one = np.array([0, 0])
    assert contrasts.utility(one, one, one, 1, np.ones(2))["auc"] is None
    assert set(contrasts.utility(one, one, one, 1, np.zeros(2)).values()) == {None}


def test_wilson_by_hand():
    # 8 of 10, z = 1.96: (0.4902, 0.9433), Newcombe 1998
    assert contrasts.wilson(0.8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert contrasts.wilson(1.0, 5)[1] == 1.0
    assert contrasts.wilson(0.0, 5)[0] == 0.0


def test_contrasts_of_a_group_by_hand():
    labels, subjects = np.zeros(40, dtype=int), np.arange(40)
    right = torch.tensor([[1.0, 0.0]]).repeat(40, 1)
    wrong = right.clone()
    wrong[:10] = torch.tensor([0.0, 1.0])
    logits = {"before": right, "retrained": wrong, "unlearned": wrong}
    found = contrasts.compare(logits, labels, subjects, 1, 200)
    difference, low, high = found["contrasts"]["forgetting"]["accuracy"]
    assert difference == -0.25
    assert -0.45 < low < -0.25 < high < -0.05
    assert found["contrasts"]["mechanism"]["accuracy"] == [0.0, 0.0, 0.0]
    assert found["contrasts"]["forgetting"]["auc"] is None  # no positives
    assert contrasts.compare(logits, labels[:0], subjects[:0], 1, 5) == {"rows": 0, "people": 0}


def test_the_test_sets_share_of_chance_does_not_shrink_with_seeds():
    _, low, high = contrasts.pooled([[0.1, 0.0, 0.2]] * 50)
    assert (low, high) == (pytest.approx(0.0), pytest.approx(0.2))


def test_groups_are_the_declared_ones():
    frame = pd.DataFrame({"race": list("xxyz"), "age": list("abca"), "size": [1.0, 2.0, 3.0, 9.0]})
    train = np.array([True, True, True, False])
    declared = {
        "groups": ["race"],
        "bands": {"age": {"young": ["a", "b"], "old": ["c"]}},
        "tertiles": {"thirds": "size"},
        "rare": {"race": ["y", "z"]},
    }
    found = people.groups(frame, train, declared)
    assert found["all"].all()
    assert found["race: x"].tolist() == [True, True, False, False]
    assert found["age: young"].tolist() == [True, True, False, True]
    assert found["rare group"].tolist() == [False, False, True, True]
    # the last row is no training row: it moves no edge
    assert found["thirds: high"].tolist() == [False, False, True, True]


def test_a_small_setting(tmp_path):
    setting = runner.read_setting("small-people") | {"resamples": 20, "seeds": [1], "people": [1, 10_000]}
    cells = people.cells(setting)
    place = runner.Place(scratch=tmp_path)
    found = [{"cell": cell, "result": people.run(setting, cell, place)} for cell in cells]
    document = json.loads(json.dumps({"name": "x", "setting": setting, "cells": found}, allow_nan=False))
    one, many, *_ = runner.rows(document)
    assert (one["rows_removed"], one["epsilon"], one["guarantee"]) == (1, 0.05, "convex")
    assert one["distance_to_retrained"] <= one["error_bound"]
    assert "10000 asked for" in many["not_run"]
    assert one["groups"]["all"]["rows"] == sum(
        part["rows"] for name, part in one["groups"].items() if name.startswith("mean radius")
    )
    assert "rare group" in people.tables(document)["summary"]
    assert people.figure(document) is not None
    assert all(isinstance(value, float) for value in people.expected(document).values())
