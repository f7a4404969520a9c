import math

import pytest
import torch

from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from expunge.errors import CertificateRefusedError, InputError
from expunge.models.training import project
from expunge.privacy.bounds import convex_error_bound, newton_error_bound, projected_error_bound
from tests.oracles import softmax_problem


def _minimum(objective, start):
    w = start.clone()
    for _ in range(60):
        w = w - torch.linalg.solve(objective.hessian(w), objective.gradient(w))
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
