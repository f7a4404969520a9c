import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import InputError
from expunge.privacy.accountant import composed_epsilon
from expunge.privacy.gaussian import (
    admitted_sensitivity,
    calibrate_sigma,
    classical_sigma,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_m,
)

EPSILON = st.floats(1e-3, 50)
DELTA = st.floats(1e-12, 0.1)
M = st.floats(1e-3, 20)


def test_known_answers():
    assert gaussian_m(1.0, 1e-5) == pytest.approx(0.26805, abs=5e-6)
    assert calibrate_sigma(40.0, 1.0, 1e-5) == pytest.approx(149.2, abs=0.05)
    assert gaussian_delta(0.01, 0.002) == pytest.approx(1.075e-10, rel=1e-3)


def test_published_sigma_is_vacuous():
    """Trap: at Delta = 40 the classical formula, invalid there, says 1.9e5 where the truth is 8.0e8."""
    assert gaussian_epsilon(1e-5, 40 / 0.001) == pytest.approx(8.0e8, rel=1e-2)
    assert gaussian_epsilon(1e-5, 40 / 0.01) == pytest.approx(8.0e6, rel=1e-2)
    assert classical_sigma(40.0, 8.6, 1e-5) is None


@given(EPSILON, DELTA)
def test_m_inverts_delta_on_the_safe_side(epsilon, delta):
    m = gaussian_m(epsilon, delta)
    assert gaussian_delta(epsilon, m) <= delta
    assert gaussian_delta(epsilon, m * (1 + 1e-6)) > delta


@given(DELTA, M)
def test_epsilon_inverts_delta_on_the_safe_side(delta, m):
    epsilon = gaussian_epsilon(delta, m)
    assert gaussian_delta(epsilon, m) <= delta
    if epsilon > 0:
        assert gaussian_delta(epsilon * (1 - 1e-6), m) > delta


@given(EPSILON, st.floats(1e-10, 0.01), st.floats(0.01, 100))
def test_sigma_and_epsilon_are_inverses(epsilon, delta, sensitivity):
    sigma = calibrate_sigma(sensitivity, epsilon, delta)
    assert gaussian_epsilon(delta, sensitivity / sigma) == pytest.approx(epsilon, rel=1e-6)


GRID = [(epsilon, delta) for epsilon in (0.05, 0.5, 1.0, 4.0) for delta in (1e-5, 1e-6)]


@pytest.fixture(scope="module")
def oracle():
    """Figures of dp-accounting, in a process of its own: it brings absl, whose log handler closes pytest's streams."""
    code = (
        "import json, sys\n"
        "from dp_accounting.gaussian_mechanism import get_epsilon_gaussian, get_sigma_gaussian\n"
        "sigmas = [get_sigma_gaussian(e, d) for e, d in json.loads(sys.argv[1])]\n"
        "epsilons = [get_epsilon_gaussian(s, d) for s, (_, d) in zip(sigmas, json.loads(sys.argv[1]))]\n"
        "print(json.dumps([sigmas, epsilons]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(GRID)], capture_output=True, text=True, check=True
    )
    sigmas, epsilons = json.loads(done.stdout)
    return dict(zip(GRID, zip(sigmas, epsilons, strict=True), strict=True))


@pytest.mark.parametrize(("epsilon", "delta"), GRID)
def test_agrees_with_dp_accounting(epsilon, delta, oracle):
    sigma, granted = oracle[epsilon, delta]
    assert calibrate_sigma(1.0, epsilon, delta) == pytest.approx(sigma, rel=1e-6)
    assert gaussian_epsilon(delta, 1 / sigma) == pytest.approx(granted, rel=1e-6)


@given(st.floats(0.01, 1.0), st.floats(1e-10, 1e-3))
def test_classical_sigma_is_never_below_the_exact_one_where_it_is_valid(epsilon, delta):
    assert classical_sigma(1.0, epsilon, delta) >= calibrate_sigma(1.0, epsilon, delta)


@given(EPSILON, M, st.floats(1.01, 3))
def test_delta_is_monotone(epsilon, m, factor):
    assert gaussian_delta(epsilon, m * factor) >= gaussian_delta(epsilon, m)
    assert gaussian_delta(epsilon * factor, m) <= gaussian_delta(epsilon, m)


def test_limits():
    assert gaussian_delta(1.0, 0.0) == 0.0
    assert gaussian_delta(1.0, math.inf) == 1.0
    assert gaussian_epsilon(1e-5, math.inf) == math.inf
    assert gaussian_epsilon(0.5, 0.1) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: gaussian_delta(-1.0, 1.0),
        lambda: gaussian_delta(math.nan, 1.0),
        lambda: gaussian_epsilon(0.0, 1.0),
        lambda: gaussian_epsilon(1e-5, -1.0),
        lambda: gaussian_m(1.0, 1.0),
        lambda: calibrate_sigma(-1.0, 1.0, 1e-5),
    ],
)
def test_out_of_range_is_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()


@given(st.floats(0.01, 10), st.floats(1e-10, 0.01), st.floats(1e-4, 100))
def test_quotients_never_round_above_m(epsilon, delta, size):
    m = gaussian_m(epsilon, delta)
    assert admitted_sensitivity(size, epsilon, delta) / size <= m
    assert size / calibrate_sigma(size, epsilon, delta) <= m
    assert admitted_sensitivity(size, epsilon, delta) == pytest.approx(m * size, rel=1e-12)


COMPOSED = [(m, draws) for m in (0.05, 0.5, 2.0) for draws in (1, 2, 7)]
EPSILONS = (0.1, 0.5, 1.0, 3.0)


@pytest.fixture(scope="module")
def composed_oracle():
    """Numerical composition of privacy losses, rounded up and rounded down: the truth lies between."""
    code = (
        "import json, sys\n"
        "from dp_accounting.pld import privacy_loss_distribution as pld\n"
        "grid, epsilons = json.loads(sys.argv[1])\n"
        "def both(m, n):\n"
        "    return [pld.from_gaussian_mechanism(1 / m, value_discretization_interval=1e-3,\n"
        "            pessimistic_estimate=p).self_compose(n) for p in (False, True)]\n"
        "print(json.dumps([[([float(x.get_delta_for_epsilon(e)) for e in epsilons],\n"
        "    float(x.get_epsilon_for_delta(1e-4))) for x in both(m, n)] for m, n in grid]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([COMPOSED, EPSILONS])],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(COMPOSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("m", "draws"), COMPOSED)
def test_composition_agrees_with_numerical_accounting(m, draws, composed_oracle):
    (low_deltas, low_epsilon), (high_deltas, high_epsilon) = composed_oracle[m, draws]
    composed, epsilon = composed_epsilon(m, draws, 1e-4)
    assert low_epsilon * (1 - 1e-6) - 1e-6 <= epsilon <= high_epsilon * (1 + 1e-6) + 1e-6
    for stated, low, high in zip(
        [gaussian_delta(e, composed) for e in EPSILONS], low_deltas, high_deltas, strict=True
    ):
        assert low * (1 - 1e-6) - 1e-12 <= stated <= high * (1 + 1e-6) + 1e-12
    assert high_epsilon - low_epsilon < 0.02 * draws
