import math

import pytest
import torch
from torch.testing import assert_close

from expunge.curvature.lissa import lissa
from expunge.errors import InputError
from tests.curvature.problems import matrix_with, vector_of

SIZE = 8
MATRIX = matrix_with(torch.linspace(1, 4, SIZE))
RIGHT = vector_of(SIZE)
EXACT = torch.linalg.solve(MATRIX, RIGHT)


def _fixed(matrix=MATRIX, right=RIGHT, **options):
    numbers = {"records": 50, "chains": 3, "steps": 40, "batch": 5, "scale": 5.0, "min_curvature": 1.0}
    return lissa(
        lambda _indices, v: v @ matrix,
        lambda v: matrix @ v,
        right,
        generator=torch.Generator().manual_seed(0),
        **{**numbers, **options},
    )


@pytest.mark.parametrize("steps", [1, 2, 10, 57, 300])
def test_a_fixed_operator_contracts_as_the_closed_form_says(steps):
    h = 5.0
    found = _fixed(steps=steps, scale=h)
    shrink = torch.linalg.matrix_power(torch.eye(SIZE) - MATRIX / h, steps)
    assert_close(found.solution, EXACT + shrink @ (RIGHT / h - EXACT), rtol=1e-11, atol=1e-13)
    error = float((found.solution - EXACT).norm())
    assert error <= (1 - 1 / h) ** steps * float((RIGHT / h - EXACT).norm()) + 1e-13
    assert found.status == "converged"
    assert found.products == steps


def test_along_the_smallest_eigenvector_the_rate_is_reached_exactly():
    lowest = torch.linalg.eigh(MATRIX).eigenvectors[:, 0]  # eigenvalue b = 1
    found = _fixed(right=lowest, steps=30, scale=5.0)
    assert float((found.solution - lowest).norm()) == pytest.approx(0.8**30 * (1 - 1 / 5.0), rel=1e-9)


def test_a_shallow_recursion_stops_where_the_closed_form_says():
    # h = 1000 and 1,000 steps at damping 0.01: the published setting leaves most of the residual
    matrix, h, steps = matrix_with(torch.logspace(-2, 1, SIZE)), 1000.0, 1000
    found = _fixed(matrix, scale=h, steps=steps, min_curvature=0.01)
    left = torch.linalg.matrix_power(torch.eye(SIZE) - matrix / h, steps + 1) @ RIGHT
    assert found.residual == pytest.approx(float(left.norm()), rel=1e-9)
    assert found.residual > 0.1 * float(RIGHT.norm())


def _stochastic(chains, seed):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, SIZE, dtype=torch.float64, generator=generator)
    hessians = rows[:, :, None] * rows[:, None, :] + torch.eye(SIZE)
    whole = hessians.mean(0)
    scale = float(torch.linalg.eigvalsh(hessians)[:, -1].max())  # dominates every mini-batch
    found = lissa(
        lambda i, v: torch.einsum("ude,ue->ud", hessians[i].mean(1), v),
        lambda v: whole @ v,
        RIGHT,
        records=40, chains=chains, steps=300, batch=4, scale=scale, min_curvature=1.0,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return float((found.solution - torch.linalg.solve(whole, RIGHT)).square().sum())


def test_the_error_shrinks_as_one_over_the_root_of_the_chains():
    few = sum(_stochastic(4, seed) for seed in range(30)) / 30
    many = sum(_stochastic(64, seed) for seed in range(30)) / 30
    # the mean square shrinks 16-fold; a mean of 30 squares of 8 numbers is within a factor 2 at far over 4 sigma
    assert 8 < few / many < 32


def test_chains_side_by_side_equal_chains_one_by_one():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(20, SIZE, dtype=torch.float64, generator=generator)
    hessians = rows[:, :, None] * rows[:, None, :] + torch.eye(SIZE)
    drawn = []

    def batches(indices, v):
        drawn.append(indices)
        return torch.einsum("ude,ue->ud", hessians[indices].mean(1), v)

    found = lissa(
        batches, lambda v: hessians.mean(0) @ v, RIGHT,
        records=20, chains=3, steps=25, batch=4, scale=40.0, min_curvature=1.0,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    ends = []
    for chain in range(3):
        x = RIGHT.clone()
        for indices in drawn:
            x = RIGHT + x - hessians[indices[chain]].mean(0) @ x / 40.0
        ends.append(x / 40.0)
    assert_close(found.solution, torch.stack(ends).mean(0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [1.9, 0.5, 1e-3, 1e-30])
def test_too_small_a_scale_is_noticed_early(scale):
    found = _fixed(scale=scale, steps=10_000)
    assert found.status in ("diverged", "not finite")
    assert found.products < 1000


def test_a_residual_that_is_not_finite_is_not_converged():
    found = lissa(
        lambda _i, v: v, lambda v: v * math.nan, RIGHT, records=9, chains=1, steps=3, batch=1, scale=2.0,
        min_curvature=1.0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert found.status == "not finite"


@pytest.mark.parametrize(
    "wrong",
    [
        {"chains": 0},
        {"steps": 0},
        {"batch": 0},
        {"batch": 51},
        {"scale": -1.0},
        {"scale": math.nan},
        {"min_curvature": 0.0},
        {"min_curvature": -1.0},
        {"min_curvature": math.nan},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="invalid"):
        _fixed(**wrong)
