"""Ten requests in a row on every mechanism: released state feeds the next, and the ledger is recomputed here."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from expunge.database import open_database
from expunge.evidence.keys import SigningKeys
from expunge.evidence.ledger import account_of, check_ledger
from expunge.evidence.store import LedgerStore
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.planner import make_plan
from expunge.mechanisms.release import release
from expunge.mechanisms.retrain import Retrain
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import Policy
from tests.mechanisms.test_mechanisms import WIDTH, spec_of
from tests.oracles import softmax_problem

LINEAGE = "lineage"
WIDE = {"ledger": {"accumulated_error": 1e6, "composed_epsilon": 10.0}}
CASES = {
    "convex": (Convex(), spec_of(), {}),
    "newton": (
        Newton(),
        spec_of("mlp", norm_bound=2.0),
        {
            **WIDE,
            "admit": {"classes": ["conditional"]},
            "release": {"sigma": 200.0, "epsilon": 0.5},
            "newton": {"damping": 50.0},
        },
    ),
    "output-perturbation": (OutputPerturbation(), spec_of("mlp", norm_bound=2.0), WIDE),
    "noisy-finetune": (
        NoisyFinetune(),
        spec_of("mlp", norm_bound=2.0),
        {**WIDE, "noisy_finetune": {"steps": 3, "batch_size": 10}},
    ),
    "retrain": (Retrain(), spec_of("mlp", norm_bound=2.0), {}),
}


def epsilon_of(m, delta):
    """Exact Gaussian mechanism, written out again."""
    return brentq(lambda e: norm.cdf(m / 2 - e / m) - math.exp(e) * norm.cdf(-m / 2 - e / m) - delta, 0, 50)


@pytest.mark.parametrize("name", CASES)
def test_ten_requests_and_a_redrawn_one(name, tmp_path):
    mechanism, spec, changes = CASES[name]
    policy = Policy.model_validate(changes)
    keys = SigningKeys(tmp_path / "keys")
    keys.create(datetime.now(UTC))
    ledger = LedgerStore(open_database(f"sqlite:///{tmp_path / 'ledger.db'}"), keys)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ledger.append(LINEAGE, kind="opening", issued_at=now, mechanism="train")
    features, labels = softmax_problem(0, n=60, width=WIDTH)
    weights, bounds, kinds = train(spec, features, labels).weights, [], []
    for request in range(1, 11):
        features, labels = features[2:], labels[2:]  # both rows of one person
        draws = 2 if request == 7 else 1  # the seventh lost a draw with its process
        context = Context(spec, policy, build(spec).size, 1.0, account=account_of(ledger.entries(LINEAGE)))
        problem = Problem(context, features, labels, weights)
        out = release(mechanism, problem, mechanism.unlearn(problem), draws=draws)
        weights, record = out.weights, out.record
        exact = record.guarantee == "exact"
        ledger.append(
            LINEAGE,
            kind="retraining" if exact else "release",
            issued_at=now,
            batch=f"b-{request}",
            mechanism=record.mechanism,
            guarantee=record.guarantee,
            error_bound=record.error_bound,
            sigma=record.sigma,
            m=record.m,
            draws=record.draws,
            composed_m=record.composed_m,
            epsilon=record.epsilon,
            gaussian_delta=record.gaussian_delta,
            delta=record.delta,
        )
        bounds.append(record.error_bound)
        kinds.append(exact)
        entry = ledger.entries(LINEAGE)[-1]
        if exact:
            assert (entry.step, entry.accumulated_error, entry.epsilon) == (0, 0.0, 0.0)
            continue
        assert entry.step == request
        assert entry.accumulated_error == pytest.approx(math.fsum(bounds), rel=1e-12)
        assert entry.uniform_error == max(bounds)
        m = record.error_bound / record.sigma
        assert entry.composed_m == pytest.approx(math.sqrt(draws) * m, rel=1e-12)
        assert entry.epsilon == pytest.approx(
            epsilon_of(math.sqrt(draws) * m, record.gaussian_delta), rel=1e-6
        )
    assert check_ledger(ledger.entries(LINEAGE)) == []
    assert torch.isfinite(weights).all()
    assert all(kinds) == (name == "retrain")


@pytest.mark.parametrize(
    ("limits", "releases"),
    [({"accumulated_error": 3.5 * 1.4414e-4}, 3), ({"releases": 2}, 2), ({"composed_epsilon": 0.04}, 0)],
)
def test_a_spent_budget_retrains_exactly_and_the_ledger_starts_anew(limits, releases):
    spec, policy = spec_of(), Policy.model_validate({"ledger": limits})
    features, labels = softmax_problem(0, n=60, width=WIDTH)
    context = Context(spec, policy, build(spec).size, 1.0)
    weights, done = train(spec, features, labels).weights, []
    for _ in range(releases + 2):
        features, labels = features[2:], labels[2:]
        choice = make_plan(context).choice
        mechanism = {"convex": Convex(), "retrain": Retrain()}[choice]
        problem = Problem(context, features, labels, weights)
        out = release(mechanism, problem, mechanism.unlearn(problem), draws=1)
        weights = out.weights
        done.append(choice)
        account = context.account
        account = type(account)() if choice == "retrain" else account.after_release(out.record.error_bound)
        context = replace(context, account=account)
        assert account.accumulated_error <= policy.ledger.accumulated_error
    assert done[:releases] == ["convex"] * releases
    assert done[releases] == "retrain"
    assert done[releases + 1] == ("convex" if releases else "retrain")
