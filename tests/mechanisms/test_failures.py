"""What a bound that fails, and a generator that is not Gaussian, add to delta: both directions, in numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from expunge.evidence.certificate import parse_certificate
from expunge.evidence.scope import scope_of
from expunge.evidence.verify import verify_certificate
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.release import release
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.noise import truncation_delta
from expunge.settings import Policy
from tests.mechanisms.test_mechanisms import context_of, problem_of, spec_of

GRID = np.linspace(-40.0, 40.0, 800_001)
STEP = GRID[1] - GRID[0]
FAILURE = 0.05


def smallest_delta(one, other, epsilon):
    """sup over T of P(T) - e^epsilon Q(T), of two densities on the grid."""
    return float(np.maximum(one - math.exp(epsilon) * other, 0.0).sum() * STEP)


def normal(mean=0.0, sigma=1.0):
    return norm.pdf(GRID, mean, sigma)


WRONG = {  # where a release may land whose bound failed
    "far away": normal(25.0),
    "on the other side": normal(-3.0),
    "on the reference itself": normal(),
    "on the reference's own tail": normal(-4.0, 0.3),
    "anywhere": normal(0.0, 8.0),
}


@pytest.mark.parametrize("where", WRONG)
@pytest.mark.parametrize(("epsilon", "m"), [(0.0, 0.2), (0.5, 0.5), (1.0, 1.0), (2.0, 0.8), (3.0, 1.5)])
def test_a_failing_bound_costs_its_probability_once_in_either_direction(epsilon, m, where):
    released = (1 - FAILURE) * normal(m) + FAILURE * WRONG[where]
    charged = gaussian_delta(epsilon, m) + FAILURE
    forth, back = (
        smallest_delta(released, normal(), epsilon),
        smallest_delta(normal(), released, epsilon),
    )
    assert forth <= charged + 1e-9
    assert back <= charged + 1e-9  # and not e^epsilon times the failure
    if where == "far away":  # no smaller charge would do
        assert forth >= FAILURE + (1 - FAILURE) * gaussian_delta(epsilon - math.log1p(-FAILURE), m) - 1e-9


@pytest.mark.parametrize(("epsilon", "m"), [(0.5, 0.5), (1.0, 1.0), (1.2, 1.5)])
def test_a_failing_generator_costs_it_twice_once_times_e_to_the_epsilon(epsilon, m):
    """The upper tail of each process's noise lands elsewhere, at a place that tells which process it was."""
    tail = norm.isf(FAILURE)
    released, reference = normal(m), normal()
    here = np.where(tail + m > GRID, released, 0) + FAILURE * normal(30.0, 0.1)
    there = np.where(tail > GRID, reference, 0) + FAILURE * normal(-30.0, 0.1)
    found = smallest_delta(here, there, epsilon)
    assert found > gaussian_delta(epsilon, m) + 1.2 * FAILURE  # the probability alone would not do
    assert found == pytest.approx(gaussian_delta(epsilon, m) + math.exp(epsilon) * FAILURE, abs=1e-4)
    assert found <= gaussian_delta(epsilon, m) + (1 + math.exp(epsilon)) * FAILURE
    assert truncation_delta(1, epsilon) == pytest.approx((1 + math.exp(epsilon)) * 5 * 2.0**-64)


def newton_release(draws=1, **newton):
    constants = {
        "damping": 5.0,
        "hessian_lipschitz": 1e-6,
        "gradient_bound": 1e-6,
        "solver": "exact",
        **newton,
    }
    policy = Policy.model_validate({"release": {"sigma": 100.0, "epsilon": 1.0}, "newton": constants})
    problem, _ = problem_of(spec_of("mlp", norm_bound=2.0), policy=policy)
    context = replace(problem.context, same_data=True)
    return replace(problem, context=context), Newton()


@pytest.mark.parametrize(("failure", "draws"), [(1e-7, 1), (1e-7, 3), (0.0, 1)])
def test_a_release_charges_and_states_it(failure, draws):
    problem, newton = newton_release()
    unlearned = replace(newton.unlearn(problem), failure_probability=failure)
    record = release(newton, problem, unlearned, draws=draws).record
    stated = {constant.name: constant for constant in record.constants}["failure_probability"]
    assert (stated.value, stated.provenance) == (failure, "bounded")
    generator = truncation_delta(record.parameters, record.epsilon)
    assert record.delta == pytest.approx(record.gaussian_delta + draws * (failure + generator), rel=1e-12)


def test_an_earlier_draw_s_failure_is_stated_too():
    policy = Policy.model_validate({"unconditional": {"epsilon": 0.9}})
    problem, _ = problem_of(spec_of(), policy=policy)
    mechanism = OutputPerturbation()
    earlier = mechanism.calibrate(context_of(spec_of(), policy)).draw(1e-7)
    assert release(mechanism, problem, mechanism.unlearn(problem), draws=1).record.constants[-1].name == (
        "generator_delta"
    )
    problem = replace(problem, context=replace(problem.context, draws=1, spent=(earlier,)))
    record = release(mechanism, problem, mechanism.unlearn(problem), draws=2).record
    assert {c.name: c.value for c in record.constants}["failure_probability"] == 1e-7


def certificate_of_newton(record):
    """The golden certificate with the figures of a Newton release, as version 2."""
    golden = Path(__file__).parents[1] / "golden" / "certificate-v1-signed-convex" / "certificate.json"
    content = json.loads(golden.read_text())
    stated = record.to_json()
    stated = json.loads(json.dumps(stated))  # lists for tuples
    content |= {name: value for name, value in stated.items() if name in content}
    content |= {
        "version": 2,
        "policy": {"digest": "sha256:" + "0" * 64, "pinned_at": content["issued_at"]},
        "public_parts": [],
        "attack_gates": {"false_alarm": 0.0, "exchanged_delta": record.delta},
        "scope": scope_of("conditional"),
        "assumptions": list(record.assumptions),
        "error_bound": {"value": record.error_bound, "binding": record.binding, "formula": record.formula},
        "vacuous": True,
    }
    bound = record.error_bound
    content["sequential"] |= {
        "step": 1, "accumulated_error": bound, "uniform_error": bound, "composed_m": record.composed_m,
        "composed_epsilon": record.epsilon, "composed_delta": record.delta, "draws": record.draws,
        "limits": {"accumulated_error": 1e6, "composed_epsilon": 10.0, "releases": 10},
    }  # fmt: skip
    return content


def test_a_certificate_that_leaves_it_out_of_delta_does_not_verify():
    problem, newton = newton_release()
    unlearned = replace(newton.unlearn(problem), failure_probability=1e-7)
    content = certificate_of_newton(release(newton, problem, unlearned, draws=2).record)
    assert verify_certificate(parse_certificate(content)).findings == ()
    short = content["delta"] - 1e-7  # one of two draws
    content["delta"] = content["sequential"]["composed_delta"] = short
    assert any("delta is below" in line for line in verify_certificate(parse_certificate(content)).findings)
    content["constants"] = [c for c in content["constants"] if c["name"] != "failure_probability"]
    assert any("is not stated" in line for line in verify_certificate(parse_certificate(content)).findings)
