"""The comparison at toy size: its methods change what they say they change, and no epsilon is flattered."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import contenders, forgetting, membership, relearn, runner
from benchmarks.baselines import fine_tune, fisher, l_codec, negative_gradient
from benchmarks.common import model_spec, pooled, synthetic
from benchmarks.experiments import comparison
from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from expunge.mechanisms.newton_step import newton_step
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import NewtonPolicy

UNCERTIFIED = ("original", "fine-tune", "negative-gradient", "fisher", "l-codec", "convex-original")


@pytest.fixture(scope="module")
def small():
    """A trained network with records to retain and to forget."""
    data = synthetic(160, 6, 3)
    spec = model_spec("mlp", 6, 3, {"epochs": 5, "batch_size": 16, "learning_rate": 0.01}, hidden=[5])
    weights = train(spec, data.features, data.labels).weights
    retain, forget = (data.features[20:], data.labels[20:]), (data.features[:20], data.labels[:20])
    return spec, build(spec), weights, retain, forget


def rows_of(document):
    return {row["method"]: row for row in runner.rows(document)}


def test_every_method_runs_and_keeps_its_form(ran):
    document, folder = ran("small-paper")
    rows = rows_of(document)
    assert list(rows) == list(contenders.METHODS)
    written = json.loads((folder / "small-paper.json").read_text())
    assert written == document
    for method, row in rows.items():
        assert 0 < row["f1_test"] <= 1, method
        assert row["passes"] > 0, method
        attacked = row["membership"]
        assert attacked["auc_low"] <= attacked["auc"] <= attacked["auc_high"], method
        assert attacked["accuracy_low"] <= attacked["accuracy"] <= attacked["accuracy_high"], method
    assert rows["original"]["distance"] > 0
    assert rows["retrain"]["distance"] == 0
    assert rows["retrain"]["facts"]["distance_other_order"] > 0
    assert rows["original"]["relearn"]["steps_to_loss"] == 0
    assert rows["original"]["relearn"]["steps_to_f1"] == 0


def test_epsilons_are_the_honest_ones(ran):
    rows = rows_of(ran("small-paper")[0])
    for method in UNCERTIFIED:
        assert rows[method]["guarantee"] == "none", method
        assert rows[method]["epsilon"] is None, method
    for method in ("retrain", "convex-retrain"):
        assert (rows[method]["guarantee"], rows[method]["epsilon"], rows[method]["sigma"]) == ("exact", 0, 0)
    as_published = rows["newton-published"]
    assert as_published["epsilon"] == pytest.approx(8.0e8, rel=0.01)
    assert (as_published["error_bound"], as_published["sigma"]) == (40, 0.001)
    assert as_published["guarantee"] == "none (measured)"
    ours = rows["newton"]
    assert ours["epsilon"] == pytest.approx(8.0e6, rel=0.01)
    assert (ours["error_bound"], ours["sigma"], ours["guarantee"]) == (40, 0.01, "conditional")
    for method in ("noisy-finetune", "output-perturbation"):
        row = rows[method]
        assert (row["guarantee"], row["epsilon"]) == ("unconditional", 1.0)
        assert 1e-5 <= row["delta"] < 1.01e-5
    assert (rows["convex"]["guarantee"], rows["convex"]["epsilon"]) == ("convex", 0.05)
    # sigma of output perturbation is the one of a sensitivity of twice the ball's radius
    assert rows["output-perturbation"]["sigma"] == pytest.approx(2 / 0.26805, rel=1e-3)


def test_the_convex_model_is_where_its_theorem_says(ran):
    row = rows_of(ran("small-paper")[0])["convex"]
    assert row["distance_noiseless"] <= row["facts"]["certified_distance"]
    # the release is noised: sigma times the root of the number of weights
    assert row["distance"] == pytest.approx(0.01 * math.sqrt(row["parameters"]), rel=0.15)


def test_tables_and_figure(ran, tmp_path):
    document, folder = ran("small-paper")
    made = comparison.tables(document)
    for name in ("summary", "knowledge", "guarantee", "cost"):
        assert all(made[name].count(f"| {method} |") == 1 for method in comparison.NAMES.values())
    assert "nan" not in "".join(made.values())
    assert "8e+08 (vacuous)" in made["guarantee"]
    assert made["guarantee"].count("(vacuous)") == made["summary"].count("(vacuous)") == 2
    assert (folder / "small-paper.png").read_bytes().startswith(b"\x89PNG")
    # weights that are not finite leave gaps, not failures
    broken = copy.deepcopy(document)
    for cell in broken["cells"]:
        if cell["cell"]["method"] == "newton-published":
            gone = ("f1_forget", "f1_retain", "f1_test", "membership", "relearn", "distance", "epsilon")
            cell["result"].update(dict.fromkeys(gone))
    gaps = comparison.tables(broken)
    assert "| Newton, LiSSA as published | – | – |" in gaps["knowledge"]
    assert "| Newton, LiSSA as published | – | – | – | – | not reached | – |" in gaps["summary"]
    comparison.figure(broken).savefig(tmp_path / "broken.png")


def test_expected_figures_are_finite_and_steady(ran):
    found = comparison.expected(ran("small-paper")[0])
    assert all(math.isfinite(value) for value in found.values())
    assert found["newton-published seed 1: epsilon"] == pytest.approx(8.0e8, rel=0.01)
    assert not any("f1" in name or "seconds" in name for name in found)
    assert "convex seed 1: passes" not in found


def test_not_finite_weights_are_measured_as_none():
    setting = runner.read_setting("small-paper")
    task = forgetting.task(setting, 1, runner.Place())
    lost = contenders.Outcome(torch.full((task.network.size,), math.nan), 1.0, 0, 1.0)
    task.__dict__["trained"] = lambda which, convex=False: {"weights": torch.zeros(task.network.size)}
    try:
        found = comparison._measured(task, lost)
    finally:
        del task.__dict__["trained"]
    assert set(found.values()) == {None}


def test_a_comparison_stopped_midway_continues(tmp_path, monkeypatch):
    methods = {name: contenders.METHODS[name] for name in ("original", "retrain", "negative-gradient")}
    calls = []

    def counted(name):
        def method(task):
            calls.append(name)
            if name == "negative-gradient" and calls.count(name) == 1:
                raise KeyboardInterrupt
            return methods[name](task)

        return method

    monkeypatch.setattr(comparison, "METHODS", {name: counted(name) for name in methods})
    place = runner.Place(scratch=tmp_path / "scratch")
    with pytest.raises(KeyboardInterrupt):
        runner.run("small-paper", place, tmp_path)
    kept = runner.read_document("small-paper", tmp_path)
    assert [done["cell"]["method"] for done in kept["cells"]] == ["original", "retrain"]
    document = runner.run("small-paper", place, tmp_path)
    assert calls == ["original", "retrain", "negative-gradient", "negative-gradient"]
    assert document["cells"][:2] == kept["cells"]
    assert [done["cell"]["method"] for done in document["cells"]] == list(methods)


def test_newton_raises_a_damping_that_is_too_small(tmp_path):
    setting = {**runner.read_setting("small-paper"), "newton": {"damping": 0.5}}
    task = forgetting.task(setting, 1, runner.Place(scratch=tmp_path))
    start = task.trained("original")["weights"]
    objective = NetworkObjective(task.network, *task.retain, task.spec.l2)
    done = contenders.newton(task)
    damping = done.facts["damping"]
    assert math.log2(damping / 0.5) == round(math.log2(damping / 0.5)) > 0
    # the one below is refused, and what the refusals cost is counted
    with pytest.raises(Exception, match="does not exceed the norm"):
        newton_step(objective, start, NewtonPolicy(damping=damping / 2), seed=task.seed, what="test")
    refused = round(math.log2(damping / 0.5))
    assert done.passes > (refused + 1) * 2 * 80


def test_the_forget_set_is_whole_subjects_that_were_trained_on():
    subjects = np.repeat(np.arange(40), 3)
    chosen = forgetting.choose(subjects, 10, seed=1)
    assert 10 <= int(chosen.sum()) <= 12
    assert all(len(set(chosen[subjects == person].tolist())) == 1 for person in range(40))
    assert not torch.equal(chosen, forgetting.choose(subjects, 10, seed=2))
    assert torch.equal(chosen, forgetting.choose(subjects, 10, seed=1))


def test_images_are_averaged_over_squares():
    image = torch.tensor([[1.0, 3.0, 0.0, 0.0, 5.0, 7.0, 0.0, 4.0]])
    assert pooled(image, [1, 2, 4], 2).tolist() == [[4.0, 1.0]]


def test_fine_tuning_moves_the_weights(small):
    spec, _, weights, retain, _ = small
    done = fine_tune.fine_tune(spec, weights, *retain, epochs=2, learning_rate=1e-3, seed=3)
    assert float((done.weights - weights).norm()) > 1e-3
    assert done.looks == 2 * 140


def test_negative_gradient_raises_the_loss_of_the_forget_set(small):
    _, network, weights, _, forget = small
    done = negative_gradient.negative_gradient(
        network, weights, *forget, epochs=3, learning_rate=0.1, batch_size=10, seed=1
    )
    before, after = (float(cross_entropy(network(w, forget[0]), forget[1])) for w in (weights, done.weights))
    assert after > before + 0.05
    assert done.looks == 60


def test_fisher_information_of_a_known_case():
    # two classes at zero weights: the gradient is (1/2 - y_k) x whatever label is drawn, its square x^2 / 4
    network = FlatModule(nn.Linear(2, 2, bias=False))
    inputs = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    found = fisher.fisher_diagonal(
        network, torch.zeros(4, dtype=torch.float64), inputs, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(found, torch.tensor([1.25, 0.5, 1.25, 0.5], dtype=torch.float64))


def test_fisher_noise_has_the_formulas_scale():
    network = FlatModule(nn.Linear(4000, 2, bias=False))
    weights = torch.zeros(8000, dtype=torch.float64)
    inputs = torch.full((1, 4000), 4.0, dtype=torch.float64)  # F = 4 everywhere
    done = fisher.fisher_forget(network, weights, inputs, noise_scale=0.3, floor=1e-12, seed=1)
    assert done.facts["median_noise"] == pytest.approx(0.3 * 4**-0.25)
    assert float(done.weights.std()) == pytest.approx(0.3 * 4**-0.25, rel=0.05)
    # less information, more noise: a weight no record looks at gets what the floor allows
    spread = fisher.noise_deviation(torch.tensor([1.0, 0.0]), 0.1, 1e-8)
    assert spread.tolist() == pytest.approx([0.1, 10.0], rel=1e-3)


def test_codec_of_known_dependence():
    rng = np.random.default_rng(1)
    x, z, noise = (rng.standard_normal((600, 1)) for _ in range(3))
    nothing = np.zeros((600, 0))
    assert l_codec.codec(x[:, 0] ** 3, x, nothing) > 0.95
    assert abs(l_codec.codec(noise[:, 0], x, nothing)) < 0.15
    total = (x + z)[:, 0]
    assert l_codec.codec(total, z, x) > 0.7
    assert l_codec.codec(total, noise, np.hstack([x, z])) < 0.1


def test_foci_finds_what_the_response_depends_on():
    rng = np.random.default_rng(2)
    columns = rng.standard_normal((500, 6))
    columns[:, 4] = 0.0  # a dead unit
    chosen = l_codec.foci(columns, columns[:, 1] + columns[:, 3], 4, rng)
    assert set(chosen[:2]) == {1, 3}
    assert 4 not in chosen
    assert len(l_codec.foci(columns, columns[:, 1], 1, rng)) == 1


def test_a_unit_is_a_row_and_its_bias():
    network = FlatModule(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False)))
    assert l_codec.block_of(network, [("0", 1)]).tolist() == [3, 4, 5, 7]
    assert l_codec.block_of(network, [("1", 0)]).tolist() == [8, 9]
    image = FlatModule(nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.Flatten()))
    seen, units, losses = l_codec.observe(
        image, image.initial(), torch.ones(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    )
    assert (seen.shape, losses.shape) == ((3, 2), (3,))
    assert units == [("1", 0), ("1", 1)]


def test_l_codec_is_the_newton_step_of_its_block(small):
    spec, network, weights, retain, forget = small
    damping = 20.0
    done = l_codec.l_codec(
        network,
        weights,
        retain,
        forget,
        l2=spec.l2,
        rows=100,
        perturbation=0.1,
        most_units=2,
        damping=damping,
        curvature_records=140,
        seed=1,
    )
    moved = torch.nonzero(done.weights != weights)[:, 0]
    assert 0 < len(moved) <= done.facts["block"] < network.size
    hessian = NetworkObjective(network, *retain, spec.l2).hessian(weights)[moved][:, moved]
    slope = NetworkObjective(network, *forget, spec.l2).gradient(weights)[moved]
    step = torch.linalg.solve(hessian + damping * torch.eye(len(moved)).double(), slope)
    torch.testing.assert_close((done.weights - weights)[moved], 20 / 140 * step, rtol=5e-3, atol=1e-9)
    assert done.facts["damping"] == damping


@pytest.mark.parametrize(("name", "side"), [("all-cnn", 8), ("resnet-18", 8)])
def test_baselines_take_convolutional_networks(name, side):
    spec = model_spec(name, side * side, 3, input_shape=[1, side, side], width=4)
    network = build(spec)
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(12, side * side, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) % 3
    weights = network.initial()
    noised = fisher.fisher_forget(network, weights, features, noise_scale=1e-3, floor=1e-8, seed=1)
    assert bool(torch.isfinite(noised.weights).all())
    done = l_codec.l_codec(
        network,
        weights,
        (features[4:], labels[4:]),
        (features[:4], labels[:4]),
        l2=1e-3,
        rows=24,
        perturbation=0.1,
        most_units=2,
        damping=100.0,
        curvature_records=4,
        seed=1,
    )
    changed = int((done.weights != weights).sum())
    assert 0 < changed <= done.facts["block"] < network.size


def test_membership_attack_on_records_it_was_not_fitted_on():
    generator = torch.Generator().manual_seed(3)
    labels = torch.zeros(400, dtype=torch.int64)
    sure = torch.tensor([[6.0, 0.0, 0.0]]) + 0.1 * torch.randn(400, 3, generator=generator)
    doubtful = 0.1 * torch.randn(400, 3, generator=generator)
    found = membership.attack((sure, labels), (doubtful, labels), seed=1)
    assert (found["auc"], found["accuracy"], found["scored"]) == (1.0, 1.0, 400)
    # nothing tells these apart, however many signals an attack fits
    blind = membership.attack((doubtful[:200], labels[:200]), (doubtful[200:], labels[200:]), seed=1)
    assert blind["auc_low"] < 0.5 < blind["auc_high"]
    assert blind["accuracy_low"] < 0.5 < blind["accuracy_high"]


def test_interval_of_an_auc():
    # Hanley and McNeil's example: area 0.893 from 51 abnormal and 58 normal cases, standard error 0.032
    assert membership.auc_deviation(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
    assert membership.auc_deviation(1.0, 10, 10) == 0


def test_relearning_counts_steps(small):
    _, network, weights, _, forget = small
    loss = float(cross_entropy(network(weights, forget[0]), forget[1]))
    options = {"learning_rate": 0.01, "batch_size": 5, "seed": 1}
    at_once = relearn.relearn(network, weights, *forget, loss=loss, accuracy=0.0, most_epochs=3, **options)
    assert set(at_once.values()) == {0}
    away = relearn.relearn(
        network, network.initial(), *forget, loss=loss, accuracy=0.0, most_epochs=200, **options
    )
    assert away["steps_to_loss"] > 4
    assert away["epochs_to_loss"] == math.ceil(away["steps_to_loss"] / 4)
    assert away["steps_to_f1"] == 0
    never = relearn.relearn(network, weights, *forget, loss=-1.0, accuracy=0.0, most_epochs=2, **options)
    assert (never["steps_to_loss"], never["epochs_to_loss"], never["steps_to_f1"]) == (None, None, 0)


@pytest.mark.parametrize("name", ["paper-mnist", "paper-diabetes130", "paper-cifar10", "paper-fashion-mnist"])
def test_full_settings_have_three_seeds_and_known_keys(name):
    setting = runner.read_setting(name)
    assert len(setting["seeds"]) >= 3
    left_out = setting.pop("leave_out", {})
    assert left_out.keys() < contenders.METHODS.keys()
    assert all(left_out.values())  # each says why
    assert set(setting) == set(runner.read_setting("small-paper"))
    methods = len(contenders.METHODS) - len(left_out)
    assert len(comparison.cells({**setting, "leave_out": left_out})) == len(setting["seeds"]) * methods
    assert setting["published"]["sigma"] == 0.001
    assert setting["model"]["training"]["norm_bound"] == 20.0
