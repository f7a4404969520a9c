"""The paper's comparison: every method on the same forgetting tasks, beside what each of them guarantees.

After Zhang, Dong, Wang and Li (ICML 2024, arXiv 2408.00920), section 6, with what is missing there: the epsilon that
each sigma honestly means, intervals, an attack scored on records it was not fitted on, passes over the retain set as a
cost that no machine changes, and the distance of two retrained models as a yardstick. SVHN is not among the datasets of
the catalogue; Fashion-MNIST takes its place with ResNet-18. Features are encoded once, by all training records: the
comparison is one of models, and a certificate's encoding is made anew on the retain set.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from torch import Tensor

from benchmarks.common import panels
from benchmarks.contenders import METHODS, Outcome
from benchmarks.forgetting import Task, task
from benchmarks.membership import attack
from benchmarks.relearn import relearn
from benchmarks.runner import Cell, Document, Place, Setting, rows, spread, table
from expunge.settings import Policy

NAMES = {
    "original": "original",
    "retrain": "retrain",
    "fine-tune": "fine-tune",
    "negative-gradient": "negative gradient",
    "fisher": "Fisher forgetting",
    "l-codec": "L-CODEC",
    "newton-published": "Newton, LiSSA as published",
    "newton": "Newton, damping above ‖H‖",
    "noisy-finetune": "noisy fine-tuning",
    "output-perturbation": "output perturbation",
    "convex-original": "convex model: original",
    "convex-retrain": "convex model: retrain",
    "convex": "convex model: unlearn",
}
_COLOURS = {
    "none": "#8a8f98",
    "none (measured)": "#c0392b",
    "conditional": "#d9822b",
    "unconditional": "#0b5cad",
    "convex": "#1a7f5a",
    "exact": "#222222",
}


def cells(setting: Setting) -> list[Cell]:
    """Every method of every seed, the models that the others need first, but for those that the setting leaves out."""
    methods = [method for method in METHODS if method not in setting.get("leave_out", {})]
    return [{"seed": seed, "method": method} for seed in setting["seeds"] for method in methods]


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """One method on the forgetting task of one seed."""
    there = task(setting, cell["seed"], place)
    done = METHODS[cell["method"]](there)
    return {
        "guarantee": done.guarantee,
        "epsilon": done.epsilon,
        "delta": done.delta,
        "error_bound": done.error_bound,
        "sigma": done.sigma,
        "parameters": len(done.weights),
        "retained": len(there.retain[1]),
        "forgotten": len(there.forget[1]),
        "seconds": done.seconds,
        "passes": done.passes,
        "bytes": done.bytes,
        **_measured(there, done),
        "facts": {name: _number(value) for name, value in done.facts.items()},
    }


def _measured(there: Task, done: Outcome) -> dict[str, Any]:
    """What the weights do; None throughout where they are not finite."""
    reference = there.trained("retrained", convex=done.convex)["weights"]
    sets = {"forget": there.forget, "retain": there.retain, "test": there.test}
    if not bool(torch.isfinite(done.weights).all()):
        nothing = dict.fromkeys(["distance", "distance_noiseless", "norm", "membership", "relearn"])
        return {**nothing, **dict.fromkeys(f"f1_{name}" for name in sets)}
    logits = {
        name: there.logits(done.weights, features, convex=done.convex) for name, (features, _) in sets.items()
    }
    noiseless = done.noiseless
    unseen = there.logits(done.weights, there.unseen[0], convex=done.convex), there.unseen[1]
    return {
        **{f"f1_{name}": micro_f1(logits[name], labels) for name, (_, labels) in sets.items()},
        "distance": float((done.weights - reference).norm()),
        "distance_noiseless": None if noiseless is None else float((noiseless - reference).norm()),
        "norm": float(done.weights.norm()),
        "membership": attack((logits["forget"], there.forget[1]), unseen, there.seed),
        "relearn": _relearned(there, done),
    }


def _relearned(there: Task, done: Outcome) -> dict[str, int | None]:
    before = there.trained("original", convex=done.convex)["weights"]
    features, labels = there.forget
    spec = there.spec  # the convex model has no learning rate of its own
    return relearn(
        there.forward(convex=done.convex),
        done.weights,
        features,
        labels,
        loss=there.mean_loss(before, there.forget, convex=done.convex),
        accuracy=micro_f1(there.logits(before, features, convex=done.convex), labels),
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        seed=there.seed,
        **there.setting["relearn"],
    )


def micro_f1(logits: Tensor, labels: Tensor) -> float:
    """Micro-averaged F1, which for one label a record is the accuracy."""
    return float(f1_score(labels.numpy(), logits.argmax(dim=1).numpy(), average="micro"))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------- what was found


def tables(document: Document) -> dict[str, str]:
    """All columns in brief; then what is left of the forget set, what is guaranteed, and what it costs."""
    found = _by_method(document)
    return {
        "setting": _described(document, found),
        "summary": _summary(found),
        "knowledge": "**What the model still knows.** Micro-F1 (with one label a record: accuracy); membership attack, "
        "forget set against test set, fitted on one half and scored on the other (0.5 is chance); relearn time until "
        "the loss on the forget set is the original's; distance to the retrained weights. The interval is one seed's, "
        "its ends averaged over the seeds.\n\n"
        + table(
            [
                "method",
                "F1 forget",
                "F1 retain",
                "F1 test",
                "attack AUC [95 %]",
                "attack accuracy [95 %]",
                "relearn epochs (steps)",
                "‖w − retrained‖",
                "before noise",
            ],
            [_knowledge(method, found[method]) for method in found],
        ),
        "guarantee": "**What is guaranteed**, at delta 1e-5.\n\n"
        + table(
            ["method", "class", "epsilon", "error bound", "sigma"],
            [_guarantee(method, found[method]) for method in found],
        ),
        "cost": "**What it costs.** A pass is a gradient of every retained record; a Hessian product counts as two. "
        "Memory is the process's high-water mark above that before the method.\n\n"
        + table(
            ["method", "CPU seconds", "passes", "extra MiB"],
            [_cost(method, found[method]) for method in found],
        ),
    }


def _summary(found: dict[str, list[dict[str, Any]]]) -> str:
    """One line a method with every column, spreads left out."""
    body = []
    for method, seen in found.items():
        epsilons = [row["epsilon"] for row in seen]
        steps = [_at(row, "relearn", "steps_to_loss") for row in seen]
        body.append(
            [
                NAMES[method],
                *(_mean([row[f"f1_{name}"] for row in seen]) for name in ("forget", "retain", "test")),
                _mean([_at(row, "membership", "auc") for row in seen]),
                "not reached" if None in steps else _mean(steps, ".3g"),
                _mean([row["distance"] for row in seen], ".3g"),
                seen[0]["guarantee"],
                _mean(epsilons, ".3g") + _vacuous(epsilons),
                *_cost(method, seen)[1:],
            ]
        )
    head = ["method", "F1 forget", "retain", "test", "attack AUC", "relearn steps", "‖w − retrained‖"]
    head += ["guarantee", "epsilon at delta 1e-5", "CPU seconds", "passes", "extra MiB"]
    return (
        table(head, body)
        + "\n"
        + _yardstick(found)
        + "An epsilon without a class guarantees nothing: it is what the "
        "sigma would mean were the retrained model as far away as the ball allows. Above 1, policy's limit, it is "
        "vacuous. CPU seconds are loose; a pass, a gradient of every retained record, is not.\n"
    )


def _by_method(document: Document) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(document):
        found.setdefault(row["method"], []).append(row)
    return {method: found[method] for method in METHODS if method in found}


def _described(document: Document, found: dict[str, list[dict[str, Any]]]) -> str:
    setting, first = document["setting"], next(iter(found.values()))
    model, convex = setting["model"], setting["convex"]
    shape = ", ".join(f"{name} {value}" for name, value in model.get("hyperparameters", {}).items())
    pool = setting["data"].get("pool")
    smaller = f", images averaged over {pool['size']}x{pool['size']} pixels" if pool else ""
    return (
        f"{setting['data']['name']}{smaller}; {model['name']} ({shape}), {first[0]['parameters']:,} parameters, "
        f"{model['training']['epochs']} epochs; {spread([row['retained'] for row in first], ',.0f')} records retained, "
        f"{spread([row['forgotten'] for row in first], ',.0f')} forgotten; convex model: {convex['name']}. "
        f"Mean ± standard deviation over seeds {', '.join(map(str, setting['seeds']))}, each with a forget set, "
        "initial weights and batch order of its own.\n"
        + "".join(f"Not run: {NAMES[m]} ({why}).\n" for m, why in setting.get("leave_out", {}).items())
    )


def _knowledge(method: str, seen: list[dict[str, Any]]) -> list[str]:
    def of(*path: str) -> list[float | None]:
        return [_at(row, *path) for row in seen]

    return [
        NAMES[method],
        *(spread(of(f"f1_{name}"), ".4f") for name in ("forget", "retain", "test")),
        *(
            f"{spread(of('membership', what), '.3f')} [{_mean(of('membership', what + '_low'))}, "
            f"{_mean(of('membership', what + '_high'))}]"
            for what in ("auc", "accuracy")
        ),
        _relearn_words(seen),
        spread(of("distance")),
        spread(of("distance_noiseless")),
    ]


def _relearn_words(seen: list[dict[str, Any]]) -> str:
    steps = [_at(row, "relearn", "steps_to_loss") for row in seen]
    if None in steps:
        return f"not reached in {steps.count(None)} of {len(steps)}"
    epochs = [_at(row, "relearn", "epochs_to_loss") for row in seen]
    return f"{spread(epochs, '.3g')} ({spread(steps, '.3g')})"


def _yardstick(found: dict[str, list[dict[str, Any]]]) -> str:
    apart = [_at(row, "facts", "distance_other_order") for row in found.get("retrain", [])]
    return f"Yardstick: two retrained networks that differ in batch order alone are {spread(apart)} apart. "


def _guarantee(method: str, seen: list[dict[str, Any]]) -> list[str]:
    epsilons = [row["epsilon"] for row in seen]
    return [
        NAMES[method],
        seen[0]["guarantee"],
        spread(epsilons) + _vacuous(epsilons),
        *(spread([row[name] for row in seen]) for name in ("error_bound", "sigma")),
    ]


def _vacuous(epsilons: list[float | None]) -> str:
    vacuous = any(value is not None and value > Policy().admit.epsilon for value in epsilons)
    return " (vacuous)" if vacuous else ""


def _cost(method: str, seen: list[dict[str, Any]]) -> list[str]:
    return [
        NAMES[method],
        spread([row["seconds"] for row in seen]),
        spread([row["passes"] for row in seen]),
        spread([row["bytes"] / 2**20 for row in seen], ".0f"),
    ]


def _at(row: dict[str, Any], *path: str) -> Any:
    value: Any = row
    for name in path:
        value = None if value is None else value.get(name)
    return value


def _mean(values: list[float | None], form: str = ".3f") -> str:
    numbers = [value for value in values if value is not None]
    return format(sum(numbers) / len(numbers), form) if numbers else "–"


def figure(document: Document) -> Figure | None:
    """Test F1 against time, and the attack's AUC with its interval, both coloured by guarantee class."""
    found = _by_method(document)
    made, (left, right) = panels(2)
    made.set_size_inches(11.5, 4.6)
    for number, seen in enumerate(found.values(), start=1):
        colour = _COLOURS[seen[0]["guarantee"]]
        points = [(row["seconds"], row["f1_test"]) for row in seen if row["f1_test"] is not None]
        if not points:
            continue
        left.plot(*zip(*points, strict=True), "o", color=colour, ms=4, alpha=0.45)
        centre = [sum(values) / len(points) for values in zip(*points, strict=True)]
        left.plot(*centre, "o", color=colour, ms=13)
        left.annotate(str(number), centre, ha="center", va="center", color="white", fontsize=7)
    left.set_xscale("log")
    left.set_xlabel("CPU seconds", fontsize=9)
    left.set_ylabel("micro-F1 on the test set", fontsize=9)
    names = []
    for number, (method, seen) in enumerate(found.items(), start=1):
        names.append(f"{NAMES[method]}  {number}")
        attacked = [row["membership"] for row in seen if row["membership"] is not None]
        if not attacked:
            continue
        area, low, high = (
            sum(one[key] for one in attacked) / len(attacked) for key in ("auc", "auc_low", "auc_high")
        )
        colour = _COLOURS[seen[0]["guarantee"]]
        right.errorbar(
            area, number, xerr=[[area - low], [high - area]], fmt="o", color=colour, ms=6, capsize=3
        )
        right.plot(
            [one["auc"] for one in attacked], [number] * len(attacked), "o", color=colour, ms=3, alpha=0.45
        )
    right.axvline(0.5, color="#222222", lw=0.8, ls="--")
    right.set_yticks(range(1, len(names) + 1), names, fontsize=8)
    right.set_ylim(len(names) + 0.5, 0.5)
    right.set_xlabel("AUC of the membership attack, 95 % interval (0.5: chance)", fontsize=9)
    used = {row["guarantee"] for seen in found.values() for row in seen}
    marks = [
        left.plot([], [], "o", color=colour, label=name)[0]
        for name, colour in _COLOURS.items()
        if name in used
    ]
    made.legend(
        handles=marks, title="guarantee class", loc="outside lower center", ncols=len(marks), fontsize=8
    )
    return made


def expected(document: Document) -> dict[str, float]:
    """Counts, epsilon, bounds, sigma, passes; nothing that a processor or the noise may change."""
    kept: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
        (name, lambda row, name=name: row[name])
        for name in ("parameters", "retained", "forgotten", "epsilon", "error_bound", "sigma", "passes")
    ]
    found = {}
    for row in rows(document):
        for name, read in kept:
            value = read(row)
            steady = name != "passes" or row["method"] not in _COUNTS_THAT_WAVER
            if value is not None and steady:
                found[f"{row['method']} seed {row['seed']}: {name}"] = float(value)
    return found


# solved to a tolerance from weights that noise or rounding has moved
_COUNTS_THAT_WAVER = {"l-codec", "convex"}
