import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from expunge.curvature.flat import FlatModule
from expunge.curvature.jacobian import Jacobian, chunk_size, record_bytes
from tests.curvature.problems import ARCHITECTURES, image_problem, module_of, network_of, vector_of

TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}


def _dense(network, features):
    return torch.autograd.functional.jacobian(lambda w: network(w, features), network.initial())


@pytest.mark.parametrize("kept_chunks", [0, 1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_and_streamed_products_equal_the_dense_ones(name, kept_chunks):
    features, _ = image_problem(4)
    network = network_of(name)
    dense = _dense(network, features)
    each = record_bytes(network, network.initial(), features)
    jacobian = Jacobian(
        network, network.initial(), features, chunk=2, memory_limit=2 * each * 2 * kept_chunks
    )
    assert_close(jacobian.output, network(network.initial(), features).detach(), **TOLERANCE)
    for seed in range(2):  # a map that spoils its constants is right only once
        v, r = vector_of(network.size, seed), vector_of(dense[..., 0].numel(), seed).view(len(features), -1)
        assert_close(jacobian.product(v), dense @ v, **TOLERANCE)
        assert_close(jacobian.transposed(r), torch.einsum("nkd,nk->d", dense, r), **TOLERANCE)


NETWORK = network_of("mlp")


@settings(max_examples=6, deadline=None)
@given(chunk=st.integers(1, 12), limit=st.sampled_from([0, 2000, 2**30]), seed=st.integers(0, 99))
def test_chunks_and_memory_change_nothing_and_the_maps_are_adjoint(chunk, limit, seed):
    features, _ = image_problem(9, seed)
    jacobian = Jacobian(NETWORK, NETWORK.initial(), features, chunk=chunk, memory_limit=limit)
    whole = Jacobian(NETWORK, NETWORK.initial(), features, memory_limit=0)
    v, r = vector_of(NETWORK.size, seed), vector_of(27, seed).view(9, 3)
    assert_close(jacobian.product(v), whole.product(v), **TOLERANCE)
    assert_close(jacobian.transposed(r), whole.transposed(r), **TOLERANCE)
    assert_close((jacobian.product(v) * r).sum(), v @ jacobian.transposed(r), **TOLERANCE)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_frozen_parameters_have_no_column(limit):
    module = module_of("mlp")
    next(module.parameters()).requires_grad_(False)
    network = FlatModule(module)
    features, _ = image_problem()
    jacobian = Jacobian(network, network.initial(), features, memory_limit=limit)
    v = vector_of(network.size)
    assert network.size == sum(p.numel() for p in list(module.parameters())[1:])
    assert_close(jacobian.product(v), _dense(network, features) @ v, **TOLERANCE)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_single_precision_is_right_to_single_precision(limit):
    features, _ = image_problem()
    network = network_of("mlp")
    dense, v = _dense(network, features), vector_of(network.size)
    single = network.to(dtype=torch.float32)
    found = Jacobian(single, single.initial(), features.float(), memory_limit=limit).product(v.float())
    assert found.dtype == torch.float32
    assert_close(found.double(), dense @ v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_statistics_of_batch_norm_follow_into_single_precision(limit):
    module = torch.nn.Sequential(torch.nn.Linear(16, 3), torch.nn.BatchNorm1d(3)).double()
    network = FlatModule(module, {name: value.clone() for name, value in module.named_buffers()})
    features, _ = image_problem()
    single, v = network.to(dtype=torch.float32), vector_of(network.size)
    found = Jacobian(single, single.initial(), features.float(), memory_limit=limit).product(v.float())
    assert_close(found.double(), _dense(network, features) @ v, rtol=1e-4, atol=1e-5)


def test_the_network_never_sees_more_records_than_a_chunk(monkeypatch):
    monkeypatch.setattr("expunge.curvature.jacobian._CHUNK_BYTES", 5000)
    features, _ = image_problem(200)
    network = network_of("mlp")
    each = record_bytes(network, network.initial(), features)
    assert each == record_bytes(network, network.initial(), features[:1])
    assert each == 2 * 8 * (3 + 3 + 3)  # outputs of three layers, and their derivatives
    seen = []
    hook = network.module.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    jacobian = Jacobian(network, network.initial(), features, memory_limit=0)
    jacobian.transposed(jacobian.product(vector_of(network.size)))
    hook.remove()
    assert jacobian.chunk == chunk_size(each) == 5000 // each
    assert max(seen) == jacobian.chunk


@given(st.integers(1, 2**40))
def test_a_chunk_has_a_record_and_a_bound(each):
    chunk = chunk_size(each)
    assert chunk == 1 or (chunk * each <= 2**28 and chunk <= 16384)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [0, 2000, 2**30])
@pytest.mark.parametrize("chunk", [2, None])
def test_one_sweep_is_the_two_products(chunk, limit, reverse):
    features, labels = image_problem(5)
    jacobian = Jacobian(
        NETWORK, NETWORK.initial(), features, chunk=chunk, memory_limit=limit, reverse=reverse
    )
    seen = []

    def weigh(output, rows):
        seen.append(rows)
        return torch.softmax(output, 1) * (1 + labels[rows, None])

    v = vector_of(NETWORK.size, 3)
    logits, pulled = jacobian.through(v, weigh)
    assert_close(logits, jacobian.output + jacobian.product(v), **TOLERANCE)
    expected = jacobian.transposed(torch.softmax(logits, 1) * (1 + labels[:, None]))
    assert_close(pulled, expected, **TOLERANCE)
    order = [rows.start for rows in seen]
    assert order == sorted(order, reverse=reverse)  # what the rounding check rests on
    assert sorted(i for rows in seen for i in range(rows.start, rows.stop)) == list(range(5))


def test_a_streamed_sweep_evaluates_every_chunk_once(monkeypatch):
    features, _ = image_problem(6)
    jacobian = Jacobian(NETWORK, NETWORK.initial(), features, chunk=2, memory_limit=0)
    calls = []
    whole = FlatModule.__call__
    monkeypatch.setattr(FlatModule, "__call__", lambda *given: calls.append(1) or whole(*given))
    jacobian.through(vector_of(NETWORK.size), lambda output, rows: output)
    assert len(calls) == 3
