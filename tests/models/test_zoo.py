"""Every architecture of the catalogue: counts, shapes, determinism, derivatives, buffers, bad hyperparameters."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.errors import CertificateRefusedError, PolicyError
from expunge.models.networks.all_cnn import all_cnn
from expunge.models.networks.mlp import multilayer_perceptron
from expunge.models.networks.resnet import resnet_18
from expunge.models.networks.vit import SelfAttention
from expunge.models.spec import CATALOGUE, ModelSpec
from expunge.models.training import train
from expunge.models.zoo import _FACTORIES, build, build_module
from expunge.settings import Params

SHAPE = [1, 8, 8]
CLASSES = 3
# ReLU has kinks that a finite difference could step over
SMOOTH = {"activation": "tanh"}
TINY = {
    "linearized-mlp": {"hidden": [4]},
    "mlp": {"hidden": [4, 3]},
    "softmax": {},
    "head": {"width": 7},
    "all-cnn": {"input_shape": SHAPE, "width": 4, **SMOOTH},
    "resnet-18": {"input_shape": SHAPE, "width": 4, **SMOOTH},
    "vit": {"input_shape": SHAPE, "depth": 2, "heads": 2, "dim": 8},
}
CONVOLUTIONAL = ("all-cnn", "resnet-18")


def spec(name, in_features=64, classes=CLASSES, linearize=True, hyperparameters=None, **training):
    params = Params.model_validate(
        {
            "model": {
                "name": name,
                "linearize": linearize,
                "hyperparameters": TINY[name] if hyperparameters is None else hyperparameters,
            },
            "training": training,
        }
    )
    return ModelSpec.from_params(params, in_features=in_features, classes=classes)


def rows(n=5, width=64):
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def direction(network, seed=4):
    drawn = torch.randn(network.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def trainable(module):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def test_every_model_of_the_catalogue_can_be_built():
    assert set(CATALOGUE) == set(_FACTORIES) == set(TINY)


@pytest.mark.parametrize(
    ("name", "in_features", "classes", "hyperparameters", "count"),
    [
        # 784*32+32 + 32*32+32 + 32*10+10
        ("mlp", 784, 10, {"hidden": [32, 32]}, 26_506),
        ("softmax", 784, 10, {}, 7_850),
        # 256*10+10 trainable; the 784*256+256 frozen ones do not count
        ("head", 784, 10, {"width": 256}, 2_570),
        # 3*96*9+96 + 2*(96*96*9+96) + 96*192*9+192 + 3*(192*192*9+192) + 192*192+192 + 192*10+10
        ("all-cnn", 3072, 10, {"input_shape": [3, 32, 32], "norm": "none"}, 1_369_738),
        # biases of 3*96 + 5*192 filters give way to a scale and a shift each
        ("all-cnn", 3072, 10, {"input_shape": [3, 32, 32]}, 1_370_986),
        ("resnet-18", 3072, 10, {"input_shape": [3, 32, 32]}, 11_173_962),
        ("resnet-18", 3072, 10, {"input_shape": [3, 32, 32], "norm": "batch"}, 11_173_962),
        # one bias in place of scale and shift, for each of 4800 filters
        ("resnet-18", 3072, 10, {"input_shape": [3, 32, 32], "norm": "none"}, 11_169_162),
        # embedding 136, positions 32, block 16+216+72+16+288+264, norm 16, head 27
        ("vit", 64, 3, {"input_shape": SHAPE, "depth": 1, "heads": 2, "dim": 8}, 1_083),
    ],
)
def test_parameter_counts_are_those_computed_by_hand(name, in_features, classes, hyperparameters, count):
    made = build_module(spec(name, in_features, classes, hyperparameters=hyperparameters))
    assert trainable(made) == count


def moved(network):
    """Weights a little off the initial ones: where a convex model starts, at zero, every record looks alike."""
    step = torch.randn(network.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return network.initial() + 0.1 * step


@pytest.mark.parametrize("name", TINY)
def test_flat_rows_give_one_row_of_logits_each(name):
    network = build(spec(name))
    weights = moved(network)
    logits = network(weights, rows())
    assert logits.shape == (5, CLASSES)
    assert logits.dtype == torch.float64
    assert float(logits.std(dim=0).min()) > 1e-6  # no normalisation wipes out the record
    alone = torch.cat([network(weights, row[None]) for row in rows()])
    assert_close(logits, alone, rtol=0, atol=1e-12)  # no record sees another


@pytest.mark.parametrize("name", TINY)
def test_weights_depend_on_the_seed_alone(name):
    def outputs(seed):
        network = build(spec(name, seed=seed))
        return network(moved(network), rows())

    torch.manual_seed(1)
    one = outputs(0)
    torch.manual_seed(2)
    assert torch.equal(one, outputs(0))
    assert torch.equal(one, outputs(1)) == (name == "softmax")  # which starts at zero whatever the seed


def test_threads_that_build_at_once_do_not_share_a_seed():
    def weights(seed):
        return build(spec("mlp", seed=seed, hyperparameters={"hidden": [200, 200]})).initial()

    alone = [weights(seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(weights, range(40)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", ["softmax", "head"])
def test_convex_models_start_at_zero_so_that_their_penalty_is_on_the_weights(name):
    assert not build(spec(name)).initial().any()


def test_a_perceptron_is_drawn_layer_by_layer_from_the_seed():
    """Saved models and golden files hang on this order."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = [nn.Linear(6, 4), nn.Linear(4, 2)]
    expected = torch.cat([p.detach().double().reshape(-1) for layer in layers for p in layer.parameters()])
    network = build(spec("linearized-mlp", 6, 2, hyperparameters={"hidden": [4]}, seed=7))
    assert torch.equal(network.initial(), expected)


@pytest.mark.parametrize(
    ("name", "extra"), [(name, {}) for name in TINY] + [(name, {"norm": "none"}) for name in CONVOLUTIONAL]
)
def test_forward_and_reverse_derivatives_are_those_of_finite_differences(name, extra):
    """Central differences along a unit vector, step 1e-5: truncation and rounding are each of order 1e-10."""
    network = build(spec(name, hyperparameters={**TINY[name], **extra}))
    weights, move, inputs, step = network.initial(), direction(network), rows(), 1e-5
    tangent = jvp(lambda w: network(w, inputs), (weights,), (move,))[1]
    with torch.no_grad():
        numeric = (network(weights + step * move, inputs) - network(weights - step * move, inputs)) / (
            2 * step
        )
    assert_close(tangent, numeric, rtol=1e-6, atol=1e-8)
    cotangent = torch.randn_like(tangent)
    pulled = vjp(lambda w: network(w, inputs), weights)[1](cotangent)[0]
    assert_close(pulled @ move, (cotangent * tangent).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TINY)
def test_curvature_and_gradients_of_single_records(name):
    """Forward over reverse is symmetric; vmap over records adds up to the batch: both to rounding."""
    network = build(spec(name))
    weights, inputs, labels = network.initial(), rows(), torch.tensor([0, 1, 2, 0, 1])

    def loss(w, x, y):
        return cross_entropy(network(w, x), y, reduction="sum")

    def product(v):
        return jvp(grad(lambda w: loss(w, inputs, labels)), (weights,), (v,))[1]

    one, other = direction(network, 1), direction(network, 2)
    assert_close(one @ product(other), other @ product(one), rtol=1e-8, atol=1e-8)
    each = vmap(lambda x, y: grad(lambda w: loss(w, x[None], y[None]))(weights))(inputs, labels)
    assert_close(each.sum(0), grad(lambda w: loss(w, inputs, labels))(weights), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", TINY)
def test_networks_have_no_buffers_unless_asked_for(name):
    assert not list(build_module(spec(name)).buffers())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_batch_normalisation_is_refused_by_name(name):
    with pytest.raises(CertificateRefusedError, match=r"running_mean.*GroupNorm"):
        build(spec(name, hyperparameters={**TINY[name], "norm": "batch"}))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, type("Own", (nn.BatchNorm1d,), {})])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_without_statistics_is_refused_too(layer, affine):
    net = nn.Sequential(nn.Linear(2, 2), layer(2, affine=affine, track_running_stats=False))
    with pytest.raises(CertificateRefusedError, match=r"other records of a batch.*got 1"):
        FlatModule(net)


class TestConvexity:
    @pytest.mark.parametrize("name", ["softmax", "head"])
    def test_always_linearised_and_its_own_linearisation(self, name):
        chosen = spec(name, linearize=False)
        assert chosen.linearize
        network = build(chosen)
        origin, move = network.initial(), direction(network)
        objective = LinearizedObjective(network, origin, rows(), torch.tensor([0, 1, 2, 0, 1]), 0.1)
        assert_close(objective.logits(move), network(origin + move, rows()), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("name", ["all-cnn", "resnet-18", "vit"])
    @pytest.mark.parametrize("linearize", [True, False])
    def test_params_decide_for_the_others(self, name, linearize):
        assert spec(name, linearize=linearize).linearize is linearize

    def test_a_head_ends_in_its_only_trainable_layer(self):
        module = build_module(spec("head"))
        assert isinstance(module, nn.Sequential)
        last = module[-1]
        assert isinstance(last, nn.Linear)
        assert [p for p in module.parameters() if p.requires_grad] == list(last.parameters())

    @pytest.mark.parametrize("name", ["softmax", "head", "vit"])
    def test_trained_within_the_tolerance(self, name):
        labels = torch.arange(30) % CLASSES
        chosen = spec(name, l2=0.1, gradient_tolerance=1e-8)
        before = build_module(chosen).state_dict()
        assert train(chosen, rows(30), labels).gradient_norm <= 1e-8
        for key, value in build_module(chosen).state_dict().items():
            assert torch.equal(value, before[key])


def test_attention_is_that_of_torch():
    ours, theirs = SelfAttention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.queries_keys_values.weight)
        theirs.in_proj_bias.copy_(ours.queries_keys_values.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    tokens = 5 * rows(3, 40).view(3, 5, 8)
    assert_close(ours(tokens), theirs(tokens, tokens, tokens)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "channels"), [([3, 9, 7], 3), ([1, 28, 28], 1)])
def test_other_image_sizes(size, channels):
    width = channels * size[1] * size[2]
    for factory in (all_cnn, resnet_18):
        assert factory(width, 4, input_shape=size, width=4)(torch.randn(2, width)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("all-cnn", {"input_shape": [3, 8, 8]}, r"expected a product of 64.*got 3 x 8 x 8 = 192; correct"),
        (
            "resnet-18",
            {"input_shape": [8, 8]},
            r"expected \[channels, height, width\], got \[8, 8\]; correct",
        ),
        ("vit", {"input_shape": [1, 8, -8]}, r"expected a positive whole number, got -8; correct"),
        ("vit", {"input_shape": 64}, r"invalid input_shape.*got 64"),
        ("all-cnn", {"norm": "layer"}, r"unknown norm: expected group, batch, none, got 'layer'; correct"),
        (
            "resnet-18",
            {"activation": "sin"},
            r"unknown activation: expected tanh, relu, gelu, got sin; correct",
        ),
        ("resnet-18", {"width": 0}, r"invalid width: expected a positive whole number, got 0; correct"),
        ("all-cnn", {"width": True}, r"invalid width.*got True"),
        ("head", {"width": 2.5}, r"invalid width: expected a positive whole number, got 2.5; correct"),
        ("vit", {"depth": 0, "dim": "x"}, r"invalid depth, dim: expected .*, got 0, 'x'; correct"),
        ("vit", {"patch": 3}, r"invalid patch: expected a divisor of 8 and 8.*got 3; correct"),
        ("vit", {"heads": 3}, r"invalid heads: expected a divisor of dim = 8, got 3; correct"),
        ("mlp", {"hidden": [True]}, r"invalid hidden: expected a list of positive whole numbers"),
        ("softmax", {"hidden": [3]}, r"hyperparameters of softmax: expected none, got .*hidden.*; correct"),
        ("vit", {"dropout": 0.1}, r"expected input_shape, patch, depth, heads, dim, got .*dropout"),
    ],
)
def test_bad_hyperparameters(name, changes, message):
    with pytest.raises(PolicyError, match=message):
        build(spec(name, hyperparameters={**TINY[name], **changes}))


def test_a_missing_shape_is_named():
    with pytest.raises(
        PolicyError, match=r"expected input_shape, width, norm, activation, got .*input_shape"
    ):
        build(spec("all-cnn", hyperparameters={}))


def test_the_old_import_of_the_perceptron_still_holds():
    from expunge.models import zoo

    assert zoo.multilayer_perceptron is multilayer_perceptron
