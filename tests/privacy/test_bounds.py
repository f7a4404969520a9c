import math

import pytest
import torch

from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from expunge.errors import CertificateRefusedError, InputError
from expunge.models.training import project
from expunge.privacy.bounds import (
    convex_error_bound,
    iterated_newton_error_bound,
    lissa_error_bound,
    newton_error_bound,
    projected_error_bound,
)
from tests.oracles import softmax_problem


def _minimum(objective, start):
    w = start.clone()
    for _ in range(60):
        step = torch.linalg.solve(objective.hessian(w), objective.gradient(w))
        w = w - step
        if float(step.norm()) < 1e-14:
            break
    return w


@pytest.mark.parametrize("seed", range(12))
def test_newton_bound_holds_against_a_dense_oracle(seed):
    """Logistic regression: the Hessian's Lipschitz constant is known, so N1 must hold with true constants."""
    features, labels = softmax_problem(seed, n=50, width=3)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FlatModule(torch.nn.Linear(3, 2))
    l2, damping = 0.1, 0.02 * seed
    full = NetworkObjective(network, features, labels, l2)
    retain = NetworkObjective(network, features[5:], labels[5:], l2)
    w = _minimum(full, network.initial())
    reference = _minimum(retain, network.initial())
    hessian = retain.hessian(w)
    x = torch.linalg.solve(hessian + damping * torch.eye(len(w)), retain.gradient(w))
    crude = x + 1e-3 * torch.ones_like(x)  # a solver that stopped early
    for step in (x, crude):
        residual = float((hessian @ step + damping * step - retain.gradient(w)).norm())
        # third derivative of cross entropy in logits is at most 1 in operator norm; logits are affine in w
        lipschitz = float((features.square().sum(1) + 1).pow(1.5).max()) * 2**1.5
        bound = newton_error_bound(
            hessian_lipschitz=lipschitz,
            radius=float((w - reference).norm()),
            damping=damping,
            gradient_bound=float(retain.gradient(reference).norm()),
            residual=residual,
            min_curvature=float(torch.linalg.eigvalsh(hessian)[0]) + damping,
        )
        assert float((w - step - reference).norm()) <= bound


def test_ignoring_the_residual_would_break_the_bound():
    """Mutant: with the residual left out, a lazy solver's error is above the bound."""
    hessian, w, reference = torch.eye(2) * 2.0, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    gradient = hessian @ (w - reference)
    lazy = torch.zeros(2)
    residual = float((hessian @ lazy - gradient).norm())
    given = {
        "hessian_lipschitz": 0.0,
        "radius": 1.0,
        "damping": 0.0,
        "gradient_bound": 0.0,
        "min_curvature": 2.0,
    }
    error = float((w - lazy - reference).norm())
    assert error > newton_error_bound(**given, residual=0.0)
    assert error <= newton_error_bound(**given, residual=residual)


def test_gradient_bound_is_not_zero_where_the_ball_is_active():
    """Trap: a quadratic whose optimum lies outside the ball; N1 with G = 0 is false, with the true G it holds."""
    hessian = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    optimum, bound_c = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64), 1.0
    reference = project(optimum, bound_c)  # where projected training on the retain set can end
    gradient_at_reference = hessian @ (reference - optimum)
    w = reference + 1e-3
    step = torch.linalg.solve(hessian, hessian @ (w - optimum))
    radius = float((w - reference).norm())
    given = {
        "hessian_lipschitz": 0.0,
        "radius": radius,
        "damping": 0.0,
        "residual": 0.0,
        "min_curvature": 1.0,
    }
    error = float((w - step - reference).norm())
    assert error > newton_error_bound(**given, gradient_bound=0.0)
    assert error <= newton_error_bound(**given, gradient_bound=float(gradient_at_reference.norm()))


def test_paper_form():
    """With R = 2C and G = s = 0, N1 is 2C(MC + lambda)/(lambda + lambda_min)."""
    c, m, lam, low = 3.0, 0.7, 2.0, 0.5
    bound = newton_error_bound(
        hessian_lipschitz=m, radius=2 * c, damping=lam, gradient_bound=0, residual=0, min_curvature=lam + low
    )
    assert bound == pytest.approx(2 * c * (m * c + lam) / (lam + low))


def test_ball_binds_on_every_network_with_negative_curvature():
    bound = newton_error_bound(
        hessian_lipschitz=1.0, radius=40.0, damping=12.0, gradient_bound=0, residual=0, min_curvature=11.75
    )
    assert projected_error_bound(bound, 20.0) == (40.0, "ball")
    assert projected_error_bound(1.0, 20.0) == (1.0, "theorem")


@pytest.mark.parametrize("curvature", [0.0, -0.1, math.nan])
def test_newton_refuses_without_positive_curvature(curvature):
    with pytest.raises(CertificateRefusedError, match="damping"):
        newton_error_bound(
            hessian_lipschitz=0, radius=1, damping=0, gradient_bound=0, residual=0, min_curvature=curvature
        )


def test_convex_bound_and_its_ranges():
    assert convex_error_bound(
        gradient_tolerance=1e-8, rounding_allowance=1e-9, strong_convexity=1e-3
    ) == pytest.approx(2.2e-5)
    with pytest.raises(InputError):
        convex_error_bound(gradient_tolerance=1e-8, rounding_allowance=0, strong_convexity=0.0)
    with pytest.raises(InputError):
        convex_error_bound(gradient_tolerance=math.nan, rounding_allowance=0, strong_convexity=1.0)


N3 = {
    "norm_bound": 2.0,
    "hessian_lipschitz": 0.3,
    "gradient_lipschitz": 0.0,
    "damping": 3.0,
    "min_eigenvalue": -0.5,
    "gradient_bound": 0.0,
    "parameters": 40,
    "failure_probability": 1e-3,
    "scale": 1.0,
}


def test_a_priori_bound_is_n1_where_nothing_is_left_to_spread():
    n1 = newton_error_bound(
        hessian_lipschitz=0.3, radius=4.0, damping=3.0, gradient_bound=0, residual=0, min_curvature=2.5
    )
    assert lissa_error_bound(**N3) == pytest.approx(n1)


def test_a_priori_bound_written_out():
    given = {**N3, "gradient_lipschitz": 0.7, "gradient_bound": 0.2}
    first = (2 * 2.0 * (0.3 * 2.0 + 3.0) + 0.2) / 2.5
    spread = 16 * math.sqrt(math.log(40 / 1e-3)) / 2.5 + 1 / 16
    assert lissa_error_bound(**given) == pytest.approx(first + spread * (2 * 0.7 * 2.0 + 0.2))


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0.999}, {"scale": math.nan}, {"failure_probability": 0.0}, {"parameters": 0}],
)
def test_a_priori_bound_is_refused_outside_its_range(wrong):
    with pytest.raises(InputError):
        lissa_error_bound(**{**N3, **wrong})


def test_several_steps_by_hand():
    """M = 0.1, C = 1, lambda = 1, G = 0.05: R = 2, then (0.2 + 2 + 0.05 + 0.01)/2, then from that radius."""
    given = {"hessian_lipschitz": 0.1, "norm_bound": 1.0, "damping": 1.0, "gradient_bound": 0.05}
    one = (0.1 * 2**2 / 2 + 2.0 + 0.05 + 0.01) / 2.0
    assert iterated_newton_error_bound(**given, steps=[(0.01, 2.0)]) == (pytest.approx(one), "theorem")
    two = (0.1 * one**2 / 2 + one + 0.05 + 0.02) / 4.0
    assert iterated_newton_error_bound(**given, steps=[(0.01, 2.0), (0.02, 4.0)]) == (
        pytest.approx(two),
        "theorem",
    )
    assert iterated_newton_error_bound(**given, steps=[(0.01, 0.5)]) == (2.0, "ball")
    assert iterated_newton_error_bound(**given, steps=[(0.01, 2.0), (9.0, 1.0)]) == (2.0, "ball")
    with pytest.raises(InputError, match="step"):
        iterated_newton_error_bound(**given, steps=[])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_several_steps_on_random_quadratics(seed, steps):
    """M = 0 exactly: projected steps by a careless solver stay within the bound of a reference in the ball."""
    draw = torch.Generator().manual_seed(seed)
    factor = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    hessian = factor @ factor.T / 4 + (0.05 if seed % 2 else 1.0) * torch.eye(4, dtype=torch.float64)
    norm_bound, damping = 1.5, 0.1 * (seed % 5)
    optimum = torch.randn(4, generator=draw, dtype=torch.float64)
    reference, weights = project(optimum, norm_bound), project(optimum + 3, norm_bound)
    smallest = float(torch.linalg.eigvalsh(hessian)[0]) + damping
    taken = []
    for _ in range(steps):
        gradient = hessian @ (weights - optimum)
        damped = hessian + damping * torch.eye(4, dtype=torch.float64)
        step = torch.linalg.solve(damped, gradient) + 0.01 * torch.randn(
            4, generator=draw, dtype=torch.float64
        )
        taken.append((float((damped @ step - gradient).norm()), smallest))
        weights = project(weights - step, norm_bound)
    bound, _ = iterated_newton_error_bound(
        hessian_lipschitz=0.0,
        norm_bound=norm_bound,
        damping=damping,
        gradient_bound=float((hessian @ (reference - optimum)).norm()),
        steps=taken,
    )
    assert float((weights - reference).norm()) <= bound * (1 + 1e-12)
