"""Membership attacks on models whose past is known: original, retrained, and unlearned in name alone."""

import numpy as np
import pytest
import torch

from expunge.attacks.exposure import exposure_change
from expunge.attacks.lira import likelihood_ratios
from expunge.attacks.population import population_attack
from expunge.attacks.report import AttackReport, Limits
from expunge.attacks.result import attack_result
from expunge.attacks.rmia import relative_scores
from expunge.attacks.scores import log_confidence, logit_confidence
from expunge.attacks.shadows import plan_shadows, score_models, train_shadows
from expunge.errors import InputError
from tests.attacks.problems import overfitted, with_fresh_last_layer

LIMITS = Limits(auc=0.6)


@pytest.fixture(scope="module")
def problem():
    return overfitted()


@pytest.fixture(scope="module")
def shadows(problem):
    """Shadow models on candidates and population alike; the attacked model saw the candidates only."""
    features = torch.cat([problem.features, problem.population[0][:200]])
    labels = torch.cat([problem.labels, problem.population[1][:200]])
    plan = plan_shadows(problem.spec, len(labels), 16, seed=3)
    return plan, features, labels, score_models(plan, train_shadows(plan, features, labels), features, labels)


def test_an_overfitted_original_is_told_and_a_retrained_model_is_not(problem):
    original = problem.attack_with(population_attack, problem.original)
    retrained = problem.attack_with(population_attack, problem.retrained)
    assert original.roc.auc_low > 0.6
    assert retrained.roc.auc_low < 0.5 < retrained.roc.auc_high
    assert not retrained.roc.tells_apart


@pytest.mark.parametrize("by_class", [False, True])
def test_unlearning_in_name_alone_is_caught(problem, by_class):
    """Weights unchanged."""
    found = problem.attack_with(population_attack, problem.original.clone(), calibrate_by_class=by_class)
    verdict = AttackReport(forgotten=(found,)).passes(LIMITS)
    assert not verdict.passed
    assert found.attack in verdict.findings[0]
    honest = problem.attack_with(population_attack, problem.retrained, calibrate_by_class=by_class)
    assert AttackReport(forgotten=(honest,)).passes(LIMITS).passed


def test_resetting_the_last_layer_alone_is_caught(problem):
    """Its outputs are random; features below still know the records. Training the head again shows them."""
    reset = with_fresh_last_layer(problem)
    assert not torch.equal(reset, problem.original)
    found = problem.attack_with(population_attack, _head_retrained(problem, reset))
    honest = problem.attack_with(population_attack, _head_retrained(problem, problem.retrained))
    assert not AttackReport(forgotten=(found,)).passes(LIMITS).passed
    assert AttackReport(forgotten=(honest,)).passes(LIMITS).passed


def _head_retrained(problem, weights):
    """The head fitted on retained records over frozen features: what whoever resets it would release."""
    from expunge.models.zoo import build

    network = build(problem.spec)
    shapes = network.unflatten(weights)
    size = sum(shapes[name].numel() for name in list(shapes)[-2:])
    body = weights[:-size].clone()
    head = weights[-size:].clone().requires_grad_(True)
    retained, labels = problem.features[problem.forgotten :], problem.labels[problem.forgotten :]
    optimizer = torch.optim.LBFGS([head], max_iter=60)

    def closure():
        optimizer.zero_grad()
        logits = network(torch.cat([body, head]), retained)
        loss = torch.nn.functional.cross_entropy(logits, labels) + 1e-3 * head.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.cat([body, head.detach()])


def test_calibration_by_class_removes_what_labels_alone_tell():
    """The forget set has another mix of classes than the population, and nothing else: no attack on memory."""
    rng = np.random.default_rng(0)

    def drawn(labels):
        return np.stack([np.zeros(len(labels)), np.where(labels == 1, 3.0, -3.0)], axis=1) + rng.normal(
            size=(len(labels), 2)
        )

    skewed, even = (rng.random(400) < 0.95).astype(int), (rng.random(800) < 0.5).astype(int)
    easy = np.array([[4.0, 0.0]])  # class 0 is easier
    target, population = (
        drawn(skewed) + easy * (skewed == 0)[:, None],
        drawn(even) + easy * (even == 0)[:, None],
    )
    plain = population_attack(target, skewed, population, even)
    calibrated = population_attack(target, skewed, population, even, calibrate_by_class=True)
    assert plain.roc.tells_apart
    assert not calibrated.roc.tells_apart


def test_with_shadow_models_the_attack_is_at_least_as_strong(problem, shadows):
    plan, features, labels, scores = shadows
    target = problem.logits(problem.original, features).numpy()
    members, others = slice(0, 200), slice(200, 300)
    plain = logit_confidence(target, labels)
    population = attack_result("population", plain[members], plain[others])
    ratios = likelihood_ratios(plain, scores.logit_confidence, plan.members, variance="global")
    lira = attack_result("lira", ratios[members], ratios[others])
    relative = _rmia(target, labels, scores)
    rmia = attack_result("rmia", relative[members], relative[others])
    assert population.roc.auc_low > 0.6
    assert lira.roc.auc >= population.roc.auc
    assert rmia.roc.auc >= population.roc.auc - 0.01


def test_with_shadow_models_a_retrained_model_still_shows_nothing(problem, shadows):
    plan, features, labels, scores = shadows
    target = problem.logits(problem.retrained, features).numpy()
    forgotten, others = slice(0, problem.forgotten), slice(200, 400)
    for variance, online in (("global", True), ("record", True), ("global", False)):
        ratios = likelihood_ratios(
            logit_confidence(target, labels),
            scores.logit_confidence,
            plan.members,
            variance=variance,
            online=online,
        )
        assert not attack_result("lira", ratios[forgotten], ratios[others]).roc.tells_apart
    relative = _rmia(target, labels, scores)
    assert not attack_result("rmia", relative[forgotten], relative[200:300]).roc.tells_apart


def _rmia(target, labels, scores):
    """Records are compared with the half of the population that is not scored."""
    plain = log_confidence(target, labels)
    return relative_scores(
        plain, plain[300:], scores.log_confidence, scores.log_confidence[:, 300:], gamma=1.0
    )


def test_lira_is_the_ratio_of_two_normals():
    rng = np.random.default_rng(1)
    members = np.array([[True, False]] * 500 + [[False, True]] * 500)
    shadows = np.where(members, rng.normal(3, 0.5, (1000, 2)), rng.normal(0, 1.0, (1000, 2)))
    found = likelihood_ratios([1.0, 2.5], shadows, members)
    for at, score in zip([1.0, 2.5], found, strict=True):
        truth = (-0.5 * ((at - 3) / 0.5) ** 2 - np.log(0.5)) - (-0.5 * at**2)
        assert score == pytest.approx(truth, abs=1.0)
    offline = likelihood_ratios([0.0, 9.0], shadows, members, online=False)
    assert offline[0] == pytest.approx(np.log(2), abs=0.1)
    assert np.isfinite(offline[1])
    assert offline[1] > 30  # where 1 - P would have rounded to 0


def test_lira_refuses_too_few_shadows():
    members = np.array([[True, True], [True, False]])
    with pytest.raises(InputError, match="too few shadow models"):
        likelihood_ratios([0.0, 0.0], np.zeros((2, 2)), members)


def test_rmia_counts_pairs():
    rng = np.random.default_rng(2)
    x, z = -rng.random(5), -rng.random(7)
    in_x, in_z = -rng.random((3, 5)), -rng.random((3, 7))
    found = relative_scores(x, z, in_x, in_z, gamma=1.1)
    ratio_x, ratio_z = np.exp(x) / np.exp(in_x).mean(axis=0), np.exp(z) / np.exp(in_z).mean(axis=0)
    np.testing.assert_allclose(found, (ratio_x[:, None] / ratio_z[None] >= 1.1).mean(axis=1))
    offline = relative_scores(x, z, in_x, in_z, gamma=1.0, offline=1.0)
    np.testing.assert_array_equal(offline, relative_scores(x, z, in_x, in_z, gamma=1.0))
    with pytest.raises(InputError, match="gamma"):
        relative_scores(x, z, in_x, in_z, gamma=0.5)


def test_exposure_names_whose_record_rose_most():
    before = np.zeros(400)
    after = np.random.default_rng(0).normal(0, 0.1, 400)
    after[17] = 5.0
    found = exposure_change(before, after)
    assert found.worst[0] == (17, 5.0)
    assert found.mean_low < found.mean_change < found.mean_high
    with pytest.raises(InputError, match="do not fit"):
        exposure_change(before, after[:3])


def test_the_mean_change_of_exposure_is_covered():
    rng = np.random.default_rng(9)
    hits = 0
    for _ in range(1000):
        before = rng.normal(size=50)
        found = exposure_change(before, before + rng.normal(0.3, 1, 50))
        hits += found.mean_low <= 0.3 <= found.mean_high
    assert hits / 1000 > 0.95 - 0.021
