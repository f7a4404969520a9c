"""The ablation at toy size: known epsilons, bounds above the truth, and what each technique is for."""

import math

import numpy as np
import pytest
import torch

from benchmarks import ablation_convex, ablation_deep, common, runner
from benchmarks.experiments import ablation
from expunge.curvature.network import NetworkObjective
from expunge.models.zoo import build

SETTING = {
    "experiment": "ablation",
    "dataset": "breast-cancer",
    "records": 300,
    "seed": 1,
    "forgotten": 0.03,
    "release": {"sigma": 0.01, "delta": 1e-5},
    "deep": {
        "hidden": [4],
        "activation": "tanh",
        "training": {"epochs": 6, "batch_size": 32, "norm_bound": 2.0, "learning_rate": 1e-2},
        "damping": 12.0,
        "lanczos_steps": 40,
        "assumed": {"hessian_lipschitz": 1.0, "gradient_lipschitz": 12.0},
        "lissa": {"chains": 2, "steps": 150, "batch": 32},
        "published": {"chains": 2, "steps": 60, "batch": 10, "scale": 100.0},
    },
    "dense": None,
    "convex": {
        "name": "linearized-mlp",
        "hyperparameters": {"hidden": [4]},
        "records": 300,
        "training": {"l2": 1e-2},
        "rank": 20,
        "sample": 200,
    },
    "provable": {
        "records": 300,
        "gradient_tolerance": 1e-9,
        "l2": [0.3, 3.0],
        "forgotten": [0.003, 0.1],
        "damping": [0.0, 10.0],
    },
    "sweeps": {
        "deep": {"damping": [0.0, 12.0], "sigma": [0.01, 10.0]},
        "convex": {"l2": [1e-2, 1e-1], "sigma": [0.01, 0.1]},
    },
    "gaussian": {"delta": 1e-5, "pairs": [[40.0, 0.001], [40.0, 0.01], [40.0, 149.3], [1e-4, 0.01]]},
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    place = runner.Place(scratch=tmp_path_factory.mktemp("ablation"))
    found = [
        {"cell": cell, "result": ablation.run(SETTING, cell, place), "seconds": 0.0}
        for cell in ablation.cells(SETTING)
    ]
    return {"name": "toy", "setting": SETTING, "cells": found}


@pytest.fixture(scope="module")
def deep(document):
    return {row["technique"]: row for row in ablation.of_part(document, "deep")}


def test_known_epsilons():
    said = ablation.gaussian(40.0, 0.001, 1e-5)
    assert said["epsilon"] == pytest.approx(8.0e8, rel=0.01)
    assert ablation.gaussian(40.0, 0.01, 1e-5)["epsilon"] == pytest.approx(8.0e6, rel=0.01)
    assert ablation.gaussian(40.0, 149.3, 1e-5)["epsilon"] == pytest.approx(1.0, rel=0.01)
    # the classical formula is not applicable there, and would understate a four-thousandfold
    assert said["classical_epsilon"] is None
    assert said["classical_outside_its_domain"] == pytest.approx(1.9e5, rel=0.03)
    inside = ablation.gaussian(1e-4, 0.01, 1e-5)
    assert inside["classical_outside_its_domain"] is None
    assert inside["epsilon"] <= inside["classical_epsilon"] <= 1


def test_the_ball_binds_with_assumed_constants(deep):
    row = deep["all on"]
    assert row["theorem"] > row["error_bound"] == 2 * 2.0
    assert row["binding"] == "ball"
    assert row["assumed_hessian_lipschitz"] == 1.0
    assert row["distance"] <= row["error_bound"]
    assert row["epsilon"] > 1000
    assert (
        deep["no step"]["error_bound"] == row["error_bound"]
    )  # the step certifies no more than doing nothing
    assert deep["no step"]["guarantee"] == "unconditional"


def test_without_projection_in_training_there_is_no_bound(deep):
    row = deep["no projection in training"]
    assert row["norm_trained"] > row["norm_bound"]
    assert row["error_bound"] is row["epsilon"] is row["theorem"] is None  # R = 2C holds in the ball alone
    assert row["guarantee"] == "none"
    for name, other in deep.items():
        if name != "no projection in training":
            assert other["norm_trained"] <= other["norm_bound"] * (1 + 1e-12), name


def test_without_projection_after_the_step_only_the_assumed_theorem_is_left(deep):
    row = deep["no projection after the step"]
    assert row["error_bound"] == row["theorem"] > 4.0
    assert "assumed" in row["binding"]
    assert row["failure_probability"] == 1e-6
    assert deep["all on"]["failure_probability"] == 0
    assert row["epsilon"] > deep["all on"]["epsilon"]


def test_too_little_damping_is_named(deep):
    for name in ("damping 0", "damping 0.01, as published"):
        assert "does not exceed the norm of the Hessian" in deep[name]["remark"]
    assert deep["all on"]["remark"] == ""
    assert deep["all on"]["damping"] > deep["all on"]["lambda_max"]


def test_the_kept_gradient_is_the_retained_one(deep):
    kept, fresh = deep["all on"], deep["gradient over the retain set"]
    assert kept["gradient_difference"] < 1e-12
    assert kept["gradient_records"] == 9
    assert fresh["gradient_records"] == 291
    assert kept["distance"] == pytest.approx(fresh["distance"], rel=1e-9)


def test_solvers_agree_as_far_as_their_residuals(deep):
    exact = deep["exact solver"]
    assert exact["relative_residual"] < 1e-10
    assert exact["products"] == exact["parameters"]
    assert deep["all on"]["relative_residual"] < 1e-5
    assert deep["all on"]["products"] < exact["products"]
    for name in ("LiSSA", "LiSSA, published loop"):
        assert deep["all on"]["relative_residual"] < deep[name]["relative_residual"] < 0.9, name
        assert deep[name]["products"] == 0 < deep[name]["batch_products"], name
    assert deep["all on"]["distance"] == pytest.approx(exact["distance"], rel=1e-4)


def test_the_measured_residual_is_tighter_than_the_a_priori_one(deep):
    measured, a_priori = deep["LiSSA"], deep["LiSSA, a-priori residual"]
    assert measured["residual"] == a_priori["residual"]  # the same step
    assert measured["theorem"] < a_priori["theorem"]


def test_the_published_step_leaves_the_ball_and_has_no_class(deep):
    row = deep["as published"]
    assert row["guarantee"] == "none"
    assert row["theorem"] is None
    assert row["error_bound"] == pytest.approx(2.0 + max(2.0, row["norm_unlearned"]))


def test_the_convex_model_stays_within_its_bound(document):
    found = ablation.of_part(document, "convex")
    assert len(found) == len(ablation_convex.TECHNIQUES)
    found += [row for row in ablation.of_part(document, "sweep") if row["model"] == "convex"]
    for row in found:
        assert row["distance"] <= row["error_bound"]
        assert row["guarantee"] == "convex"
    warm, cold = found[0], found[3]
    assert warm["technique"] == "all on"
    assert warm["products"] < cold["products"] == cold["retrain_products"]


def test_the_theorem_holds_where_every_constant_is_proved(document):
    found = ablation.of_part(document, "provable")
    assert len(found) == 8
    for row in found:
        assert row["status"] == "converged"
        assert row["distance"] <= row["theorem"]
        assert row["distance_without_step"] <= row["radius"]
    undamped = [row for row in found if row["damping"] == 0]
    assert all(row["distance"] < 0.2 * row["distance_without_step"] for row in undamped)
    # damping above the norm of the Hessian leaves nearly all of the distance
    damped = [row for row in found if row["damping"] > 0 and row["l2"] < 1]
    assert all(row["distance"] > 0.8 * row["distance_without_step"] for row in damped)


def test_the_proved_constant_bounds_the_hessian_differences():
    data = common.synthetic(40, 3, 4)
    spec = common.model_spec("softmax", 3, 4)
    objective = NetworkObjective(build(spec), data.features, data.labels, 0.1)
    bound = ablation_convex.softmax_hessian_lipschitz(data.features)
    generator = torch.Generator().manual_seed(3)
    largest = 0.0
    for scale in (0.01, 0.3, 1.0):
        for _ in range(5):
            here = torch.randn(objective.size, generator=generator, dtype=torch.float64)
            move = scale * torch.randn(objective.size, generator=generator, dtype=torch.float64)
            apart = objective.hessian(here + move) - objective.hessian(here)
            largest = max(largest, float(torch.linalg.matrix_norm(apart, 2) / move.norm()))
    assert 0 < largest <= bound


def test_forget_masks():
    mask = ablation_deep.forget_mask(1000, 0.01, 1)
    assert int(mask.sum()) == 10
    assert torch.equal(mask, ablation_deep.forget_mask(1000, 0.01, 1))
    assert not torch.equal(mask, ablation_deep.forget_mask(1000, 0.01, 2))
    assert int(ablation_deep.forget_mask(100, 1e-6, 1).sum()) == 1


def test_images_are_averaged():
    data = ablation_deep.read("digits", None, 5, 2)
    whole = ablation_deep.read("digits", None, 5, 1)
    assert data.features.shape == (5, 16)
    first = whole.features[0].view(8, 8)[:2, :2].mean()
    assert float(data.features[0, 0]) == pytest.approx(float(first))


def test_tables_figure_and_expected_come_from_the_document_alone(document, tmp_path):
    text = "\n".join(ablation.tables(document).values())
    assert "8e+08" in text
    assert "not applicable" in text
    assert "**assumed**" in text
    ablation.figure(document).savefig(tmp_path / "ablation.png")
    figures = ablation.expected(document)
    assert figures["gaussian, 40, 0.001: epsilon"] == pytest.approx(8.0e8, rel=0.01)
    assert not any("second" in name for name in figures)
    assert np.isfinite(list(figures.values())).all()
    assert math.isclose(figures["deep, all on: error_bound"], 4.0)


@pytest.mark.parametrize("name", ["small-ablation", "ablation-mnist"])
def test_settings_name_cells_that_differ(name):
    setting = runner.read_setting(name)
    there = runner.experiment(setting["experiment"]).cells(setting)
    assert len({str(cell) for cell in there}) == len(there) > 0
    exact = [cell["part"] for cell in there if cell.get("technique") == "exact solver"]
    assert exact == (["deep"] if setting["dense"] is None else ["dense"])
