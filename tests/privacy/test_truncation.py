"""The observer who asks whether the gates would have refused a model: what holds of a release that gates truncate.

A Gaussian mechanism on the line, W ~ N(m, 1), its reference Q = N(0, 1), and a gate that refuses models which lie too
far on the person's side, or on both. Every probability is an integral over intervals, none is sampled.
"""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from expunge.gates.contradiction import lowest_epsilon
from expunge.gates.membership import alarms, membership
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.truncation import exchanged_delta, refusal_level

M, EPSILON = 0.5, 1.0
DELTA = gaussian_delta(EPSILON, M)
ALPHA = 0.05  # how often the gate refuses the reference
EDGE = math.inf
# What passes, and where the gate is two-sided.
GATES = {
    "one side": [(-EDGE, norm.isf(ALPHA))],
    "both sides": [(-norm.isf(ALPHA / 2), norm.isf(ALPHA / 2))],
    "the other side": [(norm.ppf(ALPHA), EDGE)],
    "two windows": [(-EDGE, 0.5), (norm.isf(norm.sf(0.5) - ALPHA), EDGE)],
}


def mass(intervals, mean):
    return sum(norm.cdf(high - mean) - norm.cdf(low - mean) for low, high in intervals)


def inside(intervals, low, high):
    return any(a <= low and high <= b for a, b in intervals)


def worst(p_of, q_of, passes, epsilon=EPSILON):
    """``sup over T of p(T) - e^epsilon q(T)``, exactly: the sum over the intervals where it is positive.

    ``p_of`` and ``q_of`` are (mean, truncated): a density is that of N(mean, 1), and 0 where the gate refuses if it is
    truncated. Between two ends no sign changes, because the log-ratio of two Gaussians is linear.
    """
    (p_mean, p_cut), (q_mean, q_cut) = p_of, q_of
    crossing = (epsilon + (p_mean**2 - q_mean**2) / 2) / (p_mean - q_mean)
    ends = sorted({-EDGE, EDGE, crossing, *(end for interval in passes for end in interval)})
    total = 0.0
    for low, high in pairwise(ends):
        allowed = inside(passes, low, high)
        p = mass([(low, high)], p_mean) if allowed or not p_cut else 0.0
        q = mass([(low, high)], q_mean) if allowed or not q_cut else 0.0
        total += max(0.0, p - math.exp(epsilon) * q)
    return total


DRAWN, RELEASED, REFERENCE = (M, False), (M, True), (0.0, False)


def test_before_the_gates_it_holds_both_ways_and_exactly():
    assert worst(DRAWN, REFERENCE, []) == pytest.approx(DELTA)
    assert worst(REFERENCE, DRAWN, []) == pytest.approx(DELTA)


@pytest.mark.parametrize("passes", GATES.values(), ids=GATES)
def test_both_ways_is_false_of_what_is_released(passes):
    """T = {the gate would fail}: nothing is released there, and the reference falls into it with probability alpha."""
    refused = 1 - mass(passes, 0.0)
    assert refused == pytest.approx(ALPHA)
    released_there = 0.0
    assert refused > math.exp(EPSILON) * released_there + DELTA
    assert worst(REFERENCE, RELEASED, passes) > DELTA


@pytest.mark.parametrize("passes", GATES.values(), ids=GATES)
def test_released_and_recognised_is_bounded_whatever_the_gate(passes):
    assert worst(RELEASED, REFERENCE, passes) <= DELTA * (1 + 1e-12)
    narrow = [(M, M + 1e-3)]  # a gate that refuses nearly all
    assert worst(RELEASED, REFERENCE, narrow) <= DELTA


@pytest.mark.parametrize("passes", GATES.values(), ids=GATES)
def test_exchanged_it_holds_with_what_the_gate_refuses_of_the_reference(passes):
    """And no smaller figure would do: at T = {refused} the whole of alpha is missing."""
    found = worst(REFERENCE, RELEASED, passes)
    assert ALPHA - 1e-12 <= found <= exchanged_delta(DELTA, ALPHA)


def test_given_that_it_was_released_the_bound_is_divided_by_how_probable_that_was():
    """A gate that refuses nearly all: whoever knows that it passed knows where it lies."""
    passes = [(2.0, EDGE)]
    passed, false_alarm = mass(passes, M), mass(passes, 0.0)
    given = passed / passed  # P[in T | passed] at T = {passes}
    assert given > math.exp(EPSILON) * false_alarm + DELTA
    assert given <= (math.exp(EPSILON) * false_alarm + DELTA) / passed


@pytest.mark.parametrize("passes", GATES.values(), ids=GATES)
def test_the_next_mechanism_and_retraining_keep_each_its_own_bound(passes):
    """Gate fails, so another mechanism draws, then retraining: by each, released and in T is no more than its bound.

    Draws are independent of one another, so that the probability of a mechanism's turn is a factor of at most 1.
    """
    second_m = 0.3
    second_delta = gaussian_delta(EPSILON, second_m)
    turn = 1 - mass(passes, M)
    assert turn * worst((second_m, True), REFERENCE, passes) <= second_delta
    last = turn * (1 - mass(passes, second_m))
    everything = mass(passes, M) + turn * mass(passes, second_m) + last
    assert everything == pytest.approx(1)
    # given its turn, and exchanged
    assert worst(REFERENCE, (second_m, True), passes) <= exchanged_delta(second_delta, ALPHA)
    # without "given its turn" nothing holds in that direction: the first mechanism's release is not the second's
    assert mass(passes, 0.0) > math.exp(EPSILON) * turn * mass(passes, second_m) + second_delta + ALPHA


def test_a_simulation_agrees():
    """The same with a generator: 200,000 releases of the pipeline, beside the integral."""
    rng, passes = np.random.default_rng(0), GATES["one side"]
    drawn = rng.normal(M, 1, 200_000)
    passed = drawn[drawn <= passes[0][1]]
    top = brentq(lambda w: norm.pdf(w, M) / norm.pdf(w) - math.exp(EPSILON), 0, 10)
    frequency = (passed > top).sum() / len(drawn)
    integral = mass([(top, passes[0][1])], M) if top < passes[0][1] else 0.0
    assert frequency == pytest.approx(integral, abs=4 * math.sqrt(0.25 / len(drawn)))
    assert frequency <= math.exp(EPSILON) * norm.sf(top) + DELTA


@pytest.mark.parametrize(
    ("false_alarm", "confidence", "epsilon"), [(0.1, 0.9, 0.05), (0.02, 0.6, 0.05), (0.3, 0.95, 1.0)]
)
def test_the_real_gate_refuses_the_reference_no_more_often_than_stated(false_alarm, confidence, epsilon):
    """Over all 364 labellings of three of fourteen people who are alike, its contradiction included."""
    people, scores, gates, delta = 14, np.arange(14.0) ** 2, 2, 1e-6
    refused = runs = 0
    for chosen in combinations(range(people), 3):
        forgotten = np.isin(np.arange(people), chosen)
        found = membership(
            scores, np.zeros(people, dtype=np.int64), [str(n) for n in range(people)], forgotten
        )
        bound = lowest_epsilon(min(1.0, found.p_value * gates), delta, confidence) or 0.0
        refused += alarms(found, level=false_alarm / gates, margin=0.1) or bound > epsilon
        runs += 1
    # one gate of two: each has half of the level
    assert refused / runs <= refusal_level(false_alarm, epsilon, delta, confidence) / gates
    assert refused > 0 or false_alarm / gates < 2 / 364


def test_figures_are_rounded_up():
    assert exchanged_delta(1e-6, 1e-3) > 1e-6 + 1e-3 - 1e-18
    assert exchanged_delta(0.9, 0.4) == 1.0
    assert refusal_level(1e-6, 0.0, 0.0, 0.9999) == pytest.approx(1e-4)
