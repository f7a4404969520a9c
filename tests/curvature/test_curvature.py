import pytest
import torch
from torch import nn
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.network import NetworkObjective
from expunge.curvature.newton_cg import minimize
from expunge.curvature.solvers import conjugate_gradients, solve_exact
from expunge.errors import CertificateRefusedError, InputError
from tests.oracles import dense_convex_minimum, dense_jacobian, softmax_problem


def _mlp(seed=0, width=3, classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, classes)).double()


@pytest.mark.parametrize("chunk", [7, 1000])
def test_linearised_products_equal_the_dense_ones(chunk):
    features, labels = softmax_problem(1, n=20)
    module = _mlp()
    network = FlatModule(module)
    origin = network.initial()
    jacobian = dense_jacobian(module, origin, features)
    objective = LinearizedObjective(network, origin, features, labels, 0.1, chunk=chunk)
    v = torch.linspace(-1, 1, network.size, dtype=torch.float64)
    assert_close(objective.jacobian.product(v), jacobian @ v, rtol=1e-12, atol=1e-12)
    r = torch.arange(40, dtype=torch.float64).view(20, 2)
    assert_close(
        objective.jacobian.transposed(r), torch.einsum("nkd,nk->d", jacobian, r), rtol=1e-12, atol=1e-12
    )
    logits = network(origin, features) + jacobian @ v
    p = torch.softmax(logits, 1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    dense = torch.einsum("nkd,nkl,nle->de", jacobian, middle, jacobian) / 20
    assert_close(objective.curvature_product(p, v), dense @ v + 0.1 * v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_minimum_equals_dense_newton(seed):
    features, labels = softmax_problem(seed, n=30)
    module = _mlp(seed)
    network = FlatModule(module)
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.05)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-11, max_products=2000, what="test")
    jacobian = dense_jacobian(module, network.initial(), features)
    exact = dense_convex_minimum(jacobian, network(network.initial(), features).detach(), labels, 0.05)
    assert found.status == "converged"
    assert found.gradient_norm <= 1e-11
    assert found.rounding < 1e-11
    assert_close(found.solution, exact, rtol=0, atol=2e-10)  # 2 tau / mu plus the oracle's own rounding


def test_minimum_that_ran_out_says_so():
    features, labels = softmax_problem(3)
    network = FlatModule(_mlp())
    objective = LinearizedObjective(network, network.initial(), features, labels, 1e-4)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-13, max_products=3, what="test")
    assert found.status != "converged"


def test_a_nan_is_not_converged():
    features, labels = softmax_problem(3)
    features[0, 0] = float("nan")
    network = FlatModule(_mlp())
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    found = minimize(objective, torch.zeros(network.size), tolerance=1e-8, max_products=50, what="test")
    assert found.status == "not finite"


def test_network_products_equal_autograd():
    features, labels = softmax_problem(2, n=15)
    network = FlatModule(_mlp())
    w = network.initial()
    objective = NetworkObjective(network, features, labels, 0.3, chunk=4)

    def loss(vector):
        return nn.functional.cross_entropy(network(vector, features), labels) + 0.15 * vector.square().sum()

    exact = torch.autograd.functional.hessian(loss, w)
    assert_close(objective.gradient(w), torch.autograd.functional.jacobian(loss, w), rtol=1e-10, atol=1e-12)
    assert_close(objective.hessian(w), exact, rtol=1e-10, atol=1e-12)


def test_solvers_agree_and_measure_their_residual():
    torch.manual_seed(0)
    root = torch.randn(12, 12, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(12), torch.randn(12, dtype=torch.float64)
    exact = solve_exact(matrix, right)
    iterated = conjugate_gradients(lambda v: matrix @ v, right, tolerance=1e-10, max_products=100)
    assert exact.status == iterated.status == "converged"
    assert_close(exact.solution, iterated.solution, rtol=1e-8, atol=1e-9)
    assert iterated.residual == pytest.approx(float((matrix @ iterated.solution - right).norm()))


def test_solvers_refuse_indefinite_matrices():
    matrix, right = torch.diag(torch.tensor([1.0, -1.0])), torch.ones(2)
    assert solve_exact(matrix, right).status == "negative curvature"
    found = conjugate_gradients(lambda v: matrix @ v, right, tolerance=1e-8, max_products=10)
    assert found.status == "negative curvature"


def test_an_unfinished_solve_says_so():
    matrix = torch.diag(torch.logspace(0, 6, 50, dtype=torch.float64))
    found = conjugate_gradients(
        lambda v: matrix @ v, torch.ones(50).double(), tolerance=1e-10, max_products=4
    )
    assert found.status == "budget spent"
    assert found.residual > 1e-10


@pytest.mark.parametrize("seed", range(8))
def test_lanczos_bounds_are_on_the_safe_side(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(200, 200, dtype=torch.float64, generator=generator)
    matrix = (root + root.T) / 2
    true = torch.linalg.eigvalsh(matrix)
    bounds = spectrum_bounds(
        lambda v: matrix @ v, 200, steps=60, failure_probability=1e-6, generator=generator
    )
    assert bounds.lower <= float(true[0]) <= float(true[-1]) <= bounds.upper


def test_lanczos_wants_enough_steps():
    with pytest.raises(InputError, match="too few"):
        spectrum_bounds(
            lambda v: v, 10_000, steps=5, failure_probability=1e-9, generator=torch.Generator().manual_seed(0)
        )


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)),
        nn.Linear(3, 2).requires_grad_(False),
    ],
)
def test_modules_that_cannot_be_certified_are_refused(module):
    with pytest.raises(CertificateRefusedError, match="module"):
        FlatModule(module)
