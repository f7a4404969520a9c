"""Least squares, solved by linear algebra, and logistic regression, solved by scikit-learn, as oracles."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import expunge.mechanisms.newton_step as step_module
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex, certified_bound
from expunge.mechanisms.newton_step import newton_step
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.bounds import iterated_newton_error_bound, newton_error_bound
from expunge.settings import NewtonPolicy, Params, Policy

L2, DAMPING = 0.1, 5.0
FORGET = 20


class LeastSquares:
    """``|Xw - y|^2 / 2n + (mu/2) |w|^2``: what a network's objective offers, in closed form."""

    def __init__(self, features, targets):
        self.features, self.targets = features, targets
        self.records, self.size = features.shape
        self.matrix = self.hessian(None)

    def gradient(self, weights):
        return self.matrix @ weights - self.features.T @ self.targets / self.records

    def hessian(self, _weights):
        identity = torch.eye(self.size, dtype=torch.float64)
        return self.features.T @ self.features / self.records + L2 * identity

    def hessian_at(self, _weights):
        return self.matrix.mv

    def batch_hessian_product(self, _weights, indices, vectors):
        rows = self.features[indices]
        return torch.einsum("cbd,cbe,ce->cd", rows, rows, vectors) / indices.shape[1] + L2 * vectors

    def minimum(self):
        return torch.linalg.solve(self.matrix, self.features.T @ self.targets / self.records)


@pytest.fixture(scope="module")
def ridge():
    """The model of everybody, and the objective of those who stay; the largest targets leave."""
    data = load_diabetes()
    features = torch.from_numpy(StandardScaler().fit_transform(data.data))
    targets = torch.from_numpy((data.target - data.target.mean()) / data.target.std())
    stay = torch.argsort(targets)[:-FORGET]
    return LeastSquares(features, targets).minimum(), LeastSquares(features[stay], targets[stay])


@pytest.mark.parametrize("solver", ["exact", "conjugate-gradients", "lissa"])
def test_one_step_on_least_squares_leaves_what_the_damping_keeps(ridge, solver, monkeypatch):
    """``w - x - w* = lambda (H + lambda I)^-1 (w - w*)``: nothing else, for the Hessian is constant."""
    weights, retain = ridge
    if solver != "exact":
        monkeypatch.setattr(step_module, "DENSE_LIMIT", 1)
    policy = NewtonPolicy(damping=DAMPING, solver=solver, relative_residual=1e-10)
    solution, report = newton_step(retain, weights, policy, seed=0, what="t")
    minimum = retain.minimum()
    left = weights - solution - minimum
    damped = retain.matrix + DAMPING * torch.eye(retain.size, dtype=torch.float64)
    closed = DAMPING * torch.linalg.solve(damped, weights - minimum)
    curvature = float(torch.linalg.eigvalsh(damped)[0])
    assert float((left - closed).norm()) <= report.residual / curvature + 1e-12
    if solver != "lissa":
        assert report.residual <= 1e-9 * report.gradient_norm
    bound = newton_error_bound(
        hessian_lipschitz=0.0,
        radius=float((weights - minimum).norm()),
        damping=DAMPING,
        gradient_bound=0.0,
        residual=report.residual,
        min_curvature=report.lambda_min + DAMPING,
    )
    eigenvalue = curvature - DAMPING  # in which the subtraction leaves the rounding of the larger figure
    assert report.lambda_min - 1e-12 <= eigenvalue <= report.lambda_max + 1e-12
    assert float(left.norm()) <= bound


def test_many_steps_on_least_squares_reach_the_model_without_the_people(ridge):
    weights, retain = ridge
    minimum, policy = retain.minimum(), NewtonPolicy(damping=DAMPING, solver="exact")
    steps, distances = [], []
    norm_bound = float((weights - minimum).norm()) / 2  # the first radius is 2C
    for _ in range(40):
        solution, report = newton_step(retain, weights, policy, seed=0, what="t")
        weights = weights - solution
        steps.append((report.residual, report.lambda_min + DAMPING))
        distances.append(float((weights - minimum).norm()))
        bound, binding = iterated_newton_error_bound(
            hessian_lipschitz=0.0, norm_bound=norm_bound, damping=DAMPING, gradient_bound=0.0, steps=steps
        )
        assert binding == "theorem"
        assert distances[-1] <= bound * (1 + 1e-9)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 2


@pytest.mark.parametrize("classes", [2, 10])
def test_unlearned_logistic_regression_is_scikit_learns_without_the_records(classes):
    """One minimiser, two solvers: Newton-CG with structured products, and scikit-learn's own Newton-CG."""
    digits = load_digits()
    kept = digits.target < classes
    features = digits.data[kept] / 16
    labels = digits.target[kept]
    l2, n = 1e-2, len(labels) - FORGET
    params = Params.model_validate(
        {
            "model": {"name": "softmax", "hyperparameters": {}},
            "training": {"l2": l2, "gradient_tolerance": 1e-9, "epochs": 1, "batch_size": 64},
        }
    )
    spec = ModelSpec.from_params(params, in_features=features.shape[1], classes=classes)
    tensors = torch.from_numpy(features), torch.from_numpy(labels)
    start = train(spec, *tensors).weights
    context = Context(spec, Policy(), build(spec).size, training_seconds=1.0)
    unlearned = Convex().unlearn(Problem(context, tensors[0][FORGET:], tensors[1][FORGET:], start)).weights

    # our bias is penalised like every weight: for scikit-learn it is a column of ones
    records = np.c_[features, np.ones(len(labels))][FORGET:]
    # with two classes scikit-learn fits the difference of two opposite rows: half the penalty for the same model
    oracle = LogisticRegression(
        C=(2 if classes == 2 else 1) / (n * l2),
        fit_intercept=False,
        solver="newton-cg",
        tol=1e-12,
        max_iter=10_000,
    ).fit(records, labels[FORGET:])
    coefficients = np.r_[-oracle.coef_, oracle.coef_] / 2 if classes == 2 else oracle.coef_
    expected = torch.from_numpy(np.r_[coefficients[:, :-1].ravel(), coefficients[:, -1]])
    assert float((unlearned - expected).norm()) <= certified_bound(spec)
    assert float((start - expected).norm()) > 100 * certified_bound(spec)  # the records mattered
