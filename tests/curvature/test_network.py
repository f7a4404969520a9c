import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.network import NetworkObjective
from tests.curvature.problems import ARCHITECTURES, image_problem, module_of, vector_of

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
L2 = 0.3


def _network(name):
    module = module_of(name)
    if name == "resnet-18":  # a dense Hessian of all its parameters takes minutes
        for parameter in list(module.parameters())[9:-8]:
            parameter.requires_grad_(False)
    return FlatModule(module)


def _loss(network, features, labels):
    def loss(w):
        return cross_entropy(network(w, features), labels) + L2 / 2 * w.square().sum()

    return loss


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_and_hessian_products_equal_autograd(name):
    features, labels = image_problem()
    network = _network(name)
    w = network.initial()
    loss = _loss(network, features, labels)
    exact = torch.autograd.functional.hessian(loss, w)
    objective = NetworkObjective(network, features, labels, L2, chunk=3)
    streamed = NetworkObjective(network, features, labels, L2, chunk=3, memory_limit=0).hessian_at(w)
    partly = NetworkObjective(
        network, features, labels, L2, chunk=3, memory_limit=objective._record_bytes * 3 * 4
    ).hessian_at(w)
    kept = objective.hessian_at(w)
    assert_close(objective.gradient(w), torch.autograd.functional.jacobian(loss, w), **TOLERANCE)
    for seed in range(3):  # more than once: a map that spoils its constants is right only once
        v = vector_of(network.size, seed)
        for product in (lambda v: objective.hessian_product(w, v), kept, streamed, partly):
            assert_close(product(v), exact @ v, **TOLERANCE)


@pytest.mark.parametrize("name", ["mlp", "all-cnn", "vit"])
def test_products_with_batches_equal_autograd_on_each_batch(name):
    features, labels = image_problem(8)
    network = _network(name)
    w = network.initial()
    objective = NetworkObjective(network, features, labels, L2)
    indices = torch.tensor([[0, 1, 5], [7, 7, 2]])
    vectors = vector_of(2 * network.size).view(2, -1)
    found = objective.batch_hessian_product(w, indices, vectors)
    for row, chosen, vector in zip(found, indices, vectors, strict=True):
        loss = _loss(network, features[chosen], labels[chosen])
        assert_close(row, torch.autograd.functional.hvp(loss, w, vector)[1], **TOLERANCE)


def test_dense_hessian_equals_autograd():
    features, labels = image_problem()
    network = _network("mlp")
    exact = torch.autograd.functional.hessian(_loss(network, features, labels), network.initial())
    found = NetworkObjective(network, features, labels, L2, chunk=2).hessian(network.initial())
    assert_close(found, exact, **TOLERANCE)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("name", ["mlp", "all-cnn"])
def test_the_same_products_twice_are_equal_to_the_bit(name):
    features, labels = image_problem(7)
    network = _network(name)
    w, v = network.initial(), vector_of(network.size)
    objectives = [NetworkObjective(network, features, labels, L2, chunk=2) for _ in range(2)]
    for one, two in (
        [o.gradient(w) for o in objectives],
        [o.hessian_product(w, v) for o in objectives],
        [o.hessian_at(w)(v) for o in objectives],
    ):
        assert torch.equal(one, two)
