import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from expunge.curvature.solvers import conjugate_gradients, solve_exact
from tests.curvature.problems import matrix_with, vector_of


def _solve(matrix, right, *, tolerance=1e-10, max_products=500, **options):
    return conjugate_gradients(
        lambda v: matrix @ v, right, tolerance=tolerance, max_products=max_products, **options
    )


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 30), decades=st.floats(0, 4), seed=st.integers(0, 999), scaled=st.booleans())
def test_conjugate_gradients_equal_the_dense_solution(size, decades, seed, scaled):
    matrix, right = matrix_with(torch.logspace(0, decades, size), seed), vector_of(size, seed)
    diagonal = matrix.diagonal()
    found = _solve(matrix, right, preconditioner=(lambda v: v / diagonal) if scaled else None)
    assert found.status == "converged"
    # smallest eigenvalue 1: the error is at most the residual; 1e-10 for both solutions' rounding
    assert float((found.solution - torch.linalg.solve(matrix, right)).norm()) <= found.residual + 1e-10


@pytest.mark.parametrize("scaled", [False, True])
def test_an_indefinite_matrix_has_no_solution(scaled):
    matrix, right = matrix_with(torch.tensor([-1.0, 1.0, 2.0, 3.0])), vector_of(4)
    found = _solve(matrix, right, preconditioner=(lambda v: 2 * v) if scaled else None)
    assert found.status == solve_exact(matrix, right).status == "negative curvature"


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("after", [0, 2])
def test_a_poisoned_operator_never_converges(poison, after):
    matrix, right = matrix_with(torch.logspace(0, 3, 20)), vector_of(20)
    calls = 0

    def operator(v):
        nonlocal calls
        calls += 1
        return (matrix @ v) * (poison if calls > after else 1.0)

    found = conjugate_gradients(operator, right, tolerance=1e-10, max_products=50)
    assert found.status == "not finite"


@pytest.mark.parametrize("measure", [False, True])
def test_a_recursion_that_overflows_is_not_converged(measure):
    found = conjugate_gradients(
        lambda v: 1e-300 * v, 1e150 * torch.ones(2).double(), tolerance=1.0, max_products=9, measure=measure,
        preconditioner=lambda v: 1e-160 * v * torch.tensor([1.0, math.nan]).double(),
    )  # fmt: skip
    assert found.status == "not finite"


def test_a_nan_on_the_right_is_not_converged():
    assert _solve(torch.eye(2), torch.tensor([math.nan, 1.0])).status == "not finite"


@settings(max_examples=20, deadline=None)
@given(budget=st.integers(1, 15), measure=st.booleans())
def test_no_more_products_are_spent_than_allowed(budget, measure):
    matrix = matrix_with(torch.logspace(0, 6, 40))
    calls = 0

    def operator(v):
        nonlocal calls
        calls += 1
        return matrix @ v

    found = conjugate_gradients(
        operator, vector_of(40), tolerance=1e-12, max_products=budget, measure=measure
    )
    assert found.status == "budget spent"
    assert calls == found.products <= budget


def test_the_residual_is_the_true_one_where_the_recursion_drifts():
    matrix, right = matrix_with(torch.logspace(-4, 2, 60)).float(), vector_of(60).float()
    options = {"tolerance": 1e-5 * float(right.norm()), "max_products": 5000}
    measured = _solve(matrix, right, **options)
    recursed = _solve(matrix, right, measure=False, **options)
    true = float((matrix.double() @ measured.solution.double() - right.double()).norm())
    assert recursed.status == "converged"
    assert recursed.residual <= options["tolerance"] < true
    assert measured.residual == pytest.approx(true, rel=0.3)  # measured in float32 itself
    assert measured.residual > options["tolerance"]


def test_the_exact_solver_measures_its_residual():
    matrix, right = matrix_with(torch.logspace(0, 8, 20)), vector_of(20)
    found = solve_exact(matrix, right)
    assert_close(found.residual, float((matrix @ found.solution - right).norm()))
    assert_close(found.solution, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-9)
