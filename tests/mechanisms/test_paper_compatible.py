"""The published procedure: its penalty, its recursion, its noise, and that nothing can be certified from it."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from expunge.curvature.flat import FlatModule
from expunge.errors import CertificateRefusedError, InputError
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.paper_compatible import (
    PublishedSettings,
    unlearn_as_published,
    unlearn_sequence_as_published,
    unsquared_gradient,
    unsquared_product,
)
from expunge.mechanisms.planner import MECHANISMS, mechanism_named
from expunge.mechanisms.release import release
from expunge.models.spec import ModelSpec
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Params, Policy
from tests.oracles import softmax_problem

DOCUMENT = Path(__file__).parents[2] / "docs" / "paper-compatible.md"
FEW = PublishedSettings(chains=2, steps=15, batch=4, scale=20.0)


def tiny(dtype=torch.float64):
    torch.manual_seed(0)
    return FlatModule(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), dtype=dtype)


def dense(network, weights, features, labels, penalty):
    """Gradient and Hessian of mean cross entropy plus a penalty of the tensors, by reverse mode twice."""

    def objective(w):
        logits = functional_call(network.module, network.unflatten(w), (features,))
        return cross_entropy(logits, labels) + penalty(list(network.unflatten(w).values()))

    return (
        torch.autograd.functional.jacobian(objective, weights),
        torch.autograd.functional.hessian(objective, weights),
    )


def norms(parts):
    return sum(torch.norm(part, p=2) for part in parts)


def half_squares(parts):
    return sum(part.square().sum() for part in parts) / 2


PENALTIES = {True: norms, False: half_squares}


def test_unsquared_penalty_is_not_a_multiple_of_the_identity():
    network = tiny()
    w = network.initial()

    def penalty(vector):
        return norms(list(network.unflatten(vector).values()))

    expected = torch.autograd.functional.hessian(penalty, w)
    identity = torch.eye(network.size, dtype=torch.float64)
    shift = unsquared_product(network, w, identity)
    torch.testing.assert_close(unsquared_gradient(network, w), torch.autograd.functional.jacobian(penalty, w))
    torch.testing.assert_close(shift, expected)
    # singular along every tensor, so no damping in that direction at all; far from any c * I
    torch.testing.assert_close(shift @ w, torch.zeros_like(w), rtol=0, atol=1e-14)
    nearest = shift.trace() / network.size * identity
    assert (shift - nearest).norm() > 0.3 * shift.norm()
    assert torch.linalg.eigvalsh(shift)[0] < 1e-12 < torch.linalg.eigvalsh(shift)[-1]


def test_tensors_of_zeros_have_no_penalty_instead_of_nan():
    network = tiny()
    zeros = torch.zeros(network.size, dtype=torch.float64)
    ones = torch.ones_like(zeros)
    torch.testing.assert_close(unsquared_gradient(network, zeros), zeros)
    torch.testing.assert_close(unsquared_product(network, zeros, ones), zeros)


@pytest.mark.parametrize("unsquared", [True, False])
def test_the_recursion_is_the_published_one(unsquared):
    """With equal records every mini-batch is the whole set, so the recursion has one dense answer."""
    network, settings = tiny(), replace(FEW, sigma=0.0, unsquared_penalty=unsquared, steps=12)
    features = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64).expand(6, 3)
    labels = torch.ones(6, dtype=torch.long)
    w, penalty = network.initial(), PENALTIES[unsquared]
    both = settings.weight_decay + settings.damping
    g, _ = dense(network, w, features, labels, lambda p: settings.weight_decay * penalty(p))
    _, a = dense(network, w, features, labels, lambda p: both * penalty(p))
    x = g
    for _ in range(settings.steps):
        x = x + g - a @ x / settings.scale
    result = unlearn_as_published(network, w, features, labels, settings)
    torch.testing.assert_close(result.weights, w - x / settings.scale, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("unsquared", [True, False])
def test_residual_equals_the_dense_one(unsquared):
    network, settings = tiny(), replace(FEW, sigma=0.0, unsquared_penalty=unsquared)
    features, labels = softmax_problem(1, n=20)
    w = network.initial()
    result = unlearn_as_published(network, w, features, labels, settings)
    x, both = w - result.weights, settings.weight_decay + settings.damping
    measured = {
        False: (result.facts.gradient_norm, result.facts.residual),
        unsquared: (result.facts.own_gradient_norm, result.facts.own_residual),
    }
    for kind, (gradient_norm, residual) in measured.items():
        penalty = PENALTIES[kind]
        g, _ = dense(network, w, features, labels, lambda p, f=penalty: settings.weight_decay * f(p))
        _, a = dense(network, w, features, labels, lambda p, f=penalty: both * f(p))
        assert gradient_norm == pytest.approx(float(g.norm()), rel=1e-10)
        assert residual == pytest.approx(float((a @ x - g).norm()), rel=1e-10)
    assert result.facts.relative_residual == result.facts.residual / result.facts.gradient_norm


def test_published_noise_means_epsilon_8e8():
    """The known answer: C = 20, sigma = 0.001, delta = 1e-5."""
    features, labels = softmax_problem(2, n=20)
    network = tiny()
    result = unlearn_as_published(network, network.initial(), features, labels, replace(FEW, scale=1000.0))
    assert result.facts.noiseless_norm < 20
    assert result.facts.sensitivity == 40
    assert result.facts.delta == 1e-5
    assert result.facts.epsilon == pytest.approx(8.0e8, rel=1e-3)


def test_outside_the_ball_the_sensitivity_grows():
    features, labels = softmax_problem(2, n=20)
    network = tiny()
    w = network.initial() * 100
    facts = unlearn_as_published(network, w, features, labels, FEW).facts
    assert facts.noiseless_norm > 20
    assert facts.sensitivity == 20 + facts.noiseless_norm


def test_a_diverging_recursion_is_not_stopped_and_has_no_epsilon():
    features, labels = softmax_problem(3, n=20)
    network = tiny()
    wild = replace(FEW, scale=1e-6, steps=200, sigma=0.001)
    result = unlearn_as_published(network, network.initial(), features, labels, wild)
    assert not torch.isfinite(result.weights).all()
    assert result.facts.epsilon == math.inf


def test_noise_is_ours_and_independent_of_the_seed():
    features, labels = softmax_problem(4, n=20)
    network = tiny()
    w = network.initial()
    quiet = unlearn_as_published(network, w, features, labels, replace(FEW, sigma=0.0), seed=7)
    keyed = unlearn_as_published(
        network, w, features, labels, FEW, seed=7, noise=GaussianNoise(b"k" * 32)
    ).weights
    drawn = torch.from_numpy(GaussianNoise(b"k" * 32).draw(network.size, FEW.sigma))
    torch.testing.assert_close(keyed, quiet.weights + drawn, rtol=0, atol=1e-15)
    twice = [unlearn_as_published(network, w, features, labels, FEW, seed=7).weights for _ in range(2)]
    assert not torch.equal(*twice)


def test_sequence_without_noise_repeats_itself_and_with_noise_does_not():
    features, labels = softmax_problem(5, n=24)
    network = tiny()
    w = network.initial()
    left = [(features[4:], labels[4:]), (features[8:], labels[8:])]
    first, again = (unlearn_sequence_as_published(network, w, left, FEW) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.weights, other.weights)
        assert one.facts.sigma == 0
        assert one.facts.epsilon == math.inf
    second = unlearn_as_published(network, first[0].weights, *left[1], replace(FEW, sigma=0.0), seed=43)
    assert torch.equal(first[1].weights, second.weights)
    noised = unlearn_sequence_as_published(network, w, left, FEW, add_noise_between=True)
    for one, other in zip(first, noised, strict=True):
        assert not torch.equal(one.weights, other.weights)
        assert other.facts.epsilon == pytest.approx(8.0e8, rel=1e-3)


def test_float32_as_published_stays_near_float64():
    features, labels = softmax_problem(6, n=20)
    quiet = replace(FEW, sigma=0.0)
    w = tiny().initial()
    single = unlearn_as_published(tiny(torch.float32), w, features, labels, quiet)
    double = unlearn_as_published(tiny(), w, features, labels, quiet)
    assert single.weights.dtype == torch.float64
    torch.testing.assert_close(single.weights, double.weights, rtol=1e-5, atol=1e-5)
    assert single.facts.residual == pytest.approx(double.facts.residual, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_keeps_the_statistics_of_training(dtype):
    features, labels = softmax_problem(8, n=20)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    module(features)
    statistics = {name: value.clone() for name, value in module.named_buffers()}
    network = FlatModule(module, statistics, dtype=dtype)
    result = unlearn_as_published(network, network.initial(), features, labels, FEW)
    assert torch.isfinite(result.weights).all()
    assert math.isfinite(result.facts.residual)
    for name, value in network.module.named_buffers():
        torch.testing.assert_close(value.double(), statistics[name].double(), rtol=1e-6, atol=1e-6)


def test_it_is_no_mechanism_and_no_release_can_be_made_from_it():
    features, labels = softmax_problem(7, n=20)
    params = Params.model_validate({"model": {"name": "mlp", "hyperparameters": {"hidden": [4]}}})
    spec = ModelSpec.from_params(params, in_features=3, classes=2)
    network = tiny()
    result = unlearn_as_published(network, network.initial(), features, labels, FEW)
    problem = Problem(Context(spec, Policy(), network.size, 1.0), features, labels, network.initial())
    assert not any("paper" in mechanism.name for mechanism in MECHANISMS)
    with pytest.raises(CertificateRefusedError, match="unknown mechanism"):
        mechanism_named("paper-compatible")
    for mechanism in MECHANISMS:
        with pytest.raises(CertificateRefusedError, match="no certificate"):
            release(mechanism, problem, result, draws=1)
    with pytest.raises(CertificateRefusedError, match="no certificate"):
        _ = result.error_bound


def test_wrong_input_is_named_in_full():
    with pytest.raises(InputError, match=r"chains=0, scale=-1\.0, delta=1\.0"):
        PublishedSettings(chains=0, scale=-1.0, delta=1.0)
    with pytest.raises(InputError, match="sigma=nan"):
        PublishedSettings(sigma=math.nan)
    network = tiny()
    with pytest.raises(InputError, match="do not fit"):
        unlearn_as_published(network, torch.zeros(3), torch.ones(2, 3), torch.tensor([0, 1]))


def test_documented_example_runs():
    (code,) = re.findall(
        r"<!-- tested: example -->\n```python\n(.*?)```",
        DOCUMENT.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    names = {}
    exec(compile(code, DOCUMENT.name, "exec"), names)
    assert f"{names['done'].facts.epsilon:.1e}" == "8.0e+08"
    assert all(result.facts.epsilon == math.inf for result in names["sequence"])
