import math

import pytest
import torch

from expunge.curvature.lanczos import spectrum_bounds
from expunge.errors import InputError
from tests.curvature.problems import matrix_with

FAILURE = 1e-6
SIZE = 120


def _bounds(matrix, seed, steps=60):
    return spectrum_bounds(
        lambda v: matrix @ v, len(matrix), steps=steps, failure_probability=FAILURE,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


SPECTRA = {
    "random": lambda g: torch.randn(SIZE, generator=g),
    "clustered": lambda g: 1 + 1e-9 * torch.randn(SIZE, generator=g, dtype=torch.float64),
    "an outlier by a cluster": lambda g: torch.cat(
        [torch.full((SIZE - 1,), 1.0), torch.rand(1, generator=g)]
    ),
    "low rank": lambda g: torch.cat([torch.randn(4, generator=g), torch.zeros(SIZE - 4)]),
    "negative definite": lambda g: -torch.rand(SIZE, generator=g) - 0.1,
    "many decades": lambda g: 10 ** (12 * torch.rand(SIZE, generator=g, dtype=torch.float64) - 6),
    "tiny": lambda g: 1e-14 * torch.randn(SIZE, generator=g, dtype=torch.float64),
    "few dimensions": lambda g: torch.randn(7, generator=g),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("block", range(5))
def test_both_ends_are_within_the_bounds(name, block):
    for seed in range(5 * block, 5 * block + 5):
        matrix = matrix_with(SPECTRA[name](torch.Generator().manual_seed(seed)), seed)
        true, bounds = torch.linalg.eigvalsh(matrix), _bounds(matrix, seed + 1000)
        assert bounds.lower <= float(true[0]) <= float(true[-1]) <= bounds.upper, seed
        spread = float(true[-1] - true[0])
        assert bounds.upper - bounds.lower <= 2 * spread + 1e-11 * float(true.abs().max())
        assert bounds.products <= min(60, len(matrix))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 0.1, 1e9])
def test_a_multiple_of_the_identity_is_bounded_on_the_safe_side(value):
    for seed in range(10):
        bounds = spectrum_bounds(
            lambda v: value * v, 300, steps=60, failure_probability=FAILURE,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert bounds.lower <= value <= bounds.upper
        assert bounds.upper - bounds.lower <= 1e-11 * abs(value)


def test_without_the_margin_the_largest_eigenvalue_is_missed():
    matrix, steps = torch.diag(torch.linspace(-1, 1, 2000, dtype=torch.float64)), 60
    root = math.log(1.648 * math.sqrt(2000) / (FAILURE / 2)) / (2 * steps - 1)
    bounds = _bounds(matrix, 0, steps)
    margin_over_ritz_spread = root**2 / (1 - 2 * root**2)
    ritz_spread = (bounds.upper - bounds.lower) / (1 + 2 * margin_over_ritz_spread)
    largest_ritz = bounds.upper - margin_over_ritz_spread * ritz_spread
    assert largest_ritz < 1 - 1e-5  # the plain Ritz value claims too little
    assert bounds.lower <= -1 < 1 <= bounds.upper


def test_one_step_fewer_than_enough_is_refused():
    matrix = torch.eye(SIZE).double()
    with pytest.raises(InputError, match="too few") as refusal:
        _bounds(matrix, 0, steps=5)
    enough = int(str(refusal.value).split("at least ")[1].split(",")[0].split()[0])
    with pytest.raises(InputError, match="too few"):
        _bounds(matrix, 0, steps=enough - 1)
    assert _bounds(matrix, 0, steps=enough).products >= 1


@pytest.mark.parametrize("failure", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_what_is_no_probability_is_refused(failure):
    with pytest.raises(InputError, match="failure_probability"):
        spectrum_bounds(
            lambda v: v, 9, steps=60, failure_probability=failure, generator=torch.Generator().manual_seed(0)
        )


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_an_operator_that_is_not_finite_is_refused(poison):
    with pytest.raises(InputError, match="not finite"):
        _bounds(poison * torch.ones(9, 9).double(), 0)
