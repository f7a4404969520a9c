"""Convex unlearning against training from scratch, side by side: `python -m benchmarks.convex --source NAME=PATH ...`.

NAME is a dataset of the catalogue, by default mnist and diabetes130; bundled ones need no path (`--dataset NAME`).
For a softmax head and a linearised network it trains, releases with noise, removes people (the person with most rows,
or 1 and 100 records where every row is another person) and compares, each to the same gradient tolerance:

- unlearning: from the released weights, with the curvature kept from the last release;
- a warm start: from the released weights, without kept curvature;
- retraining the same model from scratch on the retain set.

Kept curvature saw the people removed, so it is built anew after each release; that time is reported beside. An
ordinary deep network of the same width is retrained for as few epochs as reach the same test accuracy.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common import (
    SEED,
    Records,
    bars,
    emit,
    hardware,
    model_spec,
    panels,
    parser,
    read_records,
    say,
    synthetic,
    timed,
)
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import KeptCurvature, keep_curvature
from expunge.datasets.catalogue import ENTRIES
from expunge.mechanisms.convex import certified_bound
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import Trained, train
from expunge.models.zoo import build
from expunge.settings import Policy

SIGMA = Policy().release.sigma
HIDDEN = [32]
RANK, SAMPLE = 200, 4000  # of the sketch
MAX_EPOCHS = 20
_CPU = torch.device("cpu")


def build_kept(
    spec: ModelSpec, features: Tensor, labels: Tensor, weights: Tensor, *, rank: int, sample: int
) -> tuple[KeptCurvature, float]:
    """Kept curvature at released weights, and the seconds it took, the objective's included."""

    def make() -> KeptCurvature:
        network = build(spec)
        objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
        return keep_curvature(objective, weights, rank=rank, sample=sample)

    return timed(make)


def unlearn(
    spec: ModelSpec,
    features: Tensor,
    labels: Tensor,
    released: Tensor,
    kept: KeptCurvature,
    *,
    rank: int,
    sample: int,
) -> tuple[Trained, float]:
    """Unlearn on the retain set; with the seconds of building the curvature that the next removal needs."""
    unlearned = train(spec, features, labels, start=released, kept=kept)
    _, rebuild = build_kept(spec, features, labels, noised(unlearned.weights), rank=rank, sample=sample)
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


def measure_model(spec: ModelSpec, data: Records, *, rank: int, sample: int) -> dict[str, Any]:
    """One model: train, build what is kept, and make every removal from that one release."""

    def test_accuracy(run: Trained) -> float:
        return accuracy(predict_logits(spec, run.weights, run.origin, data.test_features), data.test_labels)

    trained = train(spec, data.features, data.labels)
    say(f"  {spec.name}: trained in {trained.seconds:.3g} s")
    released = noised(trained.weights)
    kept, build_seconds = build_kept(spec, data.features, data.labels, released, rank=rank, sample=sample)
    out = []
    for name, mask in removals(data.subjects).items():
        chosen = torch.from_numpy(mask)
        features, labels = data.features[chosen], data.labels[chosen]
        unlearned, rebuild = unlearn(spec, features, labels, released, kept, rank=rank, sample=sample)
        warm = train(spec, features, labels, start=released)
        scratch = train(spec, features, labels)
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
    }


def _cost(run: Trained) -> dict[str, float]:
    return {"seconds": run.seconds, "products": run.products}


def deep_runs(spec: ModelSpec, data: Records, target: float, limit: int) -> list[dict[str, float]]:
    """A deep network retrained for 1, 2, ... epochs after the largest removal, until it reaches a test accuracy."""
    retained = torch.from_numpy(list(removals(data.subjects).values())[-1])
    runs: list[dict[str, float]] = []
    for epochs in range(1, limit + 1):
        run = train(replace(spec, epochs=epochs), data.features[retained], data.labels[retained])
        logits = predict_logits(spec, run.weights, run.origin, data.test_features)
        reached = accuracy(logits, data.test_labels)
        runs.append({"epochs": epochs, "seconds": run.seconds, "test_accuracy": reached})
        if reached >= target:
            break
    return runs


def compare_deep(removal: dict[str, Any], runs: list[dict[str, float]]) -> dict[str, Any]:
    """The fewest epochs that reach the unlearned model's test accuracy, and which of the two is cheaper."""
    target = removal["unlearn"]["test_accuracy"]
    first = next((run for run in runs if run["test_accuracy"] >= target), None)
    if first is None:
        best = max(run["test_accuracy"] for run in runs)
        return {"reached": False, "epochs_tried": len(runs), "best_test_accuracy": best, "cheaper": "unlearn"}
    seconds = removal["unlearn"]["seconds"]
    whole = seconds + removal["rebuild_seconds"]
    return {
        "reached": True,
        **first,
        "ratio_unlearn": seconds / first["seconds"],
        "ratio_with_rebuild": whole / first["seconds"],
        "cheaper": "unlearn" if seconds < first["seconds"] else "retrain deep",
        "cheaper_with_rebuild": "unlearn" if whole < first["seconds"] else "retrain deep",
    }


def measure(
    data: Records,
    *,
    hidden: list[int] | None = None,
    rank: int = RANK,
    sample: int = SAMPLE,
    max_epochs: int = MAX_EPOCHS,
    training: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One dataset: both convex models, and the deep network beside them."""
    warm_up()
    hidden = hidden or HIDDEN
    width = data.features.shape[1]
    specs = [
        model_spec("softmax", width, data.classes, training),
        model_spec("linearized-mlp", width, data.classes, training, hidden=hidden),
    ]
    models = [measure_model(spec, data, rank=rank, sample=sample) for spec in specs]
    removed = [removal for model in models for removal in model["removals"]]
    deep = model_spec("mlp", width, data.classes, training, hidden=hidden)
    target = max(removal["unlearn"]["test_accuracy"] for removal in removed)
    runs = deep_runs(deep, data, target, max_epochs)
    for removal in removed:
        removal["deep_network"] = compare_deep(removal, runs)
    return {
        "train_records": len(data.labels),
        "test_records": len(data.test_labels),
        "features": width,
        "sigma": SIGMA,
        "models": models,
        "deep_network": {
            "hidden": hidden,
            "optimiser": "Adam with projection, float64, the library's trainer, on the smallest retain set",
            "batch_size": deep.batch_size,
            "learning_rate": deep.learning_rate,
            "runs": runs,
        },
    }


def plot(document: dict[str, Any]) -> Figure:
    figure, axes = panels(max(1, len(document["datasets"])))
    for panel, (name, dataset) in zip(axes, document["datasets"].items(), strict=False):
        ratios = {}
        for model in dataset["models"]:
            for removal in model["removals"]:
                key = f"{model['model']}\n{removal['removed']}"
                ratios[key] = removal["ratio_unlearn"]
                ratios[f"{key}\nwith rebuilding"] = removal["ratio_with_rebuild"]
        bars(panel, ratios, "seconds, unlearning over retraining")
        panel.axvline(1.0, color="#b3261e", linestyle="--", linewidth=1)
        panel.set_title(name, fontsize=10)
    return figure


def main() -> None:
    options = parser(__doc__, device=False)
    options.add_argument("--source", action="append", default=[], metavar="NAME=PATH", help="of a dataset")
    options.add_argument("--dataset", action="append", help="by default mnist and diabetes130")
    options.add_argument("--rank", type=int, default=RANK, help="columns of the sketch")
    options.add_argument("--sample", type=int, default=SAMPLE, help="records of the sketch")
    options.add_argument("--max-epochs", type=int, default=MAX_EPOCHS, help="of the deep network")
    given = options.parse_args()
    sources = {name: Path(path) for name, _, path in (text.partition("=") for text in given.source)}
    bundled = {entry.name for entry in ENTRIES if entry.bundled}
    document: dict[str, Any] = {"datasets": {}, "skipped": [], "hardware": hardware(_CPU)}
    for name in given.dataset or ["mnist", "diabetes130"]:
        source = sources.get(name)
        if name not in bundled and (source is None or not source.exists()):
            say(f"skipped: {name} is not there; pass --source {name}=PATH")
            document["skipped"].append(name)
            continue
        say(name)
        document["datasets"][name] = measure(
            read_records(name, source, given.records),
            rank=given.rank,
            sample=given.sample,
            max_epochs=given.max_epochs,
        )
    if document["datasets"]:
        emit("convex", document, plot(document), given.out)


if __name__ == "__main__":
    main()
