"""BatchNorm statistics recomputed from weights and retain set, and networks called with them."""

import pytest
import torch
from torch import nn
from torch.func import jvp
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.errors import CertificateRefusedError
from expunge.models.buffers import recompute_statistics
from expunge.models.networks.all_cnn import all_cnn
from expunge.models.networks.resnet import resnet_18


def rows(n, width=6, seed=0):
    return torch.randn(n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def perceptron():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
    )


def weights_of(module, seed=6):
    size = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_statistics_are_those_of_a_direct_computation():
    """10 records in chunks of at most 4: 4, 3 and 3. Tolerance: rounding of float64."""
    module, features = perceptron(), rows(10)
    weights = weights_of(module)
    w1, b1, g1, c1, w2, b2 = torch.split(weights[: 24 + 4 + 4 + 4 + 12 + 3], [24, 4, 4, 4, 12, 3])
    first, second = [], []
    for chunk in (features[:4], features[4:7], features[7:]):
        hidden = chunk @ w1.view(4, 6).T + b1
        first.append((hidden.mean(0), hidden.var(0, correction=1)))
        scaled = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt() * g1 + c1
        out = torch.tanh(scaled) @ w2.view(3, 4).T + b2
        second.append((out.mean(0), out.var(0, correction=1)))
    got = recompute_statistics(module, weights, features, chunk=4)
    for layer, direct in (("1", first), ("4", second)):
        assert_close(got[f"{layer}.running_mean"], sum(m for m, _ in direct) / 3, rtol=1e-12, atol=1e-12)
        assert_close(got[f"{layer}.running_var"], sum(v for _, v in direct) / 3, rtol=1e-12, atol=1e-12)
        assert int(got[f"{layer}.num_batches_tracked"]) == 3


def test_nothing_of_the_old_statistics_or_of_the_module_remains():
    clean, used = perceptron(), perceptron()
    used.train()
    used(1000 * rows(50, seed=9).float())  # the forget set was here
    before = {name: value.clone() for name, value in used.state_dict().items()}
    weights, features = weights_of(clean), rows(20)
    one, other = (recompute_statistics(module, weights, features) for module in (clean, used))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name])
        assert one[name].dtype in (torch.float64, torch.int64)
    assert all(torch.equal(value, before[name]) for name, value in used.state_dict().items())
    assert used.training


@pytest.mark.parametrize("factory", [all_cnn, resnet_18])
def test_a_network_with_given_statistics_judges_each_record_alone(factory):
    torch.manual_seed(5)
    module = factory(64, 3, input_shape=[1, 8, 8], width=4, norm="batch", activation="tanh")
    features = rows(12, 64)
    weights = FlatModule(module, dict(module.named_buffers())).initial()
    statistics = recompute_statistics(module, weights, features, chunk=6)
    network = FlatModule(module, statistics)
    together = network(weights, features)
    alone = torch.cat([network(weights, row[None]) for row in features])
    assert_close(together, alone, rtol=0, atol=1e-10)
    assert torch.equal(together, network(weights, features))  # a call writes nothing
    move, step = weights_of(module) / weights_of(module).norm(), 1e-5
    tangent = jvp(lambda w: network(w, features), (weights,), (move,))[1]
    numeric = (network(weights + step * move, features) - network(weights - step * move, features)) / (
        2 * step
    )
    assert_close(tangent, numeric, rtol=1e-6, atol=1e-8)  # truncation and rounding are of order 1e-10


def test_given_statistics_are_used_and_not_the_modules_own():
    module = nn.Sequential(nn.BatchNorm1d(1))
    statistics = {
        "0.running_mean": torch.tensor([2.0]).double(),
        "0.running_var": torch.tensor([4.0]).double(),
        "0.num_batches_tracked": torch.tensor(1),
    }
    network = FlatModule(module, statistics)
    out = network(network.initial(), torch.tensor([[4.0]], dtype=torch.float64))
    assert_close(out, torch.tensor([[2 / (4 + 1e-5) ** 0.5]], dtype=torch.float64))


def test_statistics_of_another_module_are_refused():
    with pytest.raises(CertificateRefusedError, match=r"expected 0.running_mean.*got none"):
        FlatModule(nn.Sequential(nn.BatchNorm1d(1)), {})
    with pytest.raises(CertificateRefusedError, match=r"expected none, got seen"):
        FlatModule(nn.Linear(1, 1), {"seen": torch.zeros(1)})


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("seen", torch.zeros(1))


@pytest.mark.parametrize(
    ("module", "size", "records", "chunk", "message"),
    [
        (_Counting(), 12, 4, 4, "BatchNorm layers only, got seen"),
        (nn.BatchNorm1d(6), 12, 1, 4, "too few records"),
        (nn.BatchNorm1d(6), 12, 3, 2, "too few records"),
        (nn.BatchNorm1d(6), 11, 4, 4, r"expected shape \(12,\), got \(11,\); pass"),
        (nn.Sequential(nn.BatchNorm1d(6), nn.Dropout()), 12, 4, 4, "random layers"),
        (nn.BatchNorm1d(6, track_running_stats=False), 12, 4, 4, "other records"),
    ],
)
def test_what_cannot_be_recomputed(module, size, records, chunk, message):
    with pytest.raises(CertificateRefusedError, match=message):
        recompute_statistics(module, torch.zeros(size), rows(records), chunk)
