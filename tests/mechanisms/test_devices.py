"""Every mechanism on a second device: what a certificate rests on is settled on the CPU all the same."""

from dataclasses import replace

import pytest
import torch

from expunge.curvature.flat import FlatModule
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.network import NetworkObjective
from expunge.curvature.preconditioner import keep_curvature
from expunge.errors import NotConvergedError
from expunge.mechanisms.newton_step import StepReport
from expunge.mechanisms.release import release
from expunge.models.kept import load_kept, rebuild_kept
from expunge.models.predictor import predict_logits
from expunge.models.zoo import build
from expunge.settings import Policy
from tests.mechanisms import test_mechanisms as cases
from tests.second_device import SECOND, SecondDevice

CPU = torch.device("cpu")
CASES = [case for case in vars(cases).values() if isinstance(case, type) and getattr(case, "mechanism", None)]
GRADIENTS = {"solver": "conjugate-gradients"}
LISSA = {"solver": "lissa", "lissa": {"steps": 60, "batch": 20, "chains": 4}}


@pytest.fixture
def networks(monkeypatch):
    """Devices of all networks that are made."""
    made, plain = [], FlatModule.__init__

    def init(self, *arguments, **options):
        plain(self, *arguments, **options)
        made.append(self.device)

    monkeypatch.setattr(FlatModule, "__init__", init)
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_mechanism_computes_where_it_is_told_and_returns_to_the_cpu(case, networks):
    problem, _ = cases.problem_of(case.spec, policy=case.policy)
    networks.clear()
    here = case.mechanism.unlearn(replace(problem, device=CPU))
    release(case.mechanism, replace(problem, device=CPU), here, draws=1)
    assert set(networks) == {CPU}
    networks.clear()
    far = replace(problem, device=SECOND)
    with SecondDevice() as second:
        done = case.mechanism.unlearn(far)
        out = release(case.mechanism, far, done, draws=1)
    assert SECOND in networks
    assert second.operations > 50
    for tensor in (done.weights, done.origin, out.weights, out.origin):
        assert (type(tensor), tensor.device, tensor.dtype) == (torch.Tensor, CPU, torch.float64)
    torch.testing.assert_close(done.weights, here.weights, rtol=1e-12, atol=1e-14)
    assert torch.equal(done.origin, here.origin)
    assert (done.error_bound, done.binding) == (pytest.approx(here.error_bound, rel=1e-6), here.binding)


def test_a_convex_release_from_kept_curvature_and_a_step_in_float32(networks):
    case = cases.TestConvex
    problem, trained = cases.problem_of(case.spec)
    network = build(case.spec)
    objective = LinearizedObjective(
        network, network.initial(), problem.features, problem.labels, case.spec.l2
    )
    kept = keep_curvature(objective, trained.weights, rank=20, sample=30)
    here = case.mechanism.unlearn(replace(problem, kept=kept))
    with SecondDevice():
        done = case.mechanism.unlearn(replace(problem, kept=kept, device=SECOND))
    torch.testing.assert_close(done.weights, here.weights, rtol=1e-12, atol=1e-14)
    assert done.sealed["products"] == here.sealed["products"]


def test_a_device_that_computes_wrongly_certifies_nothing():
    """The solver is satisfied by its own gradient; the CPU's, at the weights that would be noised, is not."""
    problem, _ = cases.problem_of(cases.TestConvex.spec)
    with SecondDevice(fault=1e-4), pytest.raises(NotConvergedError):
        cases.TestConvex.mechanism.unlearn(replace(problem, device=SECOND))


@pytest.mark.parametrize(
    ("newton", "dense_limit"),
    [({}, 1200), (GRADIENTS, 1200), (GRADIENTS, 1), (LISSA, 1200), (LISSA, 1)],
    ids=["exact", "cg", "cg and Lanczos", "lissa", "lissa and Lanczos"],
)
def test_the_residual_of_a_newton_step_is_the_cpus(newton, dense_limit, monkeypatch):
    monkeypatch.setattr("expunge.mechanisms.newton_step.DENSE_LIMIT", dense_limit)
    case = cases.TestNewton
    settings = {**case.policy.model_dump()["newton"], "relative_residual": 1e-3, **newton}
    policy = Policy.model_validate({**case.policy.model_dump(), "newton": settings})
    problem, _ = cases.problem_of(case.spec, policy=policy)
    with SecondDevice(fault=1e-5):
        done = case.mechanism.unlearn(replace(problem, device=SECOND))
    (step,) = (StepReport(**report) for report in done.sealed["steps"])
    network = build(case.spec)
    objective = NetworkObjective(network, problem.features, problem.labels, case.spec.l2)
    left = problem.start - done.weights  # nothing was projected
    assert float(done.weights.norm()) < case.spec.norm_bound
    missed = objective.hessian_product(problem.start, left) + policy.newton.damping * left
    true = float((missed - objective.gradient(problem.start)).norm())
    assert step.residual == pytest.approx(true, rel=1e-6)
    assert step.residual > 1e-7 * step.gradient_norm  # what the fault did shows


@pytest.mark.parametrize(
    "form", [{}, {"name": "softmax", "hyperparameters": {}}], ids=["nystrom", "cholesky"]
)
def test_kept_curvature_is_the_same_and_lies_on_disk(form, tmp_path, networks):
    spec = replace(cases.spec_of(), **form)
    features, labels = cases.softmax_problem(0, width=cases.WIDTH)
    weights = torch.zeros(build(spec).size, dtype=torch.float64)
    found = []
    for device in (CPU, SECOND):
        networks.clear()
        folder = tmp_path / device.type
        with SecondDevice():
            assert rebuild_kept(folder, "sha256:1", spec, weights, features, labels, device=device)
        assert set(networks) == {device}
        found.append(load_kept(folder, "sha256:1"))
    assert found[0] is not None
    assert torch.equal(found[0].factor, found[1].factor)
    assert torch.equal(found[0].eigenvalues, found[1].eigenvalues)


@pytest.mark.parametrize("model", ["linearized-mlp", "mlp"])
def test_utility_is_measured_on_the_device(model, networks):
    spec = cases.spec_of(model)
    features, _ = cases.softmax_problem(0, width=cases.WIDTH)
    origin = build(spec).initial()
    here = predict_logits(spec, origin + 1, origin, features)
    networks.clear()
    with SecondDevice():
        there = predict_logits(spec, origin + 1, origin, features, device=SECOND)
    assert networks == [SECOND]
    assert there.device == CPU
    torch.testing.assert_close(there, here)


def test_the_second_device_refuses_what_a_gpu_refuses():
    with SecondDevice():
        far, near = torch.ones(2).to(SECOND), torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            far + near
        with pytest.raises((RuntimeError, TypeError)):
            far.numpy()
        assert torch.equal(far[torch.tensor([1])].cpu(), torch.ones(1))
