"""Hostile requests: each is refused with one clear error, or answered rightly; never a bare error of a library."""

import math
from dataclasses import replace

import pytest
import torch

from expunge.errors import CertificateRefusedError, NotConvergedError, RefusedError
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.release import release
from expunge.mechanisms.retrain import Retrain
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import Policy
from tests.mechanisms.test_mechanisms import WIDTH
from tests.mechanisms.test_sequential import CASES
from tests.oracles import softmax_problem

NAN, INF = math.nan, math.inf


def request_for(name, *, forget=4, n=40):
    mechanism, spec, changes = CASES[name]
    features, labels = softmax_problem(0, n=n, width=WIDTH)
    start = train(spec, features, labels).weights
    context = Context(spec, Policy.model_validate(changes), build(spec).size, 1.0)
    return mechanism, Problem(context, features[forget:], labels[forget:], start)


def spoiled(tensor, value):
    out = tensor.clone()
    out.view(-1)[1] = value
    return out


RECORDS = {
    "NaN in a record": lambda p: replace(p, features=spoiled(p.features, NAN)),
    "infinity in a record": lambda p: replace(p, features=spoiled(p.features, INF)),
    "nobody is left": lambda p: replace(p, features=p.features[:0], labels=p.labels[:0]),
    "labels are floats": lambda p: replace(p, labels=p.labels.double()),
    "a label outside the classes": lambda p: replace(p, labels=spoiled(p.labels, 7)),
    "whole numbers for features": lambda p: replace(p, features=p.features.long()),
    "too few features": lambda p: replace(p, features=p.features[:, :2]),
    "a label too few": lambda p: replace(p, labels=p.labels[1:]),
}
PARENT = {
    "NaN in the parent": lambda p: replace(p, start=spoiled(p.start, NAN)),
    "infinity in the parent": lambda p: replace(p, start=spoiled(p.start, INF)),
    "a parent of another size": lambda p: replace(p, start=p.start[1:]),
}


@pytest.mark.parametrize("fault", [*RECORDS, *PARENT])
@pytest.mark.parametrize("name", CASES)
def test_a_faulty_request_is_refused(name, fault):
    mechanism, problem = request_for(name)
    faulty = {**RECORDS, **PARENT}[fault](problem)
    if name == "retrain" and fault in PARENT:  # it never looks at the parent
        assert torch.isfinite(mechanism.unlearn(faulty).weights).all()
        return
    with pytest.raises(CertificateRefusedError) as refused:
        mechanism.unlearn(faulty)
    message = str(refused.value)
    assert "expected" in message
    assert "got" in message
    assert "1.23" not in message


@pytest.mark.parametrize("name", CASES)
def test_an_odd_but_honest_request_is_answered(name):
    mechanism, problem = request_for(name)
    odd = {
        "nobody leaves": request_for(name, forget=0)[1],
        "every record twice": replace(
            problem, features=problem.features.repeat(2, 1), labels=problem.labels.repeat(2)
        ),
        "one class is left": replace(problem, labels=torch.zeros_like(problem.labels)),
        "float32 records": replace(problem, features=problem.features.float()),
    }
    for what, request in odd.items():
        out = release(mechanism, request, mechanism.unlearn(request), draws=1)
        assert torch.isfinite(out.weights).all(), what
        assert out.weights.dtype == torch.float64, what


@pytest.mark.parametrize("damping", [0.0, 1e-4])
def test_newton_without_enough_damping(damping):
    mechanism, problem = request_for("newton")
    policy = Policy.model_validate({**problem.context.policy.model_dump(), "newton": {"damping": damping}})
    with pytest.raises(CertificateRefusedError, match="norm of the Hessian"):
        mechanism.unlearn(replace(problem, context=replace(problem.context, policy=policy)))


def test_lissa_that_diverges_certifies_nothing(monkeypatch):
    import expunge.mechanisms.newton_step as module

    monkeypatch.setattr(module, "_BATCH_NORM_MARGIN", 0.01)  # a scale below the norm of the damped Hessian
    mechanism, problem = request_for("newton")
    newton = {"damping": 50.0, "solver": "lissa", "lissa": {"chains": 2, "steps": 400, "batch": 5}}
    policy = Policy.model_validate({**problem.context.policy.model_dump(), "newton": newton})
    with pytest.raises(NotConvergedError, match=r"diverged|not finite"):
        mechanism.unlearn(replace(problem, context=replace(problem.context, policy=policy)))


def test_a_wrong_model_is_refused_by_every_mechanism_that_cannot_take_it():
    _, deep = request_for("newton")
    _, linear = request_for("convex")
    for mechanism, problem in ((Convex(), deep), (Newton(), linear)):
        with pytest.raises(RefusedError):
            mechanism.unlearn(problem)
        assert mechanism.assess(problem.context).refusal
    assert Retrain().assess(deep.context).admissible
