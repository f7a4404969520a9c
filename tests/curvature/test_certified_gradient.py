"""The proved rounding bound against exact arithmetic, on data made to break it."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from expunge.curvature import certified_gradient as module
from expunge.curvature import plain_layers as layers_module
from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.newton_cg import minimize
from expunge.curvature.plain_layers import plain_layers
from expunge.errors import NotConvergedError
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.settings import Params
from tests.curvature.problems import ARCHITECTURES, image_problem, network_of, vector_of

_DIGITS = 60
_ORACLE = 1.001  # 80-bit arithmetic errs a 2,000th of what float64 does


class _Exact:
    """Arithmetic to 60 digits; of whole lists, so that nothing here resembles what is tested."""

    @staticmethod
    def function(layer, x):
        """Value and derivative."""
        if isinstance(layer, nn.Tanh):
            t = mpmath.tanh(x)
            return t, 1 - t * t
        if isinstance(layer, nn.ReLU):
            return (x, mpmath.mpf(1)) if x > 0 else (mpmath.mpf(0), mpmath.mpf(0))
        return x * mpmath.ncdf(x), mpmath.ncdf(x) + x * mpmath.npdf(x)

    @staticmethod
    def list(tensor):
        return [[mpmath.mpf(v) for v in row] for row in tensor.tolist()]

    @classmethod
    def gradient(cls, net, origin, vector, features, labels, l2):
        """Of one record after another, in named parameters' order."""
        named, along = net.unflatten(origin), net.unflatten(vector)
        by_id = {id(p): n for n, p in net.module.named_parameters()}
        leaves = [m for m in net.module.modules() if not list(m.children())]
        total = {name: [[mpmath.mpf(0)] * v.shape[-1] for _ in range(v.shape[0] if v.dim() == 2 else 1)]
                 for name, v in named.items()}  # fmt: skip
        for row, label in zip(cls.list(features), labels.tolist(), strict=True):
            a, da, past = row, [mpmath.mpf(0)] * len(row), []
            for leaf in leaves:
                if isinstance(leaf, nn.Linear):
                    names = [by_id.get(id(p)) if p is not None else None for p in (leaf.weight, leaf.bias)]
                    names = [n if n in named else None for n in names]
                    w = cls.list(named[names[0]] if names[0] else leaf.weight.detach())
                    b = (
                        [mpmath.mpf(0)] * len(w)
                        if leaf.bias is None
                        else cls.list((named[names[1]] if names[1] else leaf.bias.detach())[None])[0]
                    )
                    v = cls.list(along[names[0]]) if names[0] else [[0] * len(a)] * len(w)
                    c = cls.list(along[names[1]][None])[0] if names[1] else [0] * len(w)
                    past.append((names, w, a))
                    h = [mpmath.fdot(r, a) + bias for r, bias in zip(w, b, strict=True)]
                    da = [
                        mpmath.fdot(r, a) + mpmath.fdot(s, da) + shift
                        for r, s, shift in zip(v, w, c, strict=True)
                    ]
                    a = h
                else:
                    pairs = [cls.function(leaf, x) for x in a]
                    past.append([d for _, d in pairs])
                    a = [value for value, _ in pairs]
                    da = [d * t for (_, d), t in zip(pairs, da, strict=True)]
            z = [x + t for x, t in zip(a, da, strict=True)]
            powers = [mpmath.exp(x - max(z)) for x in z]
            r = [p / mpmath.fsum(powers) - (k == label) for k, p in enumerate(powers)]
            for item in reversed(past):
                if isinstance(item, tuple):
                    names, w, before = item
                    for k, residual in enumerate(r):
                        if names[0]:
                            total[names[0]][k] = [
                                t + residual * x for t, x in zip(total[names[0]][k], before, strict=True)
                            ]
                        if names[1]:
                            total[names[1]][0][k] += residual
                    r = [mpmath.fsum(w[k][j] * r[k] for k in range(len(w))) for j in range(len(w[0]))]
                else:
                    r = [d * x for d, x in zip(item, r, strict=True)]
        flat = [x for name in named for line in total[name] for x in line]
        mu = mpmath.mpf(l2)
        return [x / len(labels) + mu * mpmath.mpf(v) for x, v in zip(flat, vector.tolist(), strict=True)]


def _true_error(objective, net, origin, vector, features, labels, l2):
    """Gradient's bound and its distance from the exact one."""
    got = objective.certified_gradient(vector)
    with mpmath.workdps(_DIGITS):
        exact = _Exact.gradient(net, origin, vector, features, labels, l2)
        error = mpmath.sqrt(
            mpmath.fsum((mpmath.mpf(g) - e) ** 2 for g, e in zip(got.gradient.tolist(), exact, strict=True))
        )
    return got, error


def _problem(kind, seed=0):
    """Network, w0, v, records, labels, mu: each made to hurt one step of the evaluation."""
    rng = np.random.default_rng(seed)
    n, width, classes, hidden = 6, 4, 3, 5
    l2 = 1e-3
    net: nn.Module = nn.Linear(width, classes)
    features = rng.normal(size=(n, width))
    scale = 0.3
    if kind in ("collinear columns of 4e4", *BEHIND):
        one = 4e4 * (1 + 0.3 * rng.normal(size=n))
        features = np.stack([one, one * (1 + 1e-5 * rng.normal(size=n))], 1)
        net = nn.Linear(2, classes)
    if kind in BEHIND:
        net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, classes))
        net[0].requires_grad_(kind == "tanh behind cancellation")
    if kind == "cancelling logits":
        features = np.tile([1e9, 1e9, 1.0, 0.0], (n, 1)) * (1 + np.arange(n)[:, None] * 1e-3)
    elif kind == "badly scaled":
        features = features * 10.0 ** np.array([-12, 0, 6, 3])
    elif kind == "huge logits":
        scale = 1e4
    elif kind == "equal logits":
        features[:] = features[0]
    elif kind == "one-hot and zero rows":
        features = np.eye(width)[rng.integers(0, width, n)]
        features[0] = 0
    elif kind == "subnormal":
        features = features * 1e-310
    elif kind in ("tanh", "saturated tanh", "tanh of large columns"):
        net = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, classes))
        features = features * {"tanh": 1, "saturated tanh": 40, "tanh of large columns": 1e3}[kind]
    elif kind == "gelu":
        net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, classes))
    elif kind in ("relu", "relu at its kink", "deep"):
        middle = [nn.Tanh(), nn.Linear(hidden, hidden, bias=False)] if kind == "deep" else []
        net = nn.Sequential(nn.Linear(width, hidden), *middle, nn.ReLU(), nn.Linear(hidden, classes))
    elif kind == "frozen features":
        first = nn.Linear(width, hidden).requires_grad_(False)
        net = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, classes))
        features = features * 100
    flat = FlatModule(net)
    origin = torch.from_numpy(rng.normal(size=flat.size) * 0.5)
    vector = torch.from_numpy(rng.normal(size=flat.size) * scale)
    if kind == "collinear columns of 4e4":
        rows = flat.unflatten(vector)["weight"]
        rows[:, 1] = -rows[:, 0]
        origin[:] = 0
    if kind in BEHIND:  # what enters tanh is small, and its error is not; little else errs
        first = (
            net[0].weight.detach()
            if kind != "tanh behind cancellation"
            else flat.unflatten(origin)["0.weight"]
        )
        first[:, 1] = -first[:, 0]
        turned = flat.unflatten(vector)
        for name, part in turned.items():
            part[:] = 0 if name.startswith("0.") else part
        if kind == "tanh behind cancellation":  # the logits are exactly 0 then
            for name in ("2.weight", "2.bias"):
                turned[name][:] = -flat.unflatten(origin)[name]
    if kind == "cancelling logits":
        origin = torch.zeros(flat.size, dtype=torch.float64)
        rows = flat.unflatten(vector)["weight"]
        rows[:, 1] = -rows[:, 0]
    if kind == "relu at its kink":  # 1e8 - 1e8 + 2^-60 > 0 exactly; float64 reads 0 or 2^-60 as it sums
        features[:] = [1.0, 1e8, 1.0, 1e8]
        first = flat.unflatten(origin)
        first["0.weight"][:] = torch.tensor([2.0**-60, 1.0, 0.0, -1.0], dtype=torch.float64)
        first["0.bias"][:] = 0
    labels = torch.from_numpy(rng.integers(0, classes, size=n))
    return flat, origin, vector, torch.from_numpy(features), labels, l2


BEHIND = ("tanh behind cancellation", "frozen tanh behind cancellation")
LOOSE = ("relu at its kink", "badly scaled", "saturated tanh", "tanh of large columns")
KINDS = (
    "collinear columns of 4e4",
    *BEHIND,
    "cancelling logits",
    "badly scaled",
    "huge logits",
    "equal logits",
    "one-hot and zero rows",
    "subnormal",
    "tanh",
    "saturated tanh",
    "tanh of large columns",
    "gelu",
    "relu",
    "relu at its kink",
    "deep",
    "frozen features",
)


def _objective(problem):
    net, origin, _, features, labels, l2 = problem
    return LinearizedObjective(net, origin, features, labels, l2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_error_is_within_the_bound_and_the_bound_is_near(kind):
    factors = []
    for seed in range(5):
        problem = _problem(kind, seed)
        got, error = _true_error(_objective(problem), *problem)
        assert error <= got.rounding < math.inf, seed
        factors.append(got.rounding / max(float(error), 1e-300))
        # and it is the gradient
        assert_close(
            got.gradient, _objective(problem).gradient(problem[2]), rtol=0, atol=2 * got.rounding + 1e-300
        )
    if kind not in LOOSE:
        assert min(factors) < 1e3


def test_a_sign_that_is_not_certain_counts_as_the_whole_term():
    problem = _problem("relu at its kink")
    got, _ = _true_error(_objective(problem), *problem)
    assert got.rounding > 1  # columns of 1e8 behind a derivative that may be 0 or 1
    moved = problem[0].unflatten(problem[1])
    moved["0.bias"][:] = 1e-3  # far from the kink it is certain
    assert _objective(problem).certified_gradient(problem[2]).rounding < 1e-2


def _random(draw_seed):
    rng = np.random.default_rng(draw_seed)
    width, hidden, classes = (int(rng.integers(1, 5)) for _ in range(3))
    classes += 1
    n = int(rng.integers(1, 7))
    activation = [nn.Tanh, nn.ReLU, nn.GELU][int(rng.integers(3))]
    deep = int(rng.integers(3))
    body = []
    inputs = width
    for _ in range(deep):
        body += [nn.Linear(inputs, hidden, bias=bool(rng.integers(2))), activation()]
        inputs = hidden
    net = nn.Sequential(*body, nn.Linear(inputs, classes, bias=bool(rng.integers(2))))
    if deep and rng.integers(4) == 0:
        net[0].requires_grad_(False)
    flat = FlatModule(net)
    features = rng.normal(size=(n, width)) * 10.0 ** rng.uniform(-8, 6, size=width)
    if rng.integers(3) == 0:
        features = np.round(features)  # ties, and zeros
    origin = rng.normal(size=flat.size) * 10.0 ** rng.uniform(-3, 1)
    vector = rng.normal(size=flat.size) * 10.0 ** rng.uniform(-6, 2)
    if rng.integers(3) == 0:
        origin, vector = np.round(origin), np.round(vector)
    labels = torch.from_numpy(rng.integers(0, classes, size=n))
    return (
        flat,
        torch.from_numpy(origin),
        torch.from_numpy(vector),
        torch.from_numpy(features),
        labels,
        10.0 ** rng.uniform(-6, 1),
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_plain_network_errs_by_more_than_its_bound(seed):
    problem = _random(seed)
    got, error = _true_error(_objective(problem), *problem)
    assert error <= got.rounding


def _extended(features, labels, vector, l2, classes):
    """The gradient of softmax regression in 80-bit numbers."""
    x = features.numpy().astype(np.longdouble)
    v = vector.numpy().astype(np.longdouble)
    z = x @ v[:-classes].reshape(classes, -1).T + v[-classes:]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), labels.numpy()] -= 1
    parts = np.concatenate([(p.T @ x).ravel(), p.sum(0)])
    return parts / len(x) + np.longdouble(l2) * v


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy has no 80-bit numbers here")
@pytest.mark.parametrize(("n", "width"), [(20_000, 3), (2_500, 700), (1, 300), (1025, 129)])
def test_many_records_and_columns_are_within_the_bound(n, width):
    generator = torch.Generator().manual_seed(n)
    classes = 4
    features = 5 + torch.randn(n, width, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (n,), generator=generator)
    net = FlatModule(nn.Linear(width, classes))
    zero = torch.zeros(net.size, dtype=torch.float64)
    vector = 0.1 * torch.randn(net.size, dtype=torch.float64, generator=generator)
    got = LinearizedObjective(net, zero, features, labels, 1e-3).certified_gradient(vector)
    exact = _extended(features, labels, vector, 1e-3, classes)
    error = float(np.sqrt((((got.gradient.numpy().astype(np.longdouble)) - exact) ** 2).sum()))
    assert error <= _ORACLE * got.rounding
    assert got.rounding < 1e4 * error


def _collinear(n=40, scale=4e4):
    generator = torch.Generator().manual_seed(3)
    one = scale * (1 + 0.3 * torch.randn(n, dtype=torch.float64, generator=generator))
    features = torch.stack(
        [one, one * (1 + 1e-6 * torch.randn(n, dtype=torch.float64, generator=generator))], 1
    )
    labels = (torch.rand(n, generator=generator) < torch.sigmoid((one / scale - 1) * 2)).long()
    return features, labels


def _softmax_spec(**training):
    params = Params.model_validate({"model": {"name": "softmax"}, "training": training})
    return ModelSpec.from_params(params, in_features=2, classes=2)


def test_two_unscaled_collinear_columns_are_refused_by_name():
    """The attack: summed in another order they differ by nothing, and the true norm is far above the stated one."""
    features, labels = _collinear()
    net = FlatModule(nn.Linear(2, 2))
    objective = LinearizedObjective(net, torch.zeros(6).double(), features, labels, 1e-3)
    found = minimize(objective, torch.zeros(6), tolerance=5e-8, max_products=20_000, what="t")
    other = objective.reversed().gradient(found.solution) - objective.gradient(found.solution)
    exact = _extended(features, labels, found.solution, 1e-3, 2)
    got = objective.certified_gradient(found.solution).gradient
    error = float(np.sqrt(((got.numpy().astype(np.longdouble) - exact) ** 2).sum()))
    assert found.status == "converged"
    assert 100 * float(other.norm()) < 1e-9 < error  # the other order, margin included, lets it pass
    assert error <= found.rounding
    assert found.proved
    assert found.rounding > 1e-9
    with pytest.raises(NotConvergedError, match="rounding") as refused:
        train(_softmax_spec(), features, labels)
    column = int(features.abs().amax(0).argmax()) + 1
    assert f"2 encoded columns number {column} is the largest" in str(refused.value.remedy)
    scaled = (features - features.mean(0)) / features.std(0)
    assert train(_softmax_spec(), scaled, labels).proved


MUTANTS = {
    "no error of sums": ("gamma", "collinear columns of 4e4"),
    "errors of logits are not passed on": ("residual", "collinear columns of 4e4"),
    "tanh's error is not passed on": ("lipschitz", "frozen tanh behind cancellation"),
    "no bend of the derivative": ("bend", "tanh behind cancellation"),
    "every sign is certain": ("kink", "relu at its kink"),
    "no error of the last operations": ("final", "equal logits"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bound_that_leaves_something_out_is_found_out(name, monkeypatch):
    """Each mutant is below the true error of some problem here; the bound itself is above all of them."""
    what, kind = MUTANTS[name]
    if what == "gamma":
        monkeypatch.setattr(module, "_gamma", lambda roundings: 0.0)
    elif what == "residual":
        whole = module._residual
        monkeypatch.setattr(module, "_residual", lambda z, e, y: whole(z, 0 * e, y))
    elif what == "kink":
        whole_relu = layers_module._ACTIVATIONS[nn.ReLU]
        monkeypatch.setitem(layers_module._ACTIVATIONS, nn.ReLU, replace(whole_relu, bend=0.0))
    elif what == "final":
        monkeypatch.setattr(module, "_U", 0.0)
    else:
        whole_tanh = layers_module._ACTIVATIONS[nn.Tanh]
        monkeypatch.setitem(layers_module._ACTIVATIONS, nn.Tanh, replace(whole_tanh, **{what: 0.0}))
    failed = 0
    for seed in range(20):
        problem = _problem(kind, seed)
        got, error = _true_error(_objective(problem), *problem)
        failed += error > got.rounding
    assert failed, "nobody would notice"


@pytest.mark.parametrize("name", ["exp", "tanh", "erf"])
def test_elementary_functions_are_within_4_ulp_here(name):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-6, 6, 400), -(10.0 ** rng.uniform(-12, 2.8, 400)), [0.0, -0.0, -700.0]])
    got = getattr(torch, name)(torch.from_numpy(x)).numpy()
    with mpmath.workdps(40):
        for argument, value in zip(x, got, strict=True):
            exact = getattr(mpmath, name)(mpmath.mpf(float(argument)))
            assert abs(mpmath.mpf(float(value)) - exact) <= 4 * mpmath.mpf(float(np.spacing(abs(value))))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
def test_activations_are_torchs_own_and_their_constants_hold(activation):
    x = torch.cat([torch.linspace(-8, 8, 20_001, dtype=torch.float64), torch.tensor([0.0, -0.0]).double()])
    x.requires_grad_(True)
    y = activation()(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    known = layers_module._ACTIVATIONS[activation]
    value = known.value(x.detach())
    derivative = known.slope(x.detach(), value)
    assert_close(value, y.detach(), rtol=1e-14, atol=1e-15)
    assert_close(derivative, slope.detach(), rtol=0, atol=1e-14)
    assert float(slope.abs().max()) <= known.lipschitz
    if known.bend is not None:
        (bend,) = torch.autograd.grad(slope.sum(), x)
        assert 0.9 * known.bend < float(bend.abs().max()) <= known.bend


class _Own(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) ** 3


def _patched():
    layer = nn.Linear(16, 3)
    layer.forward = lambda inputs: nn.functional.linear(inputs, layer.weight) ** 3
    return layer


def _hooked():
    layer = nn.Linear(16, 3)
    layer.register_forward_hook(lambda _l, _i, output: output**3)
    return layer


def _shared():
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.Tanh(), layer)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _Own(16, 3),
        _patched,
        _hooked,
        _shared,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 3)),
        lambda: nn.Sequential(nn.Linear(16, 3), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(16, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
        *(ARCHITECTURES[name] for name in ("all-cnn", "resnet-18", "vit")),
    ],
)
def test_of_what_is_not_known_nothing_is_proved(make):
    net = FlatModule(make())
    assert plain_layers(net) is None
    features, labels = image_problem()
    objective = LinearizedObjective(net, net.initial(), features, labels, 0.1)
    assert objective.certified_gradient(vector_of(net.size)) is None


@pytest.mark.parametrize("name", ["mlp", "softmax", "head"])
def test_catalogue_and_own_plain_networks_are_known(name):
    assert plain_layers(network_of(name)) is not None
    nested = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(16, 4), nn.ReLU()), nn.Linear(4, 3))
    assert len(plain_layers(FlatModule(nested))) == 3


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e200])
def test_nothing_is_claimed_of_what_overflows(poison):
    net, origin, vector, features, labels, l2 = _problem("tanh")
    features[0, 0] = poison
    rounding = LinearizedObjective(net, origin, features, labels, l2).certified_gradient(vector).rounding
    assert not rounding <= 1e300


def test_it_costs_no_more_sweeps_than_one(monkeypatch):
    """Every chunk of records is read once; nothing else is evaluated."""
    net, origin, vector, _, _, _ = _problem("tanh")
    features, labels = torch.ones(5000, 4).double(), torch.zeros(5000, dtype=torch.int64)
    seen = []
    whole = module._Sweep.add
    monkeypatch.setattr(module._Sweep, "add", lambda self, x, y: seen.append(len(x)) or whole(self, x, y))
    LinearizedObjective(net, origin, features, labels, 0.1).certified_gradient(vector)
    assert sum(seen) == 5000
    assert max(seen) == module._CHUNK


@pytest.mark.parametrize("size", [1e55, 1e58, 1e65])
def test_huge_features_are_no_exception_and_claim_nothing_small(size):
    inner = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU()]
    network = FlatModule(nn.Sequential(*inner, nn.Linear(3, 2)))
    features = torch.full((4, 2), size, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1])
    weights = torch.ones(network.size, dtype=torch.float64)
    layers = plain_layers(network)
    assert layers is not None
    found = module.certified_gradient(network, layers, network.initial(), weights, features, labels, 1e-3)
    assert not found.rounding <= 1e-9
