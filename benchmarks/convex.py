"""Convex unlearning against training from scratch, side by side, each to the same gradient tolerance.

It trains, releases with noise, removes people (the person with most rows, or 1 and 100 records where every row is
another person) and compares:

- unlearning: from the released weights, with the curvature kept from the last release;
- a warm start: from the released weights, without kept curvature;
- retraining the same model from scratch on the retain set.

Kept curvature saw the people removed, so it is built anew after each release; that time is reported beside. An
ordinary deep network of the same width is retrained for as few epochs as reach a test accuracy.
``benchmarks/experiments/peers.py`` calls it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import SEED, Records, model_spec, say, synthetic, timed
from benchmarks.profiles import by_part
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import KeptCurvature, keep_curvature
from expunge.devices import CPU
from expunge.mechanisms.convex import certified_bound
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import Trained, train
from expunge.models.zoo import build
from expunge.settings import Policy

SIGMA = Policy().release.sigma
# What a re-solve is made of: callee -> (caller, part).
_PARTS = {
    "conjugate_gradients": ("minimize", "inner products, float32"),
    "_step_length": ("minimize", "line search"),
    "logits_and_gradient": ("minimize", "outer gradients"),
    "gradient": ("minimize", "final check"),
    "reversed": ("minimize", "final check"),
    "single": ("minimize", "activations, twice"),
    "__init__": ("train", "activations, twice"),
}


def build_kept(
    spec: ModelSpec,
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    rank: int,
    sample: int,
    device: torch.device = CPU,
) -> tuple[KeptCurvature, float]:
    """Kept curvature at released weights, and the seconds it took, the objective's included."""

    def make() -> KeptCurvature:
        network = build(spec, device=device)
        objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
        return keep_curvature(objective, weights, rank=rank, sample=sample)

    return timed(make, device)


def unlearn(
    spec: ModelSpec,
    features: Tensor,
    labels: Tensor,
    released: Tensor,
    kept: KeptCurvature,
    *,
    rank: int,
    sample: int,
    device: torch.device = CPU,
) -> tuple[Trained, float]:
    """Unlearn on the retain set; with the seconds of building the curvature that the next removal needs."""
    unlearned = train(spec, features, labels, start=released, kept=kept, device=device)
    _, rebuild = build_kept(
        spec, features, labels, noised(unlearned.weights), rank=rank, sample=sample, device=device
    )
    return unlearned, rebuild


def noised(weights: Tensor, sigma: float = SIGMA) -> Tensor:
    """Weights with noise of the release's size."""
    generator = torch.Generator().manual_seed(SEED)
    return weights + sigma * torch.randn(len(weights), dtype=torch.float64, generator=generator)


def warm_up() -> None:
    """Load what a process loads once, so that the first model does not pay for it."""
    data = synthetic(50, 3, 2)
    spec = model_spec("linearized-mlp", 3, 2, hidden=[2])
    trained = train(spec, data.features, data.labels)
    build_kept(spec, data.features, data.labels, trained.weights, rank=2, sample=20)


def removals(subjects: "np.ndarray[Any, Any]") -> dict[str, "np.ndarray[Any, Any]"]:
    """Which records are retained, for each removal."""
    people, rows = np.unique(subjects, return_counts=True)
    if rows.max() > 1:
        return {"person with most rows": subjects != people[rows.argmax()]}
    order = np.arange(len(subjects))
    return {"1 record": order >= 1, "100 records": order >= 100}


def measure_model(
    spec: ModelSpec, data: Records, *, rank: int, sample: int, device: torch.device = CPU
) -> dict[str, Any]:
    """One model: train, build what is kept, and make every removal from that one release."""

    def test_accuracy(run: Trained) -> float:
        return accuracy(predict_logits(spec, run.weights, run.origin, data.test_features), data.test_labels)

    trained = train(spec, data.features, data.labels, device=device)
    say(f"  {spec.name}: trained in {trained.seconds:.3g} s")
    released = noised(trained.weights)
    sketch: dict[str, Any] = {"rank": rank, "sample": sample, "device": device}
    kept, build_seconds = build_kept(spec, data.features, data.labels, released, **sketch)
    out = []
    for name, mask in removals(data.subjects).items():
        chosen = torch.from_numpy(mask)
        features, labels = data.features[chosen], data.labels[chosen]
        unlearned, rebuild = unlearn(spec, features, labels, released, kept, **sketch)
        warm = train(spec, features, labels, start=released, device=device)
        scratch = train(spec, features, labels, device=device)
        distance, bound = float((unlearned.weights - scratch.weights).norm()), certified_bound(spec)
        out.append(
            {
                "removed": name,
                "records_removed": len(mask) - len(labels),
                "unlearn": {**_cost(unlearned), "test_accuracy": test_accuracy(unlearned)},
                "rebuild_seconds": rebuild,
                "warm_start": _cost(warm),
                "retrain": {**_cost(scratch), "test_accuracy": test_accuracy(scratch)},
                "ratio_unlearn": unlearned.seconds / scratch.seconds,
                "ratio_with_rebuild": (unlearned.seconds + rebuild) / (scratch.seconds + build_seconds),
                "ratio_warm_start": warm.seconds / scratch.seconds,
                "ratio_products": unlearned.products / scratch.products,
                "ratio_products_warm_start": warm.products / scratch.products,
                "distance_to_retrained": distance,
                "certified_bound": bound,
                "within_bound": distance <= bound,
            }
        )
        say(f"  {name}: unlearned in {unlearned.seconds:.3g} s, retrained in {scratch.seconds:.3g} s")
    profile = by_part(
        lambda: train(spec, features, labels, start=released, kept=kept, device=device), "train", _PARTS
    )
    return {
        "model": spec.name,
        "parameters": len(trained.weights),
        "l2": spec.l2,
        "gradient_tolerance": spec.gradient_tolerance,
        "train": {**_cost(trained), "test_accuracy": test_accuracy(trained)},
        "kept_curvature": {
            "form": kept.form,
            "rank": len(kept.eigenvalues),
            "records": kept.records,
            "seconds": build_seconds,
        },
        "removals": out,
        "profile": {part: seconds / sum(profile.values()) for part, seconds in profile.items()},
    }


def _cost(run: Trained) -> dict[str, float]:
    return {"seconds": run.seconds, "products": run.products}


def deep_runs(
    spec: ModelSpec, data: Records, target: float, limit: int, device: torch.device = CPU
) -> list[dict[str, float]]:
    """A deep network retrained for 1, 2, ... epochs after the largest removal, until it reaches a test accuracy."""
    retained = torch.from_numpy(list(removals(data.subjects).values())[-1])
    runs: list[dict[str, float]] = []
    for epochs in range(1, limit + 1):
        run = train(
            replace(spec, epochs=epochs), data.features[retained], data.labels[retained], device=device
        )
        logits = predict_logits(spec, run.weights, run.origin, data.test_features)
        reached = accuracy(logits, data.test_labels)
        runs.append({"epochs": epochs, "seconds": run.seconds, "test_accuracy": reached})
        if reached >= target:
            break
    return runs
