"""Speed against peers: the same system and the same answers, the targets as they are."""

import json

import pytest
import torch

from benchmarks import common, profiles, runner, solvers
from benchmarks.experiments import peers
from expunge.curvature.solvers import conjugate_gradients

CPU = torch.device("cpu")


def test_the_exact_inverse_and_conjugate_gradients_agree():
    data = common.synthetic(60, 4, 3)
    spec = common.model_spec("mlp", 4, 3, hidden=[5])
    network = solvers.build(spec)
    objective = solvers.NetworkObjective(network, data.features, data.labels, spec.l2)
    weights = network.initial()
    right = objective.gradient(weights)
    exact = solvers.exact_inverse(objective, weights, right, damping=3.0)
    iterated = conjugate_gradients(
        lambda v: objective.hessian_product(weights, v) + 3.0 * v, right, tolerance=1e-13, max_products=200
    )
    assert iterated.status == "converged"
    torch.testing.assert_close(iterated.solution, exact, rtol=0, atol=1e-12)


def test_pooled_images_are_means_of_windows():
    images = torch.arange(16, dtype=torch.float64).view(1, 16)
    records = common.Records(images, torch.zeros(1), common.np.array(["a"]), images, torch.zeros(1), 2)
    small = common.averaged(records, 2)
    assert small.features.tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert common.averaged(records, None) is records


def test_where_the_time_goes():
    a = torch.randn(300, 300)
    shares = profiles.group(profiles.by_operator(lambda: [a @ a for _ in range(20)], CPU))
    assert next(iter(shares)) == "matrix products"
    assert sum(shares.values()) == pytest.approx(1)
    kinds = {"aten::mm": 1.0, "aten::_softmax": 2.0, "aten::copy_": 3.0, "aten::strange": 4.0}
    assert profiles.group(kinds) == {
        "other": 0.4,
        "copies": pytest.approx(0.3),
        "activations": pytest.approx(0.2),
        "matrix products": pytest.approx(0.1),
        "additions, products, sums": 0.0,
    }


def test_time_is_told_apart_by_who_called():
    def work(n):
        return sum(i * i for i in range(n))

    def inner():
        work(200_000)

    def whole():
        work(1000)
        inner()

    parts = profiles.by_part(whole, "whole", {"work": ("inner", "inside"), "inner": ("nobody", "unseen")})
    assert parts["inside"] > 0
    assert parts["unseen"] == 0
    assert parts["the rest"] >= 0


@pytest.fixture(scope="module")
def document():
    small = runner.read_setting("small-peers")
    small["steps"] = 20
    small["newton"] = {
        "digits": small["newton"]["digits"] | {"hidden": [2], "records": 300, "published_steps": 10}
    }
    small["convex"] = {"digits, softmax": small["convex"]["digits, softmax"] | {"records": 300}}
    found = [{"cell": c, "result": peers.run(small, c, runner.Place())} for c in peers.cells(small)]
    return json.loads(json.dumps({"name": "x", "setting": small, "cells": found}, allow_nan=False))


def test_a_small_setting(document):
    newton, convex, ordinary = runner.rows(document)
    assert newton["exact_inverse"]["relative_residual"] < 1e-10
    assert newton["exact_inverse"]["full_products"] == newton["system"]["parameters"] == 64 * 2 + 2 + 30
    assert newton["conjugate_gradients"]["relative_residual"] <= peers.TARGET_RESIDUAL
    assert (newton["guarantee"], newton["admitted"]) == ("conditional", False)
    assert (convex["guarantee"], convex["epsilon"]) == ("convex", 0.05)
    assert all(removal["within_bound"] for removal in convex["removals"])
    assert ordinary["runs"]
    text = "\n".join(peers.tables(document).values())
    assert "10 of 20 steps a chain were run: seconds are scaled linearly" in text
    assert "vacuous" in text
    assert peers.figure(document) is not None
    assert all(isinstance(value, float) for value in peers.expected(document).values())


def test_a_target_is_reached_or_not_by_its_figures(document):
    row = document["cells"][0]["result"]
    ours = min(row[k]["seconds"] for k in ("conjugate_gradients", "conjugate_gradients_streamed"))
    for factor, residual, reached in ((100.5, 9e-4, True), (99.5, 9e-4, False), (100.5, 2e-3, False)):
        changed = json.loads(json.dumps(document))
        result = changed["cells"][0]["result"]
        result["lissa_published"]["seconds"] = factor * ours
        for key in ("conjugate_gradients", "conjugate_gradients_streamed"):
            result[key]["relative_residual"] = residual
        assert peers.targets(changed)[0]["reached"] is reached
        assert (
            "**no**" in peers.tables(changed)["targets"].split("published LiSSA over")[1].split("\n")[0]
        ) is not reached
