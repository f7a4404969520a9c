"""How cost grows: the fit, the certificate beside it, what is not run and says so."""

import copy
import json
import math

import pytest
import torch

from benchmarks import runner
from benchmarks.experiments import scale

CPU = torch.device("cpu")


def test_a_known_power_law_is_recovered():
    x = [10.0, 30.0, 100.0, 1000.0]
    fit = scale.fit_power(x, [3 * v**1.5 for v in x])
    assert fit.exponent == pytest.approx(1.5)
    assert fit.standard_error == pytest.approx(0.0, abs=1e-9)
    assert fit.points == 4


def test_the_standard_error_covers_the_exponent_of_noisy_points():
    generator = torch.Generator().manual_seed(1)
    inside = 0
    for _ in range(200):
        noise = 0.2 * torch.randn(6, generator=generator)
        x = [10.0**k for k in range(6)]
        fit = scale.fit_power(x, [v**0.7 * math.exp(e) for v, e in zip(x, noise.tolist(), strict=True)])
        inside += abs(fit.exponent - 0.7) < 2.776 * fit.standard_error  # Student's t, 4 degrees of freedom
    assert 175 <= inside <= 199


def test_points_without_a_number_are_left_out():
    assert scale.fit_power([1.0, 10.0, 100.0], [1.0, None, 100.0]) == scale.Fit(pytest.approx(1.0), None, 2)
    assert scale.fit_power([1.0, 10.0], [1.0, None]) is None
    assert scale.fit_power([5.0, 5.0], [1.0, 2.0]) is None


@pytest.fixture(scope="module")
def setting():
    small = runner.read_setting("small-scale")
    small["sweeps"] = [
        {"sweep": "records", "work": ["newton", "convex"], "models": ["mlp-small"], "records": [100, 400]}
        | {"forget_percent": [10]},
        {
            "sweep": "corner",
            "work": ["newton"],
            "models": ["resnet-big"],
            "records": [100],
            "forget_percent": [1],
        },
    ]
    return small


@pytest.fixture(scope="module")
def document(setting):
    found = [
        {"cell": cell, "result": scale.run(setting, cell, runner.Place())} for cell in scale.cells(setting)
    ]
    return json.loads(json.dumps({"name": "x", "setting": setting, "cells": found}, allow_nan=False))


def test_cells_are_measured_or_say_why_not(document):
    *ran, big = runner.rows(document)
    assert len(ran) == 4
    for row in ran:
        assert row["not_run"] is None
        assert row["seconds"] > 0
        assert row["forgotten_records"] == row["records"] // 10
    for row in ran[:2]:
        assert row["relative_residual"] <= 1.5e-3
        assert (row["guarantee"], row["error_bound"], row["admitted"]) == ("conditional", 40.0, False)
    for row in ran[2:]:
        assert (row["guarantee"], row["epsilon"], row["admitted"]) == ("convex", 0.05, True)
    assert big["seconds"] is None
    assert big["products"] is None
    assert "the limit is 1 GB" in big["not_run"]
    assert "not run: " in scale.tables(document)["cells"]
    assert not any("resnet" in name for name in scale.expected(document))
    assert scale.figure(document) is not None


def test_a_forecast_above_the_limit_of_seconds_is_not_run(setting):
    cell = scale.cells(setting)[0]
    result = scale.measure(setting | {"limit_seconds": 0.0}, cell, CPU)
    assert result["seconds"] is None
    assert "the limit is 0 s" in result["not_run"]
    assert result["parameters"] > 0


def test_a_solve_that_the_library_refuses_is_said_so(setting):
    strict = setting | {"training": {"l2": 0.01, "max_products": 1}}
    result = scale.measure(strict, scale.cells(setting)[2], CPU)
    assert result["seconds"] is None
    assert result["not_run"].startswith("refused: the solver stopped short")


@pytest.mark.slow  # a process of its own
def test_peak_of_memory_in_a_process_of_its_own(setting):
    result = scale.run(setting | {"fresh_process": True}, scale.cells(setting)[1], runner.Place())
    assert result["peak_bytes"] >= 0


def test_every_setting_names_its_models():
    for name in ("scale", "small-scale"):
        given = runner.read_setting(name)
        for cell in scale.cells(given):
            assert cell["model"] in given["models"], name


def test_memory_too_small_to_measure_is_neither_fitted_nor_drawn(document, tmp_path):
    changed = copy.deepcopy(document)
    for number, cell in enumerate(changed["cells"]):
        if not cell["result"]["not_run"]:
            cell["result"]["peak_bytes"] = -4096 if number == 0 else 2**21
    text = scale.tables(changed)["cells"]
    assert text.count("< 1 MiB") == 1
    assert "2 MiB" in text
    scale.figure(changed).savefig(tmp_path / "scale.png")
    first = scale.fits(changed)[0]
    assert first["peak_bytes"] is None or first["peak_bytes"].points < first["seconds"].points
