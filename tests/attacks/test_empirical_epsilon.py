"""Lower bounds on epsilon: sound mechanisms are not accused, broken ones are."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from expunge.attacks.empirical_epsilon import (
    EmpiricalEpsilon,
    contradicts,
    epsilon_from_rates,
    epsilon_lower_bound,
    one_run_epsilon,
    one_run_p_value,
)
from expunge.attacks.intervals import clopper_pearson
from expunge.errors import InputError
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex, certified_bound
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Policy
from tests.attacks.problems import records, spec_of

DELTA = 0.02
RUNS = 40_000


@pytest.fixture(scope="module")
def tiny():
    """A head whose noise is just what its bound needs, and the worst two weights that the bound allows."""
    spec = spec_of("softmax", width=3, gradient_tolerance=1e-6, rounding_allowance=1e-9, l2=0.1)
    features, labels = records(40, 5, width=3)
    release = {"epsilon": 1.0, "delta": DELTA}
    sigma = certified_bound(spec) / 0.9
    policy = Policy.model_validate({"release": {**release, "sigma": sigma}})
    retrained = train(spec, features[4:], labels[4:]).weights
    context = Context(spec, policy, build(spec).size, training_seconds=1.0)
    problem = Problem(context, features[4:], labels[4:], retrained)
    direction = torch.zeros_like(retrained)
    direction[0] = context.allowed_error
    return problem, retrained, direction


@pytest.mark.parametrize(("share", "caught"), [(1.0, False), (0.5, True), (0.0, True)])
def test_missing_noise_is_caught_and_the_sound_mechanism_is_not(tiny, share, caught):
    """All of the calibrated noise, half of it, none (but a float's worth, so that scores differ)."""
    problem, retrained, direction = tiny
    calibration = Convex().calibrate(problem.context)
    unit = direction / direction.norm()
    sigma = max(share * calibration.sigma, 1e-9 * calibration.sigma)
    scores = []
    for key, weights in ((1, retrained + direction), (2, retrained)):
        noised = GaussianNoise(bytes([key]) * 32).add(weights.repeat(RUNS).numpy(), sigma, calibration.grid)
        scores.append(torch.from_numpy(noised).view(RUNS, -1) @ unit)
    lower = epsilon_lower_bound(*scores, calibration.delta)
    assert contradicts(calibration.epsilon, lower) is caught
    assert EmpiricalEpsilon(lower, DELTA, 1 - 1e-6, "runs", calibration.epsilon).contradicts is caught
    if not caught:
        assert lower > 0.3 * calibration.epsilon  # the attack works: it nearly reaches what is certified


def test_rates_at_a_fixed_threshold_are_those_of_the_formula():
    k, n = 700, 1000
    low, high = clopper_pearson(k, n, 0.05 / 4)[0], clopper_pearson(200, n, 0.05 / 4)[1]
    assert epsilon_from_rates(k, n, 200, n, 0.01, failure=0.05) == pytest.approx(
        math.log((low - 0.01) / high)
    )
    assert epsilon_from_rates(500, 1000, 500, 1000, 0.0, failure=0.05) == 0.0
    mirrored = epsilon_from_rates(300, 1000, 800, 1000, 0.0, failure=0.05)
    assert mirrored == 0.0  # a threshold on the wrong side proves nothing
    assert epsilon_from_rates(1000, 1000, 400, 1000, 0.0, failure=0.05) > 3  # by what is below the threshold


@pytest.mark.parametrize("bound", ["rates", "search"])
def test_bounds_are_wrong_no_more_often_than_they_say(bound):
    """Randomised response with epsilon 1, whose optimal attack is known."""
    rng, truth, failure, wrong = np.random.default_rng(3), 1.0, 0.1, 0
    p = math.exp(truth) / (1 + math.exp(truth))
    runs = 200
    for _ in range(runs):
        if bound == "rates":
            k, j = rng.binomial(300, p), rng.binomial(300, 1 - p)
            wrong += epsilon_from_rates(int(k), 300, int(j), 300, 0.0, failure=failure) > truth
        else:
            samples = rng.random((2, 300)) < np.array([[p], [1 - p]])
            jitter = 0.5 * rng.random((2, 300))
            wrong += epsilon_lower_bound(*(samples + jitter), 0.0, failure=failure) > truth
    assert wrong / runs <= failure + 3 * math.sqrt(failure * (1 - failure) / runs)


def test_one_run_without_delta_is_the_binomial_tail():
    found = one_run_p_value(200, 100, 80, [0.0, 1.0, 2.0], 0.0)
    expected = [binom.sf(79, 100, 1 / (1 + math.exp(-e))) for e in (0.0, 1.0, 2.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    all_right = one_run_epsilon(100, 100, 100, 0.0)
    accuracy = 0.05 ** (1 / 100)
    assert all_right == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=0.011)
    assert one_run_epsilon(100, 100, 50, 0.0) == 0.0
    with pytest.raises(InputError, match="guesses"):
        one_run_epsilon(10, 11, 3, 0.0)


def test_one_run_with_delta_sums_as_the_theorem_says():
    m, r, v, epsilon, delta = 60, 40, 34, 1.0, 1e-3
    w = binom(r, 1 / (1 + math.exp(-epsilon)))
    worst = max(sum(w.pmf(k) for k in range(max(0, v - i), v)) / i for i in range(1, m + 1))
    expected = sum(w.pmf(k) for k in range(v, r + 1)) + 2 * m * delta * worst
    assert one_run_p_value(m, r, v, epsilon, delta)[0] == pytest.approx(expected, rel=1e-9)
    assert one_run_epsilon(m, r, v, 0.05) <= one_run_epsilon(m, r, v, delta) <= one_run_epsilon(m, r, v, 0.0)


def test_one_run_is_wrong_no_more_often_than_it_says_and_finds_what_is_broken():
    """Each canary's answer is randomised response at epsilon 1; the worst that a private process may give."""
    rng, wrong, runs = np.random.default_rng(4), 0, 300
    p = math.exp(1) / (1 + math.exp(1))
    for correct in rng.binomial(150, p, runs):
        wrong += one_run_epsilon(150, 150, int(correct), 1e-5) > 1.0
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert contradicts(1.0, one_run_epsilon(150, 150, 140, 1e-5))


def test_nothing_claimed_is_not_contradicted():
    assert not contradicts(None, 5.0)
    assert not EmpiricalEpsilon(5.0, DELTA, 0.95, "runs").contradicts
    assert gaussian_epsilon(DELTA, 0.9) < 2
