"""Draws of several mechanisms for the same records: none is understated, and none escapes its charge."""

from dataclasses import replace

import pytest

from expunge.errors import CertificateRefusedError
from expunge.mechanisms.contract import Draw
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.planner import make_plan
from expunge.mechanisms.release import release
from expunge.privacy.accountant import compose_m
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.noise import truncation_delta
from expunge.settings import Policy
from tests.mechanisms.test_mechanisms import context_of, problem_of, spec_of

WIDE = Policy.model_validate({"unconditional": {"epsilon": 0.9}})


def spent_by(mechanism, context, failure=0.0):
    return mechanism.calibrate(context).draw(failure)


def test_a_smaller_m_does_not_compose_with_a_larger_one():
    context = context_of(spec_of(), WIDE)
    large, small = (spent_by(mechanism, context) for mechanism in (OutputPerturbation(), Convex()))
    assert large.m > 5 * small.m
    assert not Convex().calibrate(context).composes_with([small, large])
    assert OutputPerturbation().calibrate(context).composes_with([large, small])
    assert Convex().calibrate(context).composes_with([])


def test_what_composes_with_nothing_composes_neither_before_nor_after():
    clipped = Policy.model_validate({"noisy_finetune": {"form": "model-clipping", "steps": 2}})
    context = context_of(spec_of(), clipped)
    lonely = spent_by(NoisyFinetune(), context)
    assert lonely.m is None
    assert not OutputPerturbation().calibrate(context).composes_with([lonely])
    assert not NoisyFinetune().calibrate(context).composes_with([spent_by(Convex(), context)])
    assert NoisyFinetune().calibrate(context).composes_with([])
    assert not OutputPerturbation().calibrate(context).composes_with([Draw()])  # nothing is known of it


def test_the_release_covers_every_draw():
    """A hundred noisy steps and a bound that may fail, both discarded; then output perturbation."""
    problem, _ = problem_of(spec_of(), policy=WIDE)
    steps = spent_by(NoisyFinetune(), context_of(spec_of()))
    bounds = spent_by(Convex(), problem.context, failure=1e-7)
    mechanism = OutputPerturbation()
    one = spent_by(mechanism, problem.context)
    spent = (steps, bounds)
    assert mechanism.calibrate(problem.context).composes_with(spent)
    problem = replace(problem, context=replace(problem.context, draws=2, spent=spent))
    record = release(mechanism, problem, mechanism.unlearn(problem), draws=3).record
    every = [*spent, one]
    m = compose_m(draw.m for draw in every)
    share = gaussian_delta(record.epsilon, m)
    charged = sum(truncation_delta(d.coordinates, record.epsilon) + d.failure_probability for d in every)
    assert record.composed_m > m
    assert share <= record.gaussian_delta
    assert record.delta - record.gaussian_delta >= charged * (1 - 1e-9)
    assert steps.coordinates == 100 * one.coordinates  # the largest is not its own


def test_the_plan_charges_earlier_draws_as_the_release_will():
    policy = Policy.model_validate({"admit": {"epsilon": 1.0, "delta": 1.001e-6}})
    context = context_of(spec_of(), policy, draws=1)
    assert "convex" in make_plan(context).order
    large = replace(context, spent=(Draw(m=1e-3, coordinates=10**10),))
    assert "convex" not in make_plan(large).order


def test_noise_calibrated_for_another_number_of_weights_is_refused():
    problem, _ = problem_of(spec_of())
    done = Convex().unlearn(problem)
    few = replace(problem, context=replace(problem.context, parameters=len(done.weights) - 1))
    with pytest.raises(CertificateRefusedError, match="another number of weights"):
        release(Convex(), few, done, draws=1)
