"""The methods that the comparison runs, each on one forgetting task."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from benchmarks.baselines import Edited
from benchmarks.baselines.fine_tune import fine_tune
from benchmarks.baselines.fisher import fisher_forget
from benchmarks.baselines.l_codec import l_codec
from benchmarks.baselines.negative_gradient import negative_gradient
from benchmarks.convex import build_kept
from benchmarks.forgetting import Task, spent
from expunge.curvature.jacobian import MEMORY_LIMIT
from expunge.curvature.network import NetworkObjective
from expunge.errors import CertificateRefusedError
from expunge.mechanisms.contract import Context, Mechanism, Problem
from expunge.mechanisms.convex import Convex, certified_bound
from expunge.mechanisms.newton_step import DENSE_LIMIT, LANCZOS_STEPS, newton_step
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.paper_compatible import PublishedSettings, unlearn_as_published
from expunge.mechanisms.release import release
from expunge.models.training import project
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.privacy.noise import GaussianNoise, rounding_m
from expunge.settings import NewtonPolicy, Policy

DELTA = 1e-5
NONE = "none"


@dataclass(frozen=True)
class Outcome:
    """What a method returns.

    Args:
        weights: As they would be released, shape (d,).
        seconds: CPU seconds of the method alone; on a GPU, wall seconds.
        bytes: At its peak, above those before it.
        passes: Over the retain set: gradients of a record over its size, a Hessian product counting as two.
        convex: Whether it is a convex model, with an original and a retrained model of its own.
        noiseless: Before the noise, where noise was added.
        guarantee: Guarantee class, or none.
        epsilon: None where there is none.
        delta: Likewise.
        error_bound: Likewise.
        sigma: Of one noise step; 0 without noise.
        facts: What else was found.
    """

    weights: Tensor
    seconds: float
    bytes: int
    passes: float
    convex: bool = False
    noiseless: Tensor | None = None
    guarantee: str = NONE
    epsilon: float | None = None
    delta: float | None = None
    error_bound: float | None = None
    sigma: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)


def original(task: Task, *, convex: bool = False) -> Outcome:
    """The model that saw the forget set."""
    return _trained(task, "original", convex)


def retrain(task: Task, *, convex: bool = False) -> Outcome:
    """Exact retraining, the reference of all others."""
    there = _trained(task, "retrained", convex)
    return Outcome(
        there.weights,
        there.seconds,
        there.bytes,
        there.passes,
        convex=convex,
        guarantee="exact",
        epsilon=0.0,
        delta=0.0,
        error_bound=0.0,
        facts={} if convex else {"distance_other_order": other_order(task)},
    )


def other_order(task: Task) -> float:
    """The yardstick of distances: how far apart two retrained models are that differ in the order of batches alone."""
    first, second = task.trained("retrained"), task.trained("other order")
    return float((first["weights"] - second["weights"]).norm())


def _trained(task: Task, which: str, convex: bool) -> Outcome:
    kept = task.trained(which, convex=convex)
    records = len(task.data.labels) if which == "original" else len(task.retain[1])
    # a linearised model's product is a gradient's cost twice over; an epoch is a pass
    passes = 2 * kept["products"] if convex else task.spec.epochs * records / len(task.retain[1])
    return Outcome(kept["weights"], kept["seconds"], kept["bytes"], passes, convex=convex)


def _baseline(task: Task, run: Callable[[], Edited]) -> Outcome:
    edited, seconds, peak = spent(run, task.place.device)
    return Outcome(
        edited.weights, seconds, peak, edited.looks / len(task.retain[1]), facts=dict(edited.facts)
    )


def _start(task: Task) -> Tensor:
    weights: Tensor = task.trained("original")["weights"]
    return weights


def fine_tuned(task: Task) -> Outcome:
    """Fine-tuning on the retain set."""
    start, chosen = _start(task), task.setting["fine_tune"]
    return _baseline(task, lambda: fine_tune(task.spec, start, *task.retain, seed=task.seed + 1, **chosen))


def ascended(task: Task) -> Outcome:
    """Negative gradient on the forget set."""
    start, chosen = _start(task), task.setting["negative_gradient"]
    return _baseline(
        task,
        lambda: negative_gradient(
            task.network,
            start,
            *task.forget,
            batch_size=task.spec.batch_size,
            seed=task.seed,
            **chosen,
        ),
    )


def scrubbed(task: Task) -> Outcome:
    """Fisher forgetting."""
    start, chosen = _start(task), task.setting["fisher"]
    return _baseline(
        task, lambda: fisher_forget(task.network, start, task.retain[0], seed=task.seed, **chosen)
    )


def codec(task: Task) -> Outcome:
    """L-CODEC."""
    start, chosen = _start(task), task.setting["l_codec"]
    return _baseline(
        task,
        lambda: l_codec(
            task.network, start, task.retain, task.forget, l2=task.spec.l2, seed=task.seed, **chosen
        ),
    )


def published(task: Task) -> Outcome:
    """Newton with LiSSA as published: its sigma, and what that honestly means."""
    start = _start(task)
    settings = PublishedSettings(
        norm_bound=task.spec.norm_bound,
        weight_decay=task.spec.l2,
        delta=DELTA,
        **task.setting["published"],
    )
    network = task.network.to(dtype=torch.float32)
    done, seconds, peak = spent(
        lambda: unlearn_as_published(network, start, *task.retain, settings, seed=task.seed),
        task.place.device,
    )
    facts, retained = done.facts, len(task.retain[1])
    return Outcome(
        done.weights,
        seconds,  # with what is measured beside it: a few products over the retain set
        peak,
        1 + 2 * facts.products * settings.batch / retained,
        guarantee="none (measured)",
        epsilon=_finite(facts.epsilon),
        delta=DELTA,
        error_bound=_finite(facts.sensitivity),
        sigma=facts.sigma,
        facts={
            "relative_residual": facts.relative_residual,
            "noiseless_norm": facts.noiseless_norm,
        },
    )


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def newton(task: Task) -> Outcome:
    """One Newton step with a damping above the norm of the Hessian, projected; the ball bounds it.

    The damping is a constant of the setting; where it is refused it is doubled, and the products that this took are
    counted.
    """
    start, chosen, spec = _start(task), task.setting["newton"], task.spec
    lanczos = chosen.get("lanczos_steps", LANCZOS_STEPS)
    sigma = Policy().release.sigma

    def run() -> tuple[Tensor, Tensor, float, int, float]:
        objective = NetworkObjective(
            task.network, *task.retain, spec.l2, memory_limit=int(chosen.get("memory_limit", MEMORY_LIMIT))
        )
        spectrum = objective.size if objective.size <= DENSE_LIMIT else lanczos
        damping, products, gradients = float(chosen["damping"]), 0, 0
        while True:
            policy = NewtonPolicy(damping=damping)
            products, gradients = products + spectrum, gradients + 1
            try:
                step, report = newton_step(
                    objective, start, policy, seed=task.seed, what="newton", lanczos_steps=lanczos
                )
                break
            except CertificateRefusedError:
                if damping > 1e6:
                    raise
                damping *= 2
        noiseless = project(start - step, spec.norm_bound)
        noised = torch.from_numpy(GaussianNoise().add(noiseless.numpy(), sigma))
        looked = gradients + 2 * (products + report.products)
        return project(noised, spec.norm_bound), noiseless, damping, looked, report.residual

    (weights, noiseless, damping, passes, residual), seconds, peak = spent(run, task.place.device)
    bound = 2 * spec.norm_bound  # no constant of the theorem is assumed: the ball binds
    return Outcome(
        weights,
        seconds,
        peak,
        passes,
        noiseless=noiseless,
        guarantee="conditional",
        epsilon=gaussian_epsilon(DELTA, bound / sigma + rounding_m(len(weights))),
        delta=DELTA,
        error_bound=bound,
        sigma=sigma,
        facts={"damping": damping, "residual": residual},
    )


def unconditional(task: Task, mechanism: Mechanism) -> Outcome:
    """Output perturbation or noisy fine-tuning, each with recovery on the retain set."""
    policy = Policy.model_validate(
        {
            "unconditional": {"delta": DELTA, **task.setting["unconditional"]},
            "noisy_finetune": task.setting.get("noisy_finetune", {}),
        }
    )
    spec, retained, start = task.spec, len(task.retain[1]), _start(task)
    context = Context(spec, policy, len(start), training_seconds=0.0, records=retained)
    problem = Problem(context, *task.retain, start, device=task.place.device)
    done, seconds, peak = spent(
        lambda: release(mechanism, problem, mechanism.unlearn(problem), draws=1), task.place.device
    )
    steps = policy.noisy_finetune if mechanism.name == "noisy-finetune" else None
    noisy = steps.steps * min(steps.batch_size, retained) / retained if steps else 0.0
    recovery = policy.unconditional.recovery_epochs or spec.epochs
    return Outcome(
        done.weights,
        seconds,
        peak,
        noisy + recovery,
        guarantee=done.record.guarantee,
        epsilon=done.record.epsilon,
        delta=done.record.delta,
        error_bound=done.record.error_bound,
        sigma=done.record.sigma,
        facts={"recovery_epochs": recovery},
    )


def convex(task: Task) -> Outcome:
    """The convex model re-solved from its released weights, with kept curvature, and released again."""
    spec, mechanism = task.convex_spec, Convex()
    policy = Policy.model_validate({"release": {"delta": DELTA}})
    trained = task.trained("original", convex=True)["weights"]
    parent = torch.from_numpy(GaussianNoise().add(trained.numpy(), policy.release.sigma))
    kept, kept_seconds = build_kept(
        spec, task.data.features, task.data.labels, parent, rank=spec.kept_rank, sample=spec.kept_sample
    )
    context = Context(spec, policy, len(parent), training_seconds=0.0, records=len(task.retain[1]))
    problem = Problem(context, *task.retain, parent, kept=kept, device=task.place.device)

    def run() -> tuple[Tensor, object]:
        unlearned = mechanism.unlearn(problem)
        return unlearned.weights, release(mechanism, problem, unlearned, draws=1)

    (noiseless, done), seconds, peak = spent(run, task.place.device)
    return Outcome(
        done.weights,
        seconds,
        peak,
        2 * done.sealed["products"],
        convex=True,
        noiseless=noiseless,
        guarantee=done.record.guarantee,
        epsilon=done.record.epsilon,
        delta=done.record.delta,
        error_bound=done.record.error_bound,
        sigma=done.record.sigma,
        facts={"certified_distance": certified_bound(spec), "kept_curvature_seconds": kept_seconds},
    )


METHODS: dict[str, Callable[[Task], Outcome]] = {
    "original": original,
    "retrain": retrain,
    "fine-tune": fine_tuned,
    "negative-gradient": ascended,
    "fisher": scrubbed,
    "l-codec": codec,
    "newton-published": published,
    "newton": newton,
    "noisy-finetune": partial(unconditional, mechanism=NoisyFinetune()),
    "output-perturbation": partial(unconditional, mechanism=OutputPerturbation()),
    "convex-original": partial(original, convex=True),
    "convex-retrain": partial(retrain, convex=True),
    "convex": convex,
}
