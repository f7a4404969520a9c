import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from expunge.curvature.jacobian import record_bytes
from expunge.curvature.network import NetworkObjective
from tests.curvature.problems import ARCHITECTURES, image_problem, network_of, vector_of

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}
L2 = 0.3


def _loss(network, features, labels):
    def loss(w):
        return cross_entropy(network(w, features), labels) + L2 / 2 * w.square().sum()

    return loss


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "resnet-18" else n for n in [*ARCHITECTURES, "block"]],
)
def test_gradients_and_hessian_products_equal_autograd(name):
    features, labels = image_problem(3)
    network = network_of(name)
    w = network.initial()
    loss = _loss(network, features, labels)
    objective = NetworkObjective(network, features, labels, L2, chunk=3)
    kept = objective.hessian_at(w)
    assert_close(objective.gradient(w), torch.autograd.functional.jacobian(loss, w), **TOLERANCE)
    for seed in range(3):  # more than once: a map that spoils its constants is right only once
        v = vector_of(network.size, seed)
        exact = torch.autograd.functional.hvp(loss, w, v)[1]
        assert_close(objective.hessian_product(w, v), exact, **TOLERANCE)
        assert_close(kept(v), exact, **TOLERANCE)


@pytest.mark.parametrize("kept_chunks", [0, 1, 99])
def test_what_is_kept_changes_no_product(kept_chunks):
    features, labels = image_problem(5)
    network = network_of("mlp")
    w, v = network.initial(), vector_of(network.size)
    exact = torch.autograd.functional.hvp(_loss(network, features, labels), w, v)[1]
    limit = kept_chunks * 4 * 2 * record_bytes(network, w, features)
    objective = NetworkObjective(network, features, labels, L2, chunk=2, memory_limit=limit)
    assert_close(objective.hessian_at(w)(v), exact, **TOLERANCE)


@pytest.mark.parametrize("name", ["mlp", "all-cnn", "vit"])
def test_products_with_batches_equal_autograd_on_each_batch(name):
    features, labels = image_problem(8)
    network = network_of(name)
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
    network = network_of("mlp")
    exact = torch.autograd.functional.hessian(_loss(network, features, labels), network.initial())
    found = NetworkObjective(network, features, labels, L2, chunk=3).hessian(network.initial())
    assert_close(found, exact, **TOLERANCE)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("name", ["mlp"])
def test_the_same_products_twice_are_equal_to_the_bit(name):
    features, labels = image_problem(7)
    network = network_of(name)
    w, v = network.initial(), vector_of(network.size)
    objectives = [NetworkObjective(network, features, labels, L2, chunk=4) for _ in range(2)]
    for one, two in (
        [o.gradient(w) for o in objectives],
        [o.hessian_product(w, v) for o in objectives],
        [o.hessian_at(w)(v) for o in objectives],
    ):
        assert torch.equal(one, two)
