"""Parent minus child: exact for one record of a noiseless convex head, worse with batch size and with noise."""

import numpy as np
import pytest
import torch

from expunge.attacks.difference import (
    forgotten_gradient,
    gradient_scores,
    rank_forgotten,
    reconstruct_record,
)
from expunge.curvature.linearized import LinearizedObjective
from expunge.errors import InputError
from expunge.models.training import train
from expunge.models.zoo import build
from tests.attacks.problems import records, spec_of

CLASSES, WIDTH, N = 3, 8, 150


@pytest.fixture(scope="module")
def head():
    spec = spec_of(
        "softmax", width=WIDTH, classes=CLASSES, l2=1e-2, gradient_tolerance=1e-10, rounding_allowance=1e-11
    )
    features, labels = records(N, 11, width=WIDTH)
    labels = torch.where(features[:, 1] > 0.7, 2, labels)
    return spec, features, labels, train(spec, features, labels).weights


def recovered(head, batch, sigma=0.0, seed=0, exact=True):
    """The estimate of the sum of forgotten gradients, by who knows the Hessian of the objective."""
    spec, features, labels, parent = head
    child = train(spec, features[batch:], labels[batch:]).weights
    child = child + sigma * torch.randn(
        len(child), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    rows = slice(batch, None) if exact else slice(0, None)
    objective = LinearizedObjective(
        network := build(spec), network.initial(), features[rows], labels[rows], spec.l2
    )
    middle = torch.softmax(objective.logits((parent + child) / 2), dim=1)
    return forgotten_gradient(
        parent, child, lambda v: objective.curvature_product(middle, v),
        retained=N - batch, forgotten=batch, l2=spec.l2,
    )  # fmt: skip


def ranked(head, batch, direction):
    spec, features, labels, parent = head
    network = build(spec)
    scores = gradient_scores(network, parent, direction, features, labels, origin=network.initial())
    return scores, rank_forgotten(scores, range(batch))


def test_one_record_of_a_noiseless_convex_head_is_read_off(head):
    _, features, labels, _ = head
    gradient = recovered(head, 1)
    found = reconstruct_record(gradient, CLASSES)
    assert found.label == int(labels[0])
    assert found.rank_one > 0.999
    cosine = torch.nn.functional.cosine_similarity(found.features, features[0], dim=0)
    assert cosine > 0.999
    torch.testing.assert_close(found.features, features[0], rtol=0.02, atol=0.02)
    scores, result = ranked(head, 1, gradient)
    assert result.best_rank == 1
    assert scores[0] > 0.999


def test_whoever_has_another_hessian_still_ranks_it_first(head):
    assert ranked(head, 1, recovered(head, 1, exact=False))[1].best_rank == 1


def test_the_attack_is_worse_with_batch_size_and_with_noise(head):
    by_batch = [ranked(head, batch, recovered(head, batch))[1].auc for batch in (1, 15, 75)]
    assert by_batch[0] == 1.0
    assert by_batch[0] > by_batch[1] > by_batch[2]
    one = [np.mean([ranked(head, 1, recovered(head, 1, sigma, seed))[1].auc for seed in range(6)])
           for sigma in (0.0, 0.003, 0.3)]  # fmt: skip
    assert one[0] >= one[1] > one[2]
    assert one[2] < 0.9


def test_scores_are_inner_products_with_the_gradients(head):
    """Against automatic differentiation, record by record, for both kinds of model."""
    _, features, labels, _ = head
    generator = torch.Generator().manual_seed(1)
    for name, linear in (("softmax", True), ("mlp", False)):
        spec = spec_of(name, width=WIDTH, classes=CLASSES)
        network = build(spec)
        at = 0.3 * torch.randn(network.size, generator=generator, dtype=torch.float64)
        along = torch.randn(network.size, generator=generator, dtype=torch.float64)
        origin = network.initial() if linear else None
        plain = gradient_scores(network, at, along, features[:5], labels[:5], origin=origin, normalize=False)
        cosine = gradient_scores(network, at, along, features[:5], labels[:5], origin=origin)
        for i in range(5):
            w = at.clone().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(network(w, features[i : i + 1]), labels[i : i + 1])
            gradient = torch.autograd.grad(loss, w)[0]
            inner = float(gradient @ along)
            assert plain[i] == pytest.approx(inner, rel=1e-9)
            assert cosine[i] == pytest.approx(inner / float(gradient.norm() * along.norm()), rel=1e-9)


def test_a_deep_model_gives_its_forgotten_records_away_by_their_rising_loss():
    spec = spec_of(width=WIDTH)
    features, labels = records(120, 12, width=WIDTH)
    parent = train(spec, features, labels).weights
    child = train(spec, features[10:], labels[10:]).weights
    scores = gradient_scores(build(spec), parent, child - parent, features, labels, normalize=False)
    assert rank_forgotten(scores, range(10)).auc_low > 0.5


def test_nothing_to_rank_is_refused():
    with pytest.raises(InputError, match="nothing to rank"):
        rank_forgotten([1.0, 2.0], [0, 1])
    with pytest.raises(InputError, match="nothing to rank"):
        rank_forgotten([1.0, 2.0], [])
    assert rank_forgotten([1.0, 1.0, 0.0], [0]).best_rank == 2  # a tie is no success
