import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.newton_cg import minimize
from expunge.curvature.preconditioner import softmax_hessian
from tests.curvature.problems import image_problem, network_of, vector_of


def _softmax_minimum(features, labels, classes, l2):
    """Minimiser of softmax regression in (W, b) by damped dense Newton steps."""
    extended = torch.cat([features, torch.ones(len(features), 1).double()], 1)
    onehot = nn.functional.one_hot(labels, classes).double()
    flat = torch.zeros(classes * extended.shape[1]).double()
    width = features.shape[1]

    def logits_of(v):
        return features @ v[: classes * width].view(classes, width).T + v[classes * width :]

    def value(v):
        return float(nn.functional.cross_entropy(logits_of(v), labels) + l2 / 2 * v @ v)

    for _ in range(100):
        p = torch.softmax(logits_of(flat), 1)
        blocks = (p - onehot).T @ extended / len(features)
        gradient = torch.cat([blocks[:, :-1].reshape(-1), blocks[:, -1]]) + l2 * flat
        if float(gradient.norm()) < 1e-14:
            break
        step = torch.linalg.solve(softmax_hessian(features, p) + l2 * torch.eye(len(flat)), gradient)
        length = 1.0
        while value(flat - length * step) > value(flat) + 1e-12 and length > 1e-6:
            length /= 2
        flat = flat - length * step
    return flat, float(gradient.norm())


def _random_problem(seed):
    rng = np.random.default_rng(seed)
    n, width, classes = int(rng.integers(1, 40)), int(rng.integers(1, 5)), int(rng.integers(2, 5))
    features = torch.from_numpy(rng.normal(size=(n, width)) * 10 ** rng.uniform(-1, 1))
    labels = torch.from_numpy(rng.integers(0, classes, size=n))
    kind = seed % 4
    if kind == 1:
        labels = torch.zeros_like(labels)
    if kind == 2:
        features, labels = features[:1].repeat(n, 1), labels[:1].repeat(n)
    return features, labels, classes, 10 ** rng.uniform(-4, 1), 10 ** rng.uniform(-10, -4), kind == 3


class _DenseJacobian:
    """That of a linear layer, in closed form: a thousand problems in seconds."""

    def __init__(self, network, origin, features, *, chunk, memory_limit, reverse):
        self.features, self.size, self.chunk = features, network.size, chunk or len(features)
        self.output = network(origin, features)

    def product(self, vector):
        classes = self.output.shape[1]
        weight = vector[:-classes].view(classes, -1)
        return self.features @ weight.T + vector[-classes:]

    def transposed(self, cotangent):
        return torch.cat([(cotangent.T @ self.features).reshape(-1), cotangent.sum(0)])

    def through(self, vector, weigh):
        output = self.output + self.product(vector)
        return output, self.transposed(weigh(output, slice(0, len(output))))


@pytest.mark.parametrize("block", range(5))
def test_the_distance_to_the_minimiser_is_within_gradient_over_l2(block, monkeypatch):
    monkeypatch.setattr("expunge.curvature.linearized.Jacobian", _DenseJacobian)
    for seed in range(200 * block, 200 * (block + 1)):
        features, labels, classes, l2, tolerance, mixed = _random_problem(seed)
        network = FlatModule(nn.Linear(features.shape[1], classes))
        objective = LinearizedObjective(  # the linearisation at zero is the regression itself
            network, torch.zeros(network.size), features, labels, l2
        )
        found = minimize(
            objective,
            torch.zeros(network.size),
            tolerance=tolerance,
            max_products=5000,
            what="t",
            mixed=mixed,
        )
        exact, left = _softmax_minimum(features, labels, classes, l2)
        assert found.status == "converged", seed
        assert found.gradient_norm <= tolerance, seed
        distance = float((found.solution - exact).norm())
        assert distance <= (found.gradient_norm + found.rounding + left + 1e-14) / l2 + 1e-12, seed


@pytest.mark.parametrize("name", ["mlp"])
def test_mixed_precision_reaches_the_same_tolerance(name):
    features, labels = image_problem(30)
    network = network_of(name)
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.05)
    start = torch.zeros(network.size)
    mixed, double = (
        minimize(objective, start, tolerance=1e-10, max_products=5000, what="t", mixed=m)
        for m in (True, False)
    )
    assert mixed.status == double.status == "converged"
    assert max(mixed.gradient_norm, double.gradient_norm) <= 1e-10
    assert_close(mixed.solution, double.solution, rtol=0, atol=2e-10 / 0.05)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["features", "start"])
def test_what_is_not_finite_is_never_converged(where, poison, mixed):
    features, labels = image_problem()
    network = network_of("mlp")
    start = torch.zeros(network.size).double()
    (features[0] if where == "features" else start)[0] = poison
    if where == "features" and math.isinf(poison):
        features[0, :2] = torch.tensor([math.inf, -math.inf])  # tanh of a lone infinity is finite
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    found = minimize(objective, start, tolerance=1e-8, max_products=50, what="t", mixed=mixed)
    assert found.status == "not finite"


def test_infinite_initial_weights_are_never_converged():
    features, labels = image_problem()
    network = network_of("softmax")
    origin = torch.full((network.size,), math.inf)
    objective = LinearizedObjective(network, origin, features, labels, 0.1)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-8, max_products=50, what="t")
    assert found.status == "not finite"


def test_single_precision_cannot_show_a_residual_of_1e_8():
    features, labels = image_problem(300)
    features = 10 * features
    network = network_of("softmax")
    objective = LinearizedObjective(network, network.initial(), features, labels, 1e-3)
    start = torch.zeros(network.size)
    optimum = minimize(objective, start, tolerance=1e-13, max_products=9999, what="t").solution
    assert float(objective.gradient(optimum).norm()) <= 1e-13
    assert float(objective.single().gradient(optimum.float()).norm()) > 3e-8
    rounded = optimum.float().double()  # even where double precision evaluates it
    assert float(objective.gradient(rounded).norm()) > 1e-8


def test_the_returned_gradient_is_that_of_the_returned_point():
    features, labels = image_problem(20)
    network = network_of("mlp")
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    for budget in (0, 1, 5, 500):
        found = minimize(objective, vector_of(network.size), tolerance=1e-9, max_products=budget, what="t")
        assert found.products <= budget
        judged = objective.certified_gradient(found.solution)
        assert (found.gradient_norm, found.rounding) == (float(judged.gradient.norm()), judged.rounding)
        assert found.proved
        assert (found.status == "converged") == (found.gradient_norm <= 1e-9)


def test_what_the_cpu_does_not_confirm_is_not_converged(monkeypatch):
    features, labels = image_problem(20)
    network = network_of("mlp")
    objective, other = (
        LinearizedObjective(network, network.initial(), features, y, 0.1) for y in (labels, labels.flip(0))
    )
    monkeypatch.setattr(objective, "on_cpu", lambda: other)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-9, max_products=500, what="t")
    assert found.status == "not confirmed"
    assert found.gradient_norm == float(other.certified_gradient(found.solution).gradient.norm()) > 1e-9


def test_a_norm_at_the_border_is_what_the_judge_says(monkeypatch):
    """Its gradient differs from the solver's by rounding: where only one is within the tolerance, the solve goes on."""
    features, labels = image_problem(20)
    network = network_of("mlp")
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    whole, asked = objective.certified_gradient, []

    def strict(point):
        asked.append(point)
        found = whole(point)
        return replace(found, gradient=found.gradient + (1e-6 if len(asked) == 1 else 0.0))

    monkeypatch.setattr(objective, "certified_gradient", strict)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-9, max_products=500, what="t")
    assert found.status == "converged"
    assert len(asked) == 2
    assert found.gradient_norm == float(whole(found.solution).gradient.norm()) <= 1e-9


def test_of_convolutions_two_orders_are_compared_and_nothing_is_proved():
    features, labels = image_problem(20)
    network = network_of("all-cnn")
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-8, max_products=500, what="t")
    assert found.status == "converged"
    assert not found.proved
    assert found.gradient_norm == float(objective.gradient(found.solution).norm())
    other = objective.reversed().gradient(found.solution)
    assert found.rounding == 100 * float((other - objective.gradient(found.solution)).norm())
