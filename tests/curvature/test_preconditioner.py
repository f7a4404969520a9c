from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.newton_cg import minimize
from expunge.curvature.preconditioner import keep_curvature, softmax_hessian
from expunge.curvature.solvers import conjugate_gradients
from expunge.errors import InputError
from tests.curvature.problems import image_problem, network_of, vector_of


def _objective(name, l2=0.1, seed=0, records=30, scale=1.0):
    features, labels = image_problem(records, seed)
    network = network_of(name)
    spread = torch.logspace(0, 2, 16, dtype=torch.float64) if scale > 1 else 1.0
    return LinearizedObjective(network, network.initial(), spread * features, labels, l2)


def _hessian(objective, point):
    p = torch.softmax(objective.logits(point), dim=1)
    return torch.stack([objective.curvature_product(p, unit) for unit in torch.eye(objective.size).double()])


def test_softmax_hessian_equals_autograd():
    features, labels = image_problem(12)
    network = network_of("softmax")
    w = vector_of(network.size)
    exact = torch.autograd.functional.hessian(lambda v: cross_entropy(network(v, features), labels), w)
    found = softmax_hessian(features, torch.softmax(network(w, features), dim=1))
    assert_close(found, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["softmax", "head"])
def test_the_factor_of_a_head_applies_the_dense_inverse(name):
    objective = _objective(name)
    point, v = vector_of(objective.size, 1), vector_of(objective.size, 2)
    kept = keep_curvature(objective, point, rank=3, sample=3)
    assert kept.form == "cholesky"
    assert_close(kept.apply(v), torch.linalg.solve(_hessian(objective, point), v), rtol=1e-9, atol=1e-11)


def _applied(kept):
    return torch.stack([kept.apply(unit) for unit in torch.eye(kept.size).double()])


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_a_sketch_applies_its_formula_and_is_positive_definite(rank):
    objective = _objective("mlp")
    kept = keep_curvature(objective, vector_of(objective.size), rank=rank, sample=20)
    kept = kept.to(torch.float64, torch.device("cpu"))
    u, values = kept.factor, kept.eigenvalues
    inner = torch.diag((values[-1] + 0.1) / (values + 0.1))
    dense = u @ inner @ u.T + torch.eye(kept.size) - u @ u.T
    found = _applied(kept)
    assert_close(found, dense, rtol=1e-10, atol=1e-12)
    assert_close(found, found.T, rtol=1e-10, atol=1e-12)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    assert_close(u.T @ u, torch.eye(rank).double(), rtol=0, atol=1e-5)  # a sketch is float32


def test_a_full_sketch_of_all_records_is_the_inverse():
    objective = _objective("mlp")
    point = vector_of(objective.size)
    kept = keep_curvature(objective, point, rank=objective.size, sample=1000)
    found = _applied(kept.to(torch.float64, torch.device("cpu")))
    scale = float(kept.eigenvalues[-1]) + 0.1  # P is normalised to be one outside the sketch
    assert_close(found / scale, torch.linalg.inv(_hessian(objective, point)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "fraction"), [("softmax", 0.2), ("mlp", 0.5)])
def test_kept_curvature_saves_products(name, fraction):
    objective = _objective(name, l2=1e-4, records=100, scale=100)
    point, right = torch.zeros(objective.size).double(), vector_of(objective.size)
    kept = keep_curvature(objective, point, rank=40, sample=1000).to(torch.float64, torch.device("cpu"))
    dense = _hessian(objective, point)

    def products(preconditioner):
        found = conjugate_gradients(
            lambda v: dense @ v, right, tolerance=1e-6, max_products=5000, preconditioner=preconditioner
        )
        assert found.status == "converged"
        return found.products

    assert products(kept.apply) < fraction * products(None)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
@pytest.mark.parametrize("which", ["right", "stale", "scaled"])
def test_kept_curvature_never_changes_what_is_certified(name, which):
    objective = _objective(name)
    seen = _objective(name, seed=9) if which == "stale" else objective
    kept = keep_curvature(seen, torch.zeros(objective.size).double(), rank=10, sample=20)
    if which == "scaled":
        kept = replace(kept, factor=100 * kept.factor)
    found = minimize(
        objective, torch.zeros(objective.size), tolerance=1e-9, max_products=2000, what="test", kept=kept,
        mixed=which == "stale",
    )  # fmt: skip
    true = float(objective.gradient(found.solution).norm())
    assert found.gradient_norm == pytest.approx(true, abs=1e-15)
    assert (found.status == "converged") == (true <= 1e-9)
    if which != "scaled":
        assert found.status == "converged"


@pytest.mark.parametrize("l2", [1e-9, 1e3])
@pytest.mark.parametrize("spread", [0.0, 1e4])
def test_a_sketch_of_vanishing_curvature_still_preconditions(l2, spread):
    objective = _objective("mlp", l2=l2)
    kept = keep_curvature(objective, spread * vector_of(objective.size), rank=50, sample=50)
    found = _applied(kept.to(torch.float64, torch.device("cpu")))
    assert torch.isfinite(found).all()
    assert float(torch.linalg.eigvalsh((found + found.T) / 2)[0]) > -1e-6


class _Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.each = nn.Linear(1, 3)

    def forward(self, inputs):
        return self.each(inputs[..., None]).mean(dim=1)


def test_a_layer_that_sees_many_rows_a_record_is_no_head():
    features, labels = image_problem()
    network = FlatModule(_Tokens())
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1)
    assert objective.head_inputs() is None
    assert keep_curvature(objective, network.initial(), rank=3, sample=9).form == "nystrom"


def test_a_head_looks_at_a_chunk_at_a_time():
    features, labels = image_problem(20)
    network = network_of("head")
    objective = LinearizedObjective(network, network.initial(), features, labels, 0.1, chunk=6)
    seen = []
    hook = network.module.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    assert objective.head_inputs().shape == (20, 5)
    hook.remove()
    assert max(seen) == 6


def test_a_sketch_without_columns_is_refused():
    with pytest.raises(InputError, match="sketch"):
        keep_curvature(_objective("mlp"), torch.zeros(60), rank=0, sample=3)
