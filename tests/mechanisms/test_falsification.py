"""Mechanism and reference run thousands of times: no attack may prove more than is certified, and mutants are caught.

Scores are the optimal attacker's, ``<w, w_hat - w_ref>``; pairs are the worst that the bound allows, so that a bound
which is too small by a half shows. Training after the noise is post-processing and is left out: it can only hide.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import expunge.mechanisms.newton as newton_module
import expunge.mechanisms.noisy_finetune as finetune_module
import expunge.mechanisms.output_perturbation as output_module
import expunge.models.training as training_module
from expunge.attacks.empirical_epsilon import epsilon_lower_bound
from expunge.curvature.newton_cg import ConvexSolution
from expunge.mechanisms.contract import Context, Problem, Unlearned
from expunge.mechanisms.convex import Convex, certified_bound
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.release import release
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.gaussian import calibrate_sigma, gaussian_delta, gaussian_epsilon
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Params, Policy
from tests.oracles import softmax_problem

RUNS = 4000
MANY = 150_000
EPSILON, DELTA = 1.0, 0.02  # m = 0.9 or so: what thousands of runs can resolve
WIDTH = 3


def spec_of(model, **training):
    hyperparameters = {} if model == "softmax" else {"hidden": [3], "activation": "tanh"}
    params = Params.model_validate(
        {
            "model": {"name": model, "hyperparameters": hyperparameters},
            "training": {"epochs": 3, "batch_size": 16, **training},
        }
    )
    return ModelSpec.from_params(params, in_features=WIDTH, classes=2)


def problem_of(spec, policy, start, forget=4):
    features, labels = softmax_problem(0, n=30, width=WIDTH)
    context = Context(spec, Policy.model_validate(policy), build(spec).size, training_seconds=1.0)
    return Problem(context, features[forget:], labels[forget:], start)


def released(mechanism, problem, unlearned, runs=RUNS):
    """Weights of many releases, each from a stream of its own: shape (runs, d)."""
    calibration = mechanism.calibrate(problem.context)
    draws = [
        mechanism.perturb(problem, unlearned, calibration, GaussianNoise(index.to_bytes(32, "little")))
        for index in np.random.default_rng(len(unlearned.weights)).integers(2**63, size=runs).tolist()
    ]
    return torch.stack(draws)


def many(mechanism, problem, unlearned, key, runs=MANY):
    """As many releases from one stream: noise is independent from coordinate to coordinate. Shape (runs, d).

    Only where nothing after the noise looks at a whole vector.
    """
    tiled = replace(unlearned, weights=unlearned.weights.repeat(runs))
    calibration = mechanism.calibrate(problem.context)
    noised = mechanism.perturb(problem, tiled, calibration, GaussianNoise(bytes([key]) * 32))
    return noised.view(runs, -1)


def proved(mechanism, problem, ours, theirs, direction=None, delta=DELTA):
    """What the optimal attacker proves of very many releases."""
    direction = ours.weights - theirs.weights if direction is None else direction
    samples = [many(mechanism, problem, side, key) @ direction for key, side in ((1, ours), (2, theirs))]
    return epsilon_lower_bound(*samples, delta)


def attack(mechanism, reference, direction, delta):
    """What the optimal attacker proves; the two samples' streams are independent."""
    half = len(mechanism) // 2
    return epsilon_lower_bound(mechanism[:half] @ direction, reference[half:] @ direction, delta)


def attacked(mechanism, problem, ours, theirs, direction=None, runs=RUNS, delta=DELTA):
    direction = ours.weights - theirs.weights if direction is None else direction
    # one half of the streams serves each side, so that no noise is shared
    return attack(
        released(mechanism, problem, ours, 2 * runs),
        released(mechanism, problem, theirs, 2 * runs),
        direction,
        delta,
    )


@pytest.fixture
def no_recovery(monkeypatch):
    for module in (output_module, finetune_module):
        monkeypatch.setattr(module, "recover", lambda problem, noised: noised)


# the helper itself


def test_a_gaussian_pair_is_bounded_from_below_and_nearly_reached():
    rng = np.random.default_rng(1)
    m, delta = 2.0, 0.01
    true = gaussian_epsilon(delta, m)
    found = epsilon_lower_bound(rng.normal(m, 1, 200_000), rng.normal(0, 1, 200_000), delta)
    assert 0.5 * true < found <= true
    assert epsilon_lower_bound(rng.normal(0, 1, 20_000), rng.normal(0, 1, 20_000), delta) < 0.05


def test_equal_samples_prove_nothing_however_often_one_looks():
    rng = np.random.default_rng(2)
    assert all(
        epsilon_lower_bound(rng.normal(size=400), rng.normal(size=400), 1e-3) == 0.0 for _ in range(10)
    )


# convex


def convex_pair(tolerance=1e-3, times=1.0):
    """Two points at opposite ends of the tolerance: shifting all biases changes the l2 term alone."""
    l2 = 0.1
    spec = spec_of("softmax", l2=l2, gradient_tolerance=tolerance)
    sigma = calibrate_sigma(certified_bound(spec), EPSILON, DELTA) * (1 + 1e-9)
    policy = {"release": {"epsilon": EPSILON, "delta": DELTA, "sigma": sigma}}
    fresh = problem_of(spec, policy, None)
    minimum = train(replace(spec, gradient_tolerance=1e-12), fresh.features, fresh.labels).weights
    direction = torch.zeros_like(minimum)
    direction[-2:] = 0.5**0.5
    reach = times * tolerance / l2 * (1 - 1e-6)
    return [replace(fresh, start=minimum + side * reach * direction) for side in (1, -1)]


def test_convex_holds_at_the_ends_of_the_tolerance():
    one, other = convex_pair()
    ours, theirs = Convex().unlearn(one), Convex().unlearn(other)
    bound = certified_bound(one.context.spec)
    distance = float((ours.weights - theirs.weights).norm())
    assert 0.99 * bound < distance <= min(ours.error_bound, bound)
    record = release(Convex(), one, ours, draws=1).record
    assert 0.5 * EPSILON < proved(Convex(), one, ours, theirs) <= record.epsilon


def test_convex_with_half_the_bound_is_caught():
    one, other = convex_pair()
    ours, theirs = Convex().unlearn(one), Convex().unlearn(other)

    class Halved(Convex):
        def calibrate(self, context):
            true = super().calibrate(context)
            return replace(true, error_bound=true.error_bound / 2, sigma=true.sigma / 2)

    assert Halved().calibrate(one.context).composed(1)[1] <= EPSILON
    assert proved(Halved(), one, ours, theirs) > EPSILON


def test_convex_that_claims_a_tolerance_it_did_not_reach_is_caught(monkeypatch):
    pair = convex_pair(times=100)

    def claimed(objective, start, *, tolerance, **_):
        return ConvexSolution(start.clone(), "converged", tolerance, 0.0, True, 0)

    monkeypatch.setattr(training_module, "minimize", claimed)
    ours, theirs = (Convex().unlearn(problem) for problem in pair)
    assert proved(Convex(), pair[0], ours, theirs) > 2 * EPSILON


def test_rows_split_over_two_requests_are_caught():
    """Trap: the release between the two requests still contains the later row."""
    one, _ = convex_pair()
    between = Convex().unlearn(replace(problem_of(one.context.spec, {}, None, forget=3), context=one.context))
    without = Convex().unlearn(replace(one, start=None))
    assert proved(Convex(), one, between, without) > EPSILON


# newton


def newton_problem(start_scale=1.0):
    norm_bound = 1.0
    spec = spec_of("mlp", norm_bound=norm_bound)
    sigma = calibrate_sigma(2 * norm_bound, EPSILON, DELTA) * (1 + 1e-9)
    policy = {
        "release": {"epsilon": EPSILON, "delta": DELTA, "sigma": sigma},
        "newton": {"damping": 50.0, "solver": "exact"},
    }
    trained = train(spec, *softmax_problem(0, n=30, width=WIDTH)).weights
    return problem_of(spec, policy, start_scale * trained)


def as_reference(problem, weights):
    return Unlearned(weights, problem.start, 0.0, "ball")


@pytest.mark.parametrize("opposite", [False, True])
def test_newton_holds_against_its_reference_and_any_point_of_the_ball(opposite, monkeypatch):
    problem = newton_problem()
    done = Newton().unlearn(problem)
    retrained = train(problem.context.spec, problem.features, problem.labels).weights
    reference = -done.weights / done.weights.norm() if opposite else retrained
    found = attacked(Newton(), problem, done, as_reference(problem, reference))
    assert found <= release(Newton(), problem, done, draws=1).record.epsilon
    # the noise itself, before the projection that can only hide
    monkeypatch.setattr(newton_module, "project", lambda weights, norm_bound: weights)
    found = proved(Newton(), problem, done, as_reference(problem, reference))
    assert found <= EPSILON
    if opposite:
        distance = float((done.weights - reference).norm())
        certified = gaussian_epsilon(DELTA, distance / Newton().calibrate(problem.context).sigma)
        assert 0.5 * certified < found <= certified


def test_newton_that_does_not_project_is_caught(monkeypatch):
    problem = newton_problem(start_scale=20.0)
    retrained = train(problem.context.spec, problem.features, problem.labels).weights
    monkeypatch.setattr(newton_module, "project", lambda weights, norm_bound: weights)
    done = Newton().unlearn(problem)
    assert done.error_bound == 2.0  # the mutant still claims the ball
    assert attacked(Newton(), problem, done, as_reference(problem, retrained)) > 2 * EPSILON


# the unconditional mechanisms


def unconditional_problem(**finetune):
    spec = spec_of("mlp", norm_bound=2.0)
    policy = {
        "unconditional": {"epsilon": EPSILON, "delta": DELTA, "norm_bound": 1.0},
        "noisy_finetune": {"steps": 3, "batch_size": 5, "learning_rate": 0.1, "decay": 2.0, **finetune},
    }
    direction = torch.full((build(spec).size,), build(spec).size ** -0.5, dtype=torch.float64)
    one = problem_of(spec, policy, 5 * direction)
    return one, replace(one, start=-5 * direction), direction


def test_output_perturbation_holds_at_opposite_ends_of_the_ball(no_recovery):
    one, other, direction = unconditional_problem()
    mechanism = OutputPerturbation()
    found = proved(mechanism, one, mechanism.unlearn(one), mechanism.unlearn(other), direction)
    assert 0.5 * EPSILON < found <= release(mechanism, one, mechanism.unlearn(one), draws=1).record.epsilon


def test_output_perturbation_without_clipping_is_caught(no_recovery, monkeypatch):
    one, other, direction = unconditional_problem()
    mechanism = OutputPerturbation()
    monkeypatch.setattr(output_module, "project", lambda weights, norm_bound: weights)
    found = proved(mechanism, one, mechanism.unlearn(one), mechanism.unlearn(other), direction)
    assert found > 2 * EPSILON


def finetuned(monkeypatch, form, mechanism=None, runs=600):
    """Worst case: one loss whose gradient drives every point away from the middle, the same on both sides."""
    mechanism = mechanism or NoisyFinetune()
    one, other, direction = unconditional_problem(form=form)

    def away(_network, _linearize, weights, *_):
        return -100.0 * torch.sign(weights @ direction) * direction

    monkeypatch.setattr(finetune_module, "_gradient", away)
    samples = [released(mechanism, problem, mechanism.unlearn(problem), 2 * runs) for problem in (one, other)]
    return attack(*samples, direction, DELTA), release(mechanism, one, mechanism.unlearn(one), draws=1).record


@pytest.mark.parametrize("form", ["gradient-clipping", "model-clipping"])
def test_noisy_finetuning_holds_against_the_worst_gradients(no_recovery, monkeypatch, form):
    found, record = finetuned(monkeypatch, form, runs=1200)
    assert record.epsilon == EPSILON
    assert found <= EPSILON


@pytest.mark.parametrize("form", ["gradient-clipping", "model-clipping"])
def test_noisy_finetuning_that_does_not_clip_is_caught(no_recovery, monkeypatch, form):
    monkeypatch.setattr(finetune_module, "project", lambda weights, norm_bound: weights)
    assert finetuned(monkeypatch, form)[0] > 2 * EPSILON


def test_noisy_finetuning_with_a_third_of_the_noise_is_caught(no_recovery, monkeypatch):
    class Weak(NoisyFinetune):
        def calibrate(self, context):
            true = super().calibrate(context)
            return replace(true, error_bound=true.error_bound / 3, sigma=true.sigma / 3)

    assert finetuned(monkeypatch, "gradient-clipping", Weak(), runs=1200)[0] > EPSILON


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gradient-clipping", "model-clipping"])
def test_noisy_finetuning_holds_with_its_own_gradients(no_recovery, form):
    one, other, direction = unconditional_problem(form=form)
    mechanism = NoisyFinetune()
    found = attacked(mechanism, one, mechanism.unlearn(one), mechanism.unlearn(other), direction, runs=2000)
    assert found <= EPSILON


# noise


def test_redrawing_until_a_gate_passes_is_caught():
    """Trap: gate |w| >= 2, m = 0.5, epsilon = 1: claimed delta 0.0068, true 0.269."""
    claimed = gaussian_delta(1.0, 0.5)
    drawn = [mean + GaussianNoise(bytes([key]) * 32).draw(400_000, 1.0) for key, mean in ((1, 0.5), (2, 0.0))]
    assert epsilon_lower_bound(*drawn, claimed) <= 1.0
    gated = [sample[np.abs(sample) >= 2] for sample in drawn]
    assert epsilon_lower_bound(*gated, claimed) > 1.0
    p, q = (float((sample >= 2).mean()) for sample in gated)
    assert p - np.e * q <= 0.269 + 0.02
    # the mirrored event reaches the true delta
    below = [float((sample <= -2).mean()) for sample in gated]
    assert max(p - np.e * q, below[1] - np.e * below[0]) == pytest.approx(0.269, abs=0.02)


def test_kept_curvature_as_a_secret_state_is_caught():
    """Trap: an unconverged solve remembers the factor it was preconditioned with, release after release.

    Minimising ``a w^2 / 2`` by one step from 1 with a factor h gives ``1 - a/h``: within tau / a of the minimum on
    both sides, but on the side that the factor says.
    """
    curvature, tolerance, sigma, releases = 1.0, 0.1, 1.0, 100
    m = 2 * tolerance / curvature / sigma
    saw, never_saw = curvature / (1 - tolerance), curvature / (1 + tolerance)
    certified = gaussian_epsilon(DELTA, m)

    def lineage(key, factors):
        noise = GaussianNoise(bytes([key]) * 32).draw(RUNS * releases, sigma).reshape(RUNS, releases)
        return (1 - curvature / np.array(factors) + noise).mean(axis=1)

    rebuilt = epsilon_lower_bound(
        lineage(3, [saw] + [never_saw] * (releases - 1)), lineage(4, [never_saw] * releases), DELTA
    )
    assert rebuilt <= certified
    reused = epsilon_lower_bound(lineage(5, [saw] * releases), lineage(6, [never_saw] * releases), DELTA)
    assert reused > max(certified, 0.5)
    assert reused <= gaussian_epsilon(DELTA, m * releases**0.5)  # counted as secret state it is covered


def test_the_common_generator_repeats_itself_and_ours_does_not():
    """Trap: torch.manual_seed keys 32 bits on the CPU."""
    common = [torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32)]
    assert torch.equal(*common)
    ours = [GaussianNoise(seed.to_bytes(32, "little")).draw(4, 1.0) for seed in (5, 5 + 2**32)]
    assert not np.array_equal(*ours)
