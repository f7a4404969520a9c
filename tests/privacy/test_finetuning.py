"""Noisy steps: the account against sums written out, and against worst cases whose distributions are known."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import InputError
from expunge.privacy.finetuning import (
    gradient_clipping_m,
    gradient_clipping_sensitivity,
    gradient_clipping_sigma,
    grid_shift,
    model_clipping_delta,
    model_clipping_sigma,
    model_clipping_total,
)
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.noise import FINE_GRID, rounding_m

STEPS = {
    "norm_bound": st.floats(0, 50),
    "clip": st.floats(0, 20),
    "learning_rate": st.floats(1e-3, 1),
    "fraction": st.floats(0, 0.999),
    "steps": st.integers(1, 40),
}


def constants(learning_rate, fraction, **rest):
    return {**rest, "learning_rate": learning_rate, "decay": fraction / learning_rate * (1 - 1e-12)}


def figure_after(steps, *, norm_bound, clip, learning_rate, decay):
    """M times sigma after exactly this many steps, sums written out."""
    c = 1 - learning_rate * decay
    shift = sum(2 * learning_rate * clip * c ** (steps - 1 - t) for t in range(steps))
    variance = sum(c ** (2 * (steps - 1 - t)) for t in range(steps))
    return (c**steps * 2 * norm_bound + shift) / math.sqrt(variance)


@given(**STEPS)
def test_least_over_all_numbers_of_steps(**drawn):
    given_ = constants(**drawn)
    steps = given_.pop("steps")
    expected = min(figure_after(t, **given_) for t in range(1, steps + 1))
    got = gradient_clipping_sensitivity(**given_, steps=steps)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_more_steps_can_be_worse_and_the_least_is_reported():
    given_ = {"norm_bound": 1.0, "clip": 5.0, "learning_rate": 1.0, "decay": 0.0}
    single = [figure_after(t, **given_) for t in range(1, 6)]
    assert single[-1] > single[0]
    assert gradient_clipping_sensitivity(**given_, steps=5) == pytest.approx(min(single))


@given(**STEPS)
def test_monotone(**drawn):
    given_ = constants(**drawn)
    base = gradient_clipping_sensitivity(**given_) * (1 - 1e-12)
    for name in ("norm_bound", "clip"):
        assert gradient_clipping_sensitivity(**{**given_, name: 2 * given_[name]}) >= base
    assert gradient_clipping_sensitivity(**{**given_, "steps": given_["steps"] + 1}) * (1 - 1e-12) <= base / (
        1 - 1e-12
    )


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_without_gradient_and_decay_noise_alone_hides_the_start(steps):
    got = gradient_clipping_sensitivity(norm_bound=3.0, clip=0, learning_rate=0.1, decay=0, steps=steps)
    assert got == pytest.approx(6.0 / math.sqrt(steps))


@pytest.mark.parametrize("decay", [10.0, 15.0, math.inf, math.nan, -1.0])
def test_gamma_kappa_of_one_or_more_is_refused(decay):
    """Trap: above one the formula would give a negative m."""
    with pytest.raises(InputError, match="decay"):
        gradient_clipping_sensitivity(norm_bound=1, clip=1, learning_rate=0.1, decay=decay, steps=3)
    assert figure_after(3, norm_bound=1, clip=0, learning_rate=0.1, decay=15.0) < 0


@given(**STEPS, sigma=st.floats(0.1, 10))
def test_not_below_the_one_dimensional_worst_case(sigma, **drawn):
    """From +C0 and -C0 with constant opposite gradients both processes are Gaussian: their m is exact."""
    given_ = constants(**drawn)
    c = 1 - given_["learning_rate"] * given_["decay"]
    above, below, variance, smallest = given_["norm_bound"], -given_["norm_bound"], 0.0, math.inf
    for _ in range(given_["steps"]):
        above = c * above + given_["learning_rate"] * given_["clip"]
        below = c * below - given_["learning_rate"] * given_["clip"]
        variance = c * c * variance + sigma**2
        smallest = min(smallest, (above - below) / math.sqrt(variance))
    final = (above - below) / math.sqrt(variance)
    certified = gradient_clipping_sensitivity(**given_) / sigma
    assert certified <= final * (1 + 1e-9)  # the least T' is at most the last
    assert certified == pytest.approx(smallest, rel=1e-9, abs=1e-300)
    if smallest == final:
        assert certified == pytest.approx(final, rel=1e-9, abs=1e-300)


def test_model_clipping_known_answers():
    got = [model_clipping_delta(1.0, norm_bound=1.0, sigma=1.0, steps=t) for t in range(1, 6)]
    assert got == pytest.approx([0.50986, 0.21603, 0.06486, 0.00955, 0.00025], abs=6e-6)


@given(st.floats(0.01, 5), st.floats(1e-8, 0.3), st.floats(0.1, 20), st.integers(1, 20))
def test_sigma_inverts_delta_on_the_safe_side(epsilon, delta, norm_bound, steps):
    given_ = {"size": 1000, "norm_bound": norm_bound, "steps": steps}
    sigma = model_clipping_sigma(epsilon, delta, **given_)
    assert model_clipping_total(epsilon, delta, sigma=sigma, **given_) <= delta
    assert model_clipping_delta(epsilon, norm_bound=norm_bound, sigma=sigma, steps=steps) <= delta
    assert model_clipping_total(epsilon, delta, sigma=sigma * (1 - 1e-6), **given_) > delta


@given(st.floats(0.05, 5), st.integers(1, 10**7), st.integers(1, 60), st.floats(0, 0.9))
def test_gradient_clipping_sigma_meets_m_with_rounding(m, size, steps, decay):
    given_ = {
        "size": size,
        "norm_bound": 1.0,
        "clip": 0.1,
        "learning_rate": 1.0,
        "decay": decay,
        "steps": steps,
    }
    try:
        sigma = gradient_clipping_sigma(m, **given_)
    except InputError:  # rounding alone takes m
        assert rounding_m(size * steps, FINE_GRID) + 1e-9 > m - grid_shift(size, 1.0) * steps
        return
    ideal = {name: value for name, value in given_.items() if name != "size"}
    assert gradient_clipping_m(sigma, **given_) <= m
    assert gradient_clipping_sensitivity(**ideal) / sigma < m  # more noise than real numbers would need
    assert gradient_clipping_m(sigma * (1 - 1e-6), **given_) > m


@given(st.floats(0, 5), st.floats(0.1, 5), st.floats(0.1, 5), st.integers(1, 15))
def test_model_clipping_is_monotone_and_one_step_is_the_gaussian_mechanism(epsilon, norm_bound, sigma, steps):
    def figure(e=epsilon, c=norm_bound, s=sigma, t=steps):
        return model_clipping_delta(e, norm_bound=c, sigma=s, steps=t)

    slack = 1 + 1e-9
    assert 0 <= figure() <= 1
    assert figure(t=steps + 1) <= figure() * slack
    assert figure(e=epsilon + 0.1) <= figure() * slack
    assert figure(s=sigma * 1.1) <= figure() * slack
    assert figure(c=norm_bound * 1.1) * slack >= figure()
    assert figure(t=1) == pytest.approx(gaussian_delta(epsilon, 2 * norm_bound / sigma))


def test_huge_epsilon_does_not_overflow():
    just_below, just_above = (
        model_clipping_delta(e, norm_bound=20.0, sigma=1.0, steps=3) for e in (699.999, 700.001)
    )
    assert just_above == pytest.approx(just_below, rel=0.05)
    assert model_clipping_delta(1e9, norm_bound=1.0, sigma=1.0, steps=3) == 0.0
