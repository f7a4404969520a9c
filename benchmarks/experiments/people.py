"""Whole people leave: what that does to the model for everyone else, and for rare groups.

A *person* is a subject of the dataset, with all rows. 1 to 1,000 people leave, chosen uniformly or from a rare group.
Three models are compared on the dataset's own test rows, group by group:

- *before*: trained on everybody, no noise;
- *retrained*: from scratch on those who stay, no noise: exact;
- *unlearned*: the convex mechanism from the released (noised) weights, with policy's noise: what is released.

``retrained - before`` is what forgetting itself does, ``unlearned - retrained`` what the mechanism adds. Intervals are
95 % by resampling test people, all rows of each together, the same people for every model: a difference counts as one
only where its interval leaves out zero, and of many intervals one in twenty does so by chance.
"""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import SEED, model_spec
from benchmarks.contrasts import compare, pooled, wilson
from benchmarks.runner import Cell, Document, Place, Setting, rows, spread, table
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.preconditioner import KeptCurvature, keep_curvature
from expunge.datasets.catalogue import LoadedDataset, load
from expunge.datasets.preprocessing import Encoded, encode, fit
from expunge.devices import CPU
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex
from expunge.models.predictor import predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Policy

Flags = NDArray[np.bool_]


def cells(setting: Setting) -> list[Cell]:
    """Dataset by dataset, few people first."""
    return [
        {"dataset": name, "who": who, "people": people, "seed": seed}
        for name in setting["datasets"]
        for who in setting["who"]
        for people in setting["people"]
        for seed in setting["seeds"]
    ]


def choose_people(subjects: NDArray[Any], eligible: Flags, people: int, seed: int) -> NDArray[Any] | None:
    """Subjects that leave, drawn without replacement.

    Args:
        subjects: Whose row each is, shape (n,).
        eligible: Rows whose subjects may be drawn, shape (n,).
        people: How many.
        seed: Of the draw.

    Returns:
        Their ids; None where there are not so many.
    """
    candidates = np.unique(subjects[eligible])
    if len(candidates) < people:
        return None
    return np.random.default_rng([SEED, seed]).choice(candidates, people, replace=False)


def groups(frame: pd.DataFrame, train: Flags, declared: dict[str, Any]) -> dict[str, Flags]:
    """Who belongs to which group: ``all``, every value of the declared columns, and the rare group.

    Args:
        frame: Rows of a dataset.
        train: Which of them are training rows: tertiles of a number are theirs.
        declared: ``groups`` (columns), ``bands`` (column -> band -> values), ``tertiles`` (name -> column), ``rare``
            (column -> values).
    """
    columns = {name: frame[name].astype(str) for name in declared["groups"] if name in frame}
    for name, bands in declared.get("bands", {}).items():
        band_of = {value: band for band, values in bands.items() for value in values}
        columns[name] = frame[name].map(band_of)
    for name, column in declared.get("tertiles", {}).items():
        edges = [-math.inf, *np.quantile(frame[column][train], [1 / 3, 2 / 3]), math.inf]
        columns[name] = pd.cut(frame[column], edges, labels=["low", "middle", "high"]).astype(str)
    out = {"all": np.ones(len(frame), dtype=bool)}
    for name, values in columns.items():
        out |= {
            f"{name}: {value}": (values == value).to_numpy() for value in sorted(values.dropna().unique())
        }
    out["rare group"] = np.zeros(len(frame), dtype=bool)
    for name, values in declared["rare"].items():
        out["rare group"] |= columns[name].isin(values).to_numpy()
    return out


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """Let some people go, in three ways, and look at every group."""
    declared = setting["datasets"][cell["dataset"]]
    loaded = _load(cell["dataset"], place.source(cell["dataset"]))
    frame = loaded.frame
    is_train = (frame["split"] == "train").to_numpy()
    member = groups(frame, is_train, declared)
    subjects = frame["subject_id"].to_numpy()
    eligible = is_train & member["all" if cell["who"] == "uniform" else "rare group"]
    leaving = choose_people(subjects, eligible, cell["people"], cell["seed"])
    if leaving is None:
        found = len(np.unique(subjects[eligible]))
        return {"not_run": f"{found} people there, {cell['people']} asked for", "groups": {}}
    staying = is_train & ~np.isin(subjects, leaving)
    policy = Policy()

    spec, everyone, test = _encoded(loaded, is_train, declared)
    key = {"people": cell["dataset"], "spec": spec.to_json()}
    before = place.kept(key, lambda: _fit(spec, everyone, place.device))
    kept = KeptCurvature(**place.kept({**key, "kept": True}, lambda: _keep(spec, everyone, before, place)))
    released = torch.from_numpy(_noise(cell, "before").add(before.numpy(), policy.release.sigma))

    spec, retained, test_after = _encoded(loaded, staying, declared)
    features, labels = torch.from_numpy(retained.features), torch.from_numpy(retained.labels)
    scratch = train(spec, features, labels, device=place.device)
    context = Context(spec, policy, parameters=len(released), training_seconds=scratch.seconds)
    mechanism = Convex()
    unlearned = mechanism.unlearn(Problem(context, features, labels, released, kept, device=place.device))
    calibration = mechanism.calibrate(context)
    noised = mechanism.perturb(
        Problem(context, features, labels, released), unlearned, calibration, _noise(cell, "after")
    )
    logits = {
        "before": _logits(spec, before, test),
        "retrained": _logits(spec, scratch.weights, test_after),
        "unlearned": _logits(spec, noised, test_after),
    }
    is_test = (frame["split"] == "test").to_numpy()
    positive = loaded.contract.classes.index(declared["positive"])
    return {
        "not_run": None,
        "parameters": len(released),
        "rows_removed": int(is_train.sum() - staying.sum()),
        "most_rows_of_a_person": int(pd.Series(subjects[is_train & ~staying]).value_counts().max()),
        "guarantee": mechanism.guarantee,
        "epsilon": calibration.epsilon,
        "delta": calibration.delta,
        "sigma": calibration.sigma,
        "error_bound": calibration.error_bound,
        "distance_to_retrained": float((unlearned.weights - scratch.weights).norm()),
        "retrain_products": scratch.products,
        "unlearn_products": unlearned.sealed["products"],
        "groups": {
            name: {
                "train_rows_left": int((flags & staying).sum()),
                **compare(
                    {model: z[torch.from_numpy(flags[is_test])] for model, z in logits.items()},
                    test.labels[flags[is_test]],
                    subjects[flags & is_test],
                    positive,
                    setting["resamples"],
                ),
            }
            for name, flags in member.items()
        },
    }


@functools.lru_cache(maxsize=1)
def _load(name: str, source: Path | None) -> LoadedDataset:
    return load(name, source)


def _encoded(
    loaded: LoadedDataset, chosen: Flags, declared: dict[str, Any]
) -> tuple[ModelSpec, Encoded, Encoded]:
    """Spec, chosen rows and test rows; constants that come from data are those of the chosen rows."""
    preprocessing = fit(loaded.frame[chosen], loaded.contract)
    spec = model_spec(
        declared["model"],
        len(preprocessing.feature_names),
        len(preprocessing.classes),
        declared.get("training"),
        **declared.get("hyperparameters", {}),
    )
    test = loaded.frame[loaded.frame["split"] == "test"]
    return spec, encode(loaded.frame[chosen], preprocessing), encode(test, preprocessing)


def _fit(spec: ModelSpec, data: Encoded, device: torch.device) -> Tensor:
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    return train(spec, features, labels, device=device).weights


def _keep(spec: ModelSpec, data: Encoded, weights: Tensor, place: Place) -> dict[str, Any]:
    """Curvature kept from training on everybody, as a workspace keeps it: it serves one release."""
    network = build(spec, device=place.device)
    features, labels = torch.from_numpy(data.features), torch.from_numpy(data.labels)
    objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
    kept = keep_curvature(objective, weights, rank=spec.kept_rank, sample=spec.kept_sample)
    return vars(kept.to(kept.factor.dtype, CPU))


def _logits(spec: ModelSpec, weights: Tensor, test: Encoded) -> Tensor:
    return predict_logits(spec, weights, build(spec).initial(), torch.from_numpy(test.features))


def _noise(cell: Cell, what: str) -> GaussianNoise:
    """A stream that anyone can make again: nothing here is ever released."""
    words = f"{cell['dataset']} {cell['who']} {cell['people']} {cell['seed']} {what}"
    return GaussianNoise(hashlib.sha256(words.encode()).digest())


def _cases(document: Document) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Rows that ran, by dataset, who and how many; the seeds of each together."""
    out: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows(document):
        if row["not_run"] is None:
            out.setdefault((row["dataset"], row["who"], row["people"]), []).append(row)
    return out


def _contrast(
    case: list[dict[str, Any]], group: str, contrast: str, metric: str
) -> tuple[float, float, float] | None:
    """Pooled over the seeds of a case; None where the group does not define it."""
    cells_of = [row["groups"][group].get("contrasts", {}).get(contrast, {}).get(metric) for row in case]
    found = [value for value in cells_of if value is not None]
    return pooled(found) if found else None


def _points(value: tuple[float, float, float] | None) -> str:
    """In percentage points; a star where the interval leaves out zero."""
    if value is None:
        return "–"
    mean, low, high = (100 * v for v in value)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" + (" *" if low > 0 or high < 0 else "")


def stars(document: Document) -> tuple[int, int]:
    """How many pooled contrasts leave out zero, of how many that could: accuracy and AUC, forgetting and mechanism."""
    found = [
        _contrast(case, group, contrast, metric)
        for case in _cases(document).values()
        for group in case[0]["groups"]
        for contrast in ("forgetting", "mechanism")
        for metric in ("accuracy", "auc")
    ]
    known = [value for value in found if value is not None and value[1] < value[2]]
    return sum(low > 0 or high < 0 for _, low, high in known), len(known)


def tables(document: Document) -> dict[str, str]:
    """What was removed and stated; then, for the largest removals, every group."""
    cases = _cases(document)
    summary = []
    for (dataset, who, people), case in cases.items():
        accuracy = [
            spread([row["groups"]["all"]["models"][m]["accuracy"] for row in case], ".4f") for m in _MODELS
        ]
        first = case[0]
        summary.append(
            [dataset, who, f"{people:,}", spread([float(r["rows_removed"]) for r in case], ".4g"), *accuracy]
            + [_points(_contrast(case, "rare group", c, "auc")) for c in ("forgetting", "mechanism")]
            + [f"{first['epsilon']:g} ({first['guarantee']}, delta {first['delta']:g})"]
        )
    starred, known = stars(document)
    summarised = table(
        [
            "data",
            "who leaves",
            "people",
            "rows",
            *_MODELS,
            "rare group, forgetting",
            "rare group, mechanism",
            "epsilon",
        ],
        summary,
    )
    summarised += (
        "\nAccuracy on all test rows; for the rare group the change of AUC in percentage points with its 95 % "
        "interval; a star where that leaves out zero. An interval without width: no test row of the group came out "
        "otherwise, which bounds nothing beyond the test set. Over every case and group "
        f"{starred} of {known} intervals with a width leave out zero (accuracy and AUC, both contrasts); "
        f"{0.05 * known:.0f} would by chance alone.\n"
    )
    made = {"summary": summarised}
    for (dataset, who, people), case in cases.items():
        if people != max(p for d, w, p in cases if (d, w) == (dataset, who)):
            continue
        body = []
        for group, found in case[0]["groups"].items():
            if not found["rows"]:
                body.append([group, "0", f"{found['train_rows_left']:,}", *["–"] * 6])
                continue
            share = found["models"]["before"]["accuracy"]
            low, high = wilson(share, found["rows"])
            balanced, auc = (found["models"]["before"][m] for m in ("balanced_accuracy", "auc"))
            body.append(
                [group, f"{found['rows']:,}", f"{found['train_rows_left']:,}"]
                + [
                    f"{share:.3f} [{low:.3f}, {high:.3f}]",
                    f"{balanced:.3f}",
                    "–" if auc is None else f"{auc:.3f}",
                ]
                + [
                    _points(_contrast(case, group, contrast, metric))
                    for contrast, metric in (
                        ("forgetting", "accuracy"),
                        ("mechanism", "accuracy"),
                        ("both", "auc"),
                    )
                ]
            )
        made[f"{dataset}-{who}"] = f"{dataset}, {who}, {people:,} people, {len(case)} seeds:\n\n" + table(
            [
                "group",
                "test rows",
                "training rows left",
                "accuracy before",
                "balanced",
                "AUC",
                "accuracy: retrained − before",
                "accuracy: unlearned − retrained",
                "AUC: unlearned − before",
            ],
            body,
        )
    return made


_MODELS = ("before", "retrained", "unlearned")


def figure(document: Document) -> Figure | None:
    """Change of AUC for every group, at the largest removals, with intervals: forgetting, and the mechanism."""
    cases = _cases(document)
    names = list(dict.fromkeys(dataset for dataset, _, _ in cases))
    if not names:
        return None
    kinds = list(dict.fromkeys(who for _, who, _ in cases))
    counts = {
        name: len(next(case for key, case in cases.items() if key[0] == name)[0]["groups"]) for name in names
    }
    drawn = Figure(
        figsize=(5.2 * len(kinds), 1.0 + 0.32 * sum(counts.values())), dpi=120, layout="constrained"
    )
    grid = drawn.subplots(
        len(names), len(kinds), squeeze=False, gridspec_kw={"height_ratios": [counts[name] for name in names]}
    )
    for line, name in enumerate(names):
        for column, who in enumerate(kinds):
            panel = grid[line][column]
            most = max((p for d, w, p in cases if (d, w) == (name, who)), default=None)
            if most is None:
                panel.set_visible(False)
                continue
            case = cases[name, who, most]
            labels = list(case[0]["groups"])
            for shift, contrast, colour in ((-0.15, "forgetting", "#0b5cad"), (0.15, "mechanism", "#c26a00")):
                for index, group in enumerate(labels):
                    found = _contrast(case, group, contrast, "auc")
                    if found is not None:
                        mean, low, high = (100 * v for v in found)
                        error = [[mean - low], [high - mean]]
                        words = {"forgetting": "retrained − before", "mechanism": "unlearned − retrained"}[
                            contrast
                        ]
                        panel.errorbar(
                            mean, index + shift, xerr=error, fmt="o", color=colour, markersize=3, linewidth=1,
                            label=words if index == 0 else None,
                        )  # fmt: skip
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_yticks(range(len(labels)), labels, fontsize=7)
            panel.invert_yaxis()
            panel.tick_params(axis="x", labelsize=7)
            panel.set_title(f"{name}: {most:,} people leave, {who}", fontsize=9)
            panel.set_xlabel("change of AUC, percentage points, 95 %", fontsize=8)
            panel.grid(alpha=0.3)
    grid[0][0].legend(fontsize=7, frameon=False)
    return drawn


def expected(document: Document) -> dict[str, float]:
    """What was removed, what it cost in products, what is stated, and accuracy over all test rows."""
    out: dict[str, float] = {}
    for row in rows(document):
        if row["not_run"] is None:
            name = f"{row['dataset']} {row['who']} {row['people']} {row['seed']}"
            for what in (
                "parameters",
                "rows_removed",
                "epsilon",
                "error_bound",
                "retrain_products",
                "unlearn_products",
            ):
                out[f"{name}: {what}"] = float(row[what])
            for model, found in row["groups"]["all"]["models"].items():
                out[f"{name}: accuracy {model}"] = found["accuracy"]
    return out
