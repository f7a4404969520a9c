"""One contract for every mechanism, and the bounds against independently retrained models."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.errors import CertificateRefusedError, NotConvergedError
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.planner import MECHANISMS, make_plan, mechanism_named
from expunge.mechanisms.release import release
from expunge.mechanisms.retrain import Retrain
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import project, train
from expunge.models.zoo import build
from expunge.privacy.accountant import SequentialAccount
from expunge.privacy.bounds import iterated_newton_error_bound
from expunge.privacy.gaussian import gaussian_delta
from expunge.settings import Params, Policy
from tests.oracles import dense_convex_minimum, dense_jacobian, softmax_problem

WIDTH = 3


def spec_of(model="linearized-mlp", **training):
    params = Params.model_validate(
        {
            "model": {"name": model, "hyperparameters": {"hidden": [4], "activation": "tanh"}},
            "training": {"epochs": 5, "batch_size": 16, **training},
        }
    )
    return ModelSpec.from_params(params, in_features=WIDTH, classes=2)


def context_of(spec, policy=None, **more):
    return Context(
        spec=spec, policy=policy or Policy(), parameters=build(spec).size, training_seconds=2.0, **more
    )


def problem_of(spec, seed=0, policy=None, forget=4, n=40):
    """A model trained on everything, and the retain set that is left."""
    features, labels = softmax_problem(seed, n=n, width=WIDTH)
    trained = train(spec, features, labels)
    return Problem(context_of(spec, policy), features[forget:], labels[forget:], trained.weights), trained


class MechanismContract:
    """What holds for every mechanism; subclasses say which one and on which model."""

    mechanism = None
    spec = None
    policy = None
    composes = True

    def test_declares_itself(self):
        assert mechanism_named(self.mechanism.name).guarantee == self.mechanism.guarantee
        assert self.mechanism.reference
        assert self.mechanism.formula

    def test_assessment_looks_at_nothing_private_and_is_repeatable(self):
        context = context_of(self.spec, self.policy)
        assert self.mechanism.assess(context) == self.mechanism.assess(context)

    def test_release_states_policy_figures_and_no_realised_ones(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        out = release(self.mechanism, problem, done, draws=1)
        assert out.record.guarantee == self.mechanism.guarantee
        calibration = self.mechanism.calibrate(problem.context)
        assert out.record.error_bound == (calibration.error_bound if calibration else 0.0)
        assert done.error_bound <= out.record.error_bound
        public = out.record.to_json()
        assert "realised_error_bound" in out.sealed
        assert not set(out.sealed) & set(public)
        if self.mechanism.guarantee != "exact":
            stated = gaussian_delta(out.record.epsilon, out.record.composed_m)
            assert stated <= out.record.gaussian_delta * (1 + 1e-9)  # rounding of the function itself
            assert out.record.delta > out.record.gaussian_delta
            assert not torch.equal(out.weights, done.weights)
        else:
            assert (out.record.epsilon, out.record.delta) == (0.0, 0.0)

    def test_two_releases_never_share_noise(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        one, other = (release(self.mechanism, problem, done, draws=1).weights for _ in range(2))
        assert torch.equal(one, other) != (self.mechanism.guarantee != "exact")

    def test_more_draws_cost_more(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        if not self.composes:
            with pytest.raises(CertificateRefusedError, match="one noise draw"):
                release(self.mechanism, problem, done, draws=2)
            return
        one, two = (release(self.mechanism, problem, done, draws=n).record for n in (1, 2))
        if self.mechanism.guarantee != "exact":
            assert two.epsilon > one.epsilon
            assert two.composed_m == pytest.approx(one.m * math.sqrt(2))

    def test_weights_that_are_not_finite_are_refused(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        broken = replace(done, weights=done.weights * float("nan"))
        with pytest.raises(CertificateRefusedError, match="finite"):
            release(self.mechanism, problem, broken, draws=1)


class TestConvex(MechanismContract):
    mechanism = Convex()
    spec = spec_of()

    def test_refuses_deep_models(self):
        assert "not convex" in self.mechanism.assess(context_of(spec_of("mlp"))).refusal

    def test_refuses_a_tolerance_that_policy_does_not_allow(self):
        loose = self.mechanism.assess(context_of(spec_of(gradient_tolerance=1e-3)))
        assert "above" in loose.refusal
        assert loose.epsilon > 0.05

    def test_a_solver_that_ran_out_certifies_nothing(self):
        problem, _ = problem_of(self.spec)
        starved = replace(self.spec, max_products=2)
        with pytest.raises(NotConvergedError):
            self.mechanism.unlearn(replace(problem, context=context_of(starved), start=None))

    def test_rounding_above_its_allowance_certifies_nothing(self):
        problem, _ = problem_of(self.spec)
        strict = replace(self.spec, rounding_allowance=0.0)
        with pytest.raises(NotConvergedError, match="rounding"):
            self.mechanism.unlearn(replace(problem, context=context_of(strict)))

    def test_proved_rounding_leaves_nothing_to_assume(self):
        problem, trained = problem_of(self.spec)
        assert trained.proved
        record = release(self.mechanism, problem, self.mechanism.unlearn(problem), draws=1).record
        assert record.assumptions == ()
        assert {c.name: c.provenance for c in record.constants}["rounding_allowance"] == "policy"


class TestConvexOfUnprovedRounding:
    """A linearised convolutional network: strongly convex too, but nobody has proved how its gradient is rounded."""

    POLICY = Policy.model_validate({"admit": {"classes": ["exact", "conditional"]}})

    def spec(self):
        params = Params.model_validate(
            {
                "model": {
                    "name": "all-cnn",
                    "linearize": True,
                    "hyperparameters": {"input_shape": [1, 4, 4], "width": 1, "activation": "tanh"},
                },
                "training": {"l2": 0.1},
            }
        )
        return ModelSpec.from_params(params, in_features=16, classes=2)

    def test_the_default_policy_refuses_it_and_says_why(self):
        plan = make_plan(context_of(self.spec()))
        (judged,) = (a for a in plan.assessments if a.mechanism == "convex")
        assert "convex" not in plan.order
        assert judged.guarantee == "conditional"
        assert "does not admit the class conditional: rounding" in judged.refusal
        assert "admit.classes" in judged.remedy

    def test_a_policy_that_admits_it_gets_a_conditional_release_with_its_assumption(self):
        spec = self.spec()
        context = context_of(spec, self.POLICY)
        assert "convex" in make_plan(context).order
        features, labels = softmax_problem(1, n=20, width=16)
        trained = train(spec, features, labels)
        problem = Problem(context, features[2:], labels[2:], trained.weights)
        out = release(Convex(), problem, Convex().unlearn(problem), draws=1)
        assert out.record.guarantee == "conditional"
        assert "rounding error" in out.record.assumptions[0]
        assert {c.name: c.provenance for c in out.record.constants}["rounding_allowance"] == "assumed"
        assert "rounding_check" in out.sealed
        assert "rounding_bound" not in out.sealed

    def test_one_s_own_plain_network_is_recognised(self, tmp_path):
        (tmp_path / "own_plain_model.py").write_text(
            "from torch import nn\n"
            "def make(in_features, out_features):\n"
            "    return nn.Sequential(nn.Linear(in_features, 3), nn.Tanh(), nn.Linear(3, out_features))\n"
            "def odd(in_features, out_features):\n"
            "    return nn.Sequential(nn.Linear(in_features, 3), nn.SiLU(), nn.Linear(3, out_features))\n"
        )
        for factory, guarantee in (("make", "convex"), ("odd", "conditional")):
            params = Params.model_validate({"model": {"name": f"own_plain_model:{factory}"}})
            spec = ModelSpec.from_params(
                Params.model_validate({"model": {**params.model.model_dump(), "hyperparameters": {}}}),
                in_features=4,
                classes=2,
            )
            context = Context(spec, Policy(), 23, 1.0, search=tmp_path)
            assert Convex().assess(context).guarantee == guarantee


class TestNewton(MechanismContract):
    mechanism = Newton()
    spec = spec_of("mlp", norm_bound=2.0)
    policy = Policy.model_validate(
        {
            "admit": {"classes": ["conditional"]},
            "release": {"sigma": 200.0, "epsilon": 0.5},
            "newton": {"damping": 5.0, "solver": "exact"},
            "ledger": {"accumulated_error": 1e4},
        }
    )

    def test_the_ball_binds_and_says_so(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        assert (done.error_bound, done.binding) == (4.0, "ball")
        assert float(done.weights.norm()) <= 2.0 * (1 + 1e-12)

    def test_step_equals_the_dense_one(self):
        problem, trained = problem_of(self.spec, policy=self.policy)
        from expunge.curvature.network import NetworkObjective

        objective = NetworkObjective(build(self.spec), problem.features, problem.labels, self.spec.l2)
        dense = objective.hessian(trained.weights) + 5.0 * torch.eye(
            len(trained.weights), dtype=torch.float64
        )
        expected = trained.weights - torch.linalg.solve(dense, objective.gradient(trained.weights))
        norm = float(expected.norm())
        torch.testing.assert_close(
            self.mechanism.unlearn(problem).weights, expected * min(1.0, 2.0 / norm), rtol=1e-9, atol=1e-10
        )

    @pytest.mark.parametrize("dense_limit", [1, 10_000])
    def test_conjugate_gradients_equal_the_dense_solver(self, monkeypatch, dense_limit):
        import expunge.mechanisms.newton_step as module

        problem, _ = problem_of(self.spec, policy=self.policy)
        dense = self.mechanism.unlearn(problem).weights
        monkeypatch.setattr(module, "DENSE_LIMIT", dense_limit)
        iterative = replace(problem, context=replace(problem.context, policy=self.with_newton(damping=5.0)))
        torch.testing.assert_close(self.mechanism.unlearn(iterative).weights, dense, rtol=1e-5, atol=1e-6)

    def with_newton(self, **newton):
        return Policy.model_validate({**self.policy.model_dump(), "newton": newton})

    def test_lissa_measures_its_residual(self):
        policy = self.with_newton(
            damping=5.0, solver="lissa", lissa={"steps": 300, "batch": 20, "chains": 20}
        )
        problem, _ = problem_of(self.spec, policy=policy)
        exact, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        step = done.sealed["steps"][0]
        assert 0 < step["residual"] < 0.3 * step["gradient_norm"]
        torch.testing.assert_close(
            done.weights, self.mechanism.unlearn(exact).weights, rtol=0, atol=step["residual"] / 4.0
        )

    def test_more_steps_come_closer_to_the_minimum(self):
        norms = []
        for steps in (1, 3):
            problem, _ = problem_of(self.spec, policy=self.with_newton(damping=5.0, steps=steps))
            done = self.mechanism.unlearn(problem)
            assert len(done.sealed["steps"]) == steps
            norms.append(done.sealed["steps"][-1]["gradient_norm"])
        assert norms[1] < norms[0]

    @pytest.mark.parametrize("damping", [0.0, 1e-3])
    def test_damping_within_the_norm_of_the_hessian_is_refused(self, damping):
        problem, _ = problem_of(self.spec, policy=self.with_newton(damping=damping))
        with pytest.raises(CertificateRefusedError, match="norm of the Hessian"):
            self.mechanism.unlearn(problem)

    def test_default_policy_calls_it_vacuous_with_the_honest_figure(self):
        judged = self.mechanism.assess(context_of(spec_of("mlp")))
        assert judged.epsilon == pytest.approx(8.0e6, rel=0.01)
        assert "vacuous" in judged.refusal

    def test_assumed_constants_that_do_not_reach_policy_are_refused_at_the_step(self):
        policy = Policy.model_validate({"newton": {"hessian_lipschitz": 1.0, "gradient_bound": 0.0}})
        assert self.mechanism.assess(context_of(self.spec, policy)).admissible
        problem, _ = problem_of(self.spec, policy=policy)
        with pytest.raises(CertificateRefusedError, match="bound"):
            self.mechanism.unlearn(problem)


class TestOutputPerturbation(MechanismContract):
    mechanism = OutputPerturbation()
    spec = spec_of("mlp", norm_bound=2.0)
    policy = Policy.model_validate({"ledger": {"accumulated_error": 1e4}})

    def test_the_bound_is_the_ball_whatever_the_data(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        done = self.mechanism.unlearn(problem)
        assert (done.error_bound, done.binding) == (2.0, "ball")
        assert float(done.weights.norm()) <= 1.0 + 1e-12
        calibration = self.mechanism.calibrate(problem.context)
        assert gaussian_delta(0.5, 2.0 / calibration.sigma) == pytest.approx(1e-6, rel=1e-6)

    def test_recovery_brings_accuracy_back(self):
        spec = spec_of("mlp", norm_bound=20.0, epochs=200, learning_rate=0.02)
        features, _ = softmax_problem(3, n=120, width=WIDTH)
        labels = (features.sum(1) > 0).long()
        start = train(spec, features, labels).weights
        problem = Problem(context_of(spec, self.policy), features[4:], labels[4:], start)
        done = self.mechanism.unlearn(problem)
        out = release(self.mechanism, problem, done, draws=1)
        logits = predict_logits(spec, out.weights, out.origin, problem.features)
        assert accuracy(logits, problem.labels) > 0.9


class TestOutputPerturbationOnLinearised(MechanismContract):
    mechanism = OutputPerturbation()
    spec = spec_of()
    policy = TestOutputPerturbation.policy

    def test_recovery_ends_at_the_minimum(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        out = release(self.mechanism, problem, self.mechanism.unlearn(problem), draws=1)
        exact = train(self.spec, problem.features, problem.labels).weights
        torch.testing.assert_close(out.weights, exact, rtol=0, atol=1.1e-4)


class TestNoisyFinetuneGradient(MechanismContract):
    mechanism = NoisyFinetune()
    spec = spec_of("mlp", norm_bound=2.0)
    policy = Policy.model_validate(
        {"ledger": {"accumulated_error": 1e4}, "noisy_finetune": {"steps": 7, "batch_size": 10}}
    )

    def test_weights_stay_finite_and_every_step_is_noised(self):
        problem, _ = problem_of(self.spec, policy=self.policy)
        calibration = self.mechanism.calibrate(problem.context)
        assert calibration.coordinates == 7 * problem.context.parameters

    def test_gamma_kappa_of_one_or_more_is_refused(self):
        policy = Policy.model_validate({"noisy_finetune": {"learning_rate": 0.5, "decay": 3.0}})
        assert "learning_rate * decay < 1" in self.mechanism.assess(context_of(self.spec, policy)).refusal
        assert "noisy-finetune" not in make_plan(context_of(self.spec, policy)).order


class TestNoisyFinetuneModel(MechanismContract):
    mechanism = NoisyFinetune()
    spec = spec_of("mlp", norm_bound=2.0)
    policy = Policy.model_validate(
        {
            "ledger": {"accumulated_error": 1e4},
            "noisy_finetune": {"form": "model-clipping", "steps": 5, "batch_size": 10},
        }
    )
    composes = False


class TestNoisyFinetuneOnLinearised(TestNoisyFinetuneGradient):
    spec = spec_of()


class TestRetrain(MechanismContract):
    mechanism = Retrain()
    spec = spec_of("mlp")

    def test_equals_training_without_the_person(self):
        problem, _ = problem_of(self.spec)
        again = train(self.spec, problem.features, problem.labels)
        assert torch.equal(self.mechanism.unlearn(problem).weights, again.weights)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(12, 60),
    forget=st.integers(1, 8),
    l2=st.floats(1e-3, 1.0),
    tolerance=st.floats(1e-9, 1e-4),
)
def test_true_distance_to_a_retrained_model_is_within_the_certified_bound(seed, n, forget, l2, tolerance):
    """C1 on many random problems, from the released (noised) weights, against two independent references."""
    spec = spec_of(l2=l2, gradient_tolerance=tolerance)
    features, labels = softmax_problem(seed, n=n, width=WIDTH)
    start = train(spec, features, labels).weights + 0.01 * torch.randn(build(spec).size, dtype=torch.float64)
    problem = Problem(context_of(spec), features[forget:], labels[forget:], start)
    unlearned = Convex().unlearn(problem)
    bound = 2 * (spec.gradient_tolerance + spec.rounding_allowance) / spec.l2
    retrained = train(spec, features[forget:], labels[forget:]).weights
    assert unlearned.error_bound <= bound
    assert float((unlearned.weights - retrained).norm()) <= bound
    network = build(spec)
    from expunge.models.zoo import multilayer_perceptron

    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        module = multilayer_perceptron(WIDTH, 2, hidden=[4]).double()
    jacobian = dense_jacobian(module, network.initial(), features[forget:])
    offset = network(network.initial(), features[forget:]).detach()
    exact = dense_convex_minimum(jacobian, offset, labels[forget:], l2)
    assert float((unlearned.weights - exact).norm()) <= bound / 2 + 1e-12 / l2


def test_halving_the_bound_would_be_caught():
    """Mutant: two points at opposite ends of the tolerance are further apart than half of C1."""
    tau, mu = 1e-3, 0.1
    one, other = tau / mu, -tau / mu  # of (mu/2) w^2: gradient norm tau at both
    assert abs(one - other) <= 2 * tau / mu * (1 + 1e-12)
    assert abs(one - other) > tau / mu


class TestPlanner:
    def test_convex_is_cheapest_for_a_linearised_model(self):
        plan = make_plan(context_of(spec_of()))
        assert plan.order == ("convex", "retrain")

    def test_deep_models_are_retrained_and_newton_shown_vacuous(self):
        plan = make_plan(context_of(spec_of("mlp")))
        assert plan.order == ("retrain",)
        newton = next(a for a in plan.assessments if a.mechanism == "newton")
        assert newton.epsilon > 1e6

    def test_a_class_that_policy_does_not_admit_is_refused(self):
        policy = Policy.model_validate({"admit": {"classes": ["exact"]}})
        plan = make_plan(context_of(spec_of(), policy))
        assert plan.order == ("retrain",)
        assert "does not admit" in next(a for a in plan.assessments if a.mechanism == "convex").refusal

    def test_newton_is_admitted_only_where_policy_says_conditional(self):
        policy = TestNewton.policy
        assert make_plan(context_of(TestNewton.spec, policy)).order == ("newton",)

    def test_epsilon_above_policy_is_vacuous(self):
        policy = Policy.model_validate({"release": {"epsilon": 2.0}})
        assert make_plan(context_of(spec_of(), policy)).order == ("retrain",)

    def test_a_spent_budget_means_retraining(self):
        spent = SequentialAccount(step=100, accumulated_error=0.0099999, uniform_error=1e-4)
        plan = make_plan(context_of(spec_of(), account=spent))
        assert plan.order == ("retrain",)
        assert "spent" in next(a for a in plan.assessments if a.mechanism == "convex").refusal

    def test_draws_already_spent_count(self):
        many = make_plan(context_of(spec_of(), draws=10_000))
        assert many.order == ("retrain",)

    def test_no_mechanism_admissible(self):
        policy = Policy.model_validate({"admit": {"classes": ["unconditional"]}})
        assert make_plan(context_of(spec_of(), policy)).order == ()

    def test_unknown_mechanism(self):
        with pytest.raises(CertificateRefusedError, match="convex"):
            mechanism_named("magic")

    def test_names_are_distinct(self):
        assert len({m.name for m in MECHANISMS}) == len(MECHANISMS)


def test_all_rows_of_a_subject_must_leave_together():
    """Trap: a ridge mean released between two requests still holds the later row; no account repairs it."""
    mu, sigma, claimed = 1e-3, 0.01, 2.8e-4
    retained, later_row = [0.0] * 8, [1.0]

    def mean(values):
        return sum(values) / (len(values) * (1 + mu))

    between = mean(retained + later_row)  # what is released after the first of two requests
    assert abs(between - mean(retained)) / sigma > 1000 * claimed


class TestParentOfOtherData:
    """The parent was trained on another version of the dataset than the batch begins with."""

    ASSUMED = Policy.model_validate(
        {"admit": {"classes": ["exact", "unconditional", "convex", "conditional"]}}
        | {"newton": {"hessian_lipschitz": 1e-6, "gradient_bound": 1e-6}}
    )

    def test_only_constants_that_were_assumed_of_other_data_are_refused(self):
        for model in ("linearized-mlp", "mlp"):
            same = make_plan(context_of(spec_of(model), self.ASSUMED))
            other = make_plan(context_of(spec_of(model), self.ASSUMED, same_data=False))
            assert set(same.order) - set(other.order) == ({"newton"} if model == "mlp" else set())
        (newton,) = [a for a in other.assessments if a.mechanism == "newton"]
        assert "another version of the dataset" in newton.refusal
        assert newton.epsilon > 1  # the honest figure

    def test_the_step_itself_refuses_too(self):
        problem, _ = problem_of(spec_of("mlp"), policy=self.ASSUMED)
        other = replace(problem, context=replace(problem.context, same_data=False))
        with pytest.raises(CertificateRefusedError, match="another version of the dataset"):
            Newton().unlearn(other)

    def test_the_ball_needs_no_assumption(self):
        wide = Policy.model_validate({"release": {"sigma": 1e4}})
        problem, _ = problem_of(spec_of("mlp"), policy=wide)
        other = replace(problem, context=replace(problem.context, same_data=False))
        assert Newton().assess(other.context).admissible
        assert Newton().unlearn(other).binding == "ball"

    def test_a_convex_release_is_as_near_to_retraining_as_it_says(self):
        """Weights that minimise nothing of the retain set: the parent saw other people, and far fewer."""
        spec = spec_of()
        others, their_labels = softmax_problem(7, n=10, width=WIDTH)
        features, labels = softmax_problem(0, n=60, width=WIDTH)
        parent = train(spec, 3 * others + 1, their_labels).weights
        retrained = train(spec, features, labels).weights
        problem = Problem(context_of(spec, same_data=False), features, labels, parent)
        done = Convex().unlearn(problem)
        assert (parent - retrained).norm() > 100 * done.error_bound
        assert (done.weights - retrained).norm() <= done.error_bound

    def test_the_newton_bound_holds_from_any_start_in_the_ball(self):
        """N1 on quadratics, where M = 0 and G is known: the start is random, and minimises nothing."""
        generator = torch.Generator().manual_seed(3)
        size, damping, norm_bound = 6, 4.0, 2.0
        for _ in range(200):
            factor = torch.randn(size, size, generator=generator, dtype=torch.float64) / size
            hessian = factor @ factor.T
            linear = torch.randn(size, generator=generator, dtype=torch.float64)
            start, retrained = (
                project(3 * torch.randn(size, generator=generator, dtype=torch.float64), norm_bound)
                for _ in range(2)
            )
            gradient = hessian @ start + linear
            step = torch.linalg.solve(hessian + damping * torch.eye(size).double(), gradient)
            bound, _ = iterated_newton_error_bound(
                hessian_lipschitz=0.0,
                norm_bound=norm_bound,
                damping=damping,
                gradient_bound=float((hessian @ retrained + linear).norm()),
                steps=[(1e-12, damping)],
            )
            assert (project(start - step, norm_bound) - retrained).norm() <= bound
