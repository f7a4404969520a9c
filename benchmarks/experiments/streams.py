"""Streams of erasure requests on a convex model: what a batching policy costs, spends and exposes.

Every batch goes the product's way: the planner judges with the lineage's account; the convex mechanism re-solves from
the *released* weights with kept curvature, and is noised; past a limit of the ledger the batch is retrained exactly and
the account starts anew. Features are encoded once: that the product encodes anew on the retain set is left out.
Arrivals and noise come from public seeds, seconds from the clock.
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.ablation_deep import read
from benchmarks.arrivals import arrive, choose_people, closed, form_batches
from benchmarks.common import Records, model_spec, timed, unframe
from benchmarks.convex import build_kept
from benchmarks.runner import Cell, Document, Place, Setting, rows, table
from expunge.errors import CertificateRefusedError
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.convex import Convex, certified_bound
from expunge.mechanisms.planner import make_plan, mechanism_named
from expunge.mechanisms.retrain import Retrain
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.privacy.accountant import SequentialAccount, composed_epsilon
from expunge.privacy.noise import GaussianNoise
from expunge.settings import Policy

DEADLINE_DAYS = 30  # one month, GDPR Art. 12(3)


def cells(setting: Setting) -> list[Cell]:
    """Every stream with every policy."""
    return [{**stream, **policy} for stream in setting["streams"] for policy in setting["policies"]]


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """One stream under one policy."""
    data = read(setting["dataset"], place.source(setting["dataset"]), setting.get("records"), 1)
    part, seed = setting["model"], setting["seed"]
    spec = model_spec(
        part["name"], data.features.shape[1], data.classes, part["training"], **part["hyperparameters"]
    )
    policy = Policy.model_validate({"release": setting["release"], "ledger": setting["ledger"]})
    arrivals = arrive(cell["arrivals"], setting["requests"], setting["arrivals"][cell["arrivals"]], seed)
    people = choose_people(cell["deletions"], data, setting["requests"], seed, setting["class"])
    batches = form_batches(arrivals, cell["minimum_size"], cell["maximum_wait_days"])
    lineage = _Lineage(setting, spec, policy, data, place)
    before = lineage.accuracy()
    steps = [lineage.erase([people[request] for request in batch.requests]) for batch in batches]
    ends = closed(batches, [step["seconds"] + step["curvature_seconds"] for step in steps])
    waits = np.array([batch.at - arrivals[request] for batch in batches for request in batch.requests])
    days = np.array(
        [
            end - arrivals[request]
            for end, batch in zip(ends, batches, strict=True)
            for request in batch.requests
        ]
    )
    sizes = [len(batch.requests) for batch in batches]
    noised = [step for step in steps if step["mechanism"] == "convex"]
    release, calibration = policy.release, lineage.calibration
    run_length = max((step["account_step"] for step in steps), default=0)
    secret = composed_epsilon(calibration.m, run_length, release.delta) if run_length else None
    return {
        **lineage.compared(),
        "requests": len(people),
        "batches": len(batches),
        "releases": len(noised),
        "retrainings": len(steps) - len(noised),
        "retrained_at": [index + 1 for index, step in enumerate(steps) if step["mechanism"] == "retrain"],
        "why_retrained": next((step["why"] for step in steps if step["why"]), ""),
        "opened_by_wait": sum(batch.why == "wait" for batch in batches),
        "records_removed": lineage.removed,
        "people_per_batch": sum(sizes) / len(sizes),
        "smallest_batch": min(sizes),
        "alone": sum(size == 1 for size in sizes) / len(sizes),
        "accumulated_error": steps[-1]["accumulated_error"],
        "largest_accumulated_error": max(step["accumulated_error"] for step in steps),
        "accumulated_without_retraining": calibration.error_bound * len(batches),
        "uniform_error": calibration.error_bound if noised else 0.0,
        "guarantee": "convex" if noised else "exact",
        "epsilon": release.epsilon if noised else 0.0,
        "delta": release.delta,
        "m": calibration.m,
        "longest_lineage": run_length,
        "secret_state_epsilon": secret[1] if secret else None,
        "accuracy_before": before,
        "accuracy_after": steps[-1]["accuracy"],
        "accuracy_lowest": min(step["accuracy"] for step in steps),
        "wait_days_mean": float(waits.mean()),
        "wait_days_largest": float(waits.max()),
        "close_days_mean": float(days.mean()),
        "close_days_largest": float(days.max()),
        "closed_within_deadline": float((days <= DEADLINE_DAYS).mean()),
        "seconds": sum(step["seconds"] for step in steps),
        "curvature_seconds": sum(step["curvature_seconds"] for step in steps),
        "products": sum(step["products"] for step in steps),
        "timeline": {
            "requests": np.cumsum(sizes).tolist(),
            "accumulated_error": [step["accumulated_error"] for step in steps],
            "accuracy": [round(step["accuracy"], 5) for step in steps],
            "close_days": [round(day, 4) for day in days.tolist()],
        },
    }


class _Lineage:
    """A model, the weights that are released of it, and its account."""

    def __init__(
        self, setting: Setting, spec: ModelSpec, policy: Policy, data: Records, place: Place
    ) -> None:
        self.setting, self.spec, self.data, self.place = setting, spec, data, place
        self.retain = torch.ones(len(data.labels), dtype=torch.bool)
        key = {"what": "stream", "spec": spec.to_json(), "dataset": setting["dataset"], "n": len(data.labels)}
        made = place.kept(key, self._train)
        self.noiseless = self.released = made["weights"]  # the opening model is exact
        self.origin = made["origin"]
        self.context = Context(
            spec, policy, len(self.released), made["seconds"], made["products"], len(data.labels)
        )
        self.calibration = Convex().calibrate(self.context)
        self.kept, _ = self._keep()
        self.steps = 0

    @property
    def removed(self) -> int:
        return int((~self.retain).sum())

    def _train(self) -> dict[str, Any]:
        run = train(
            self.spec,
            self.data.features[self.retain],
            self.data.labels[self.retain],
            device=self.place.device,
        )
        return {
            "weights": run.weights,
            "origin": run.origin,
            "seconds": run.seconds,
            "products": run.products,
        }

    def _keep(self) -> Any:
        part = self.setting["model"]
        features, labels = self.data.features[self.retain], self.data.labels[self.retain]
        return build_kept(
            self.spec, features, labels, self.released, rank=part["rank"], sample=part["sample"]
        )

    def erase(self, people: list[Any]) -> dict[str, Any]:
        """One batch, as the product does it."""
        self.steps += 1
        self.retain &= torch.from_numpy(~np.isin(self.data.subjects, people))
        context = replace(self.context, records=len(self.data.labels) - self.removed)
        plan = make_plan(context, (Convex(), Retrain()))
        if plan.choice is None:
            raise CertificateRefusedError("policy admits no mechanism", got=plan.assessments[0].refusal)
        mechanism = mechanism_named(plan.choice)
        problem = Problem(
            context,
            self.data.features[self.retain],
            self.data.labels[self.retain],
            self.released,
            self.kept,
            device=self.place.device,
        )
        unlearned, seconds = timed(lambda: mechanism.unlearn(problem), self.place.device)
        calibration = mechanism.calibrate(context)
        self.noiseless = unlearned.weights
        if calibration is None:
            self.released, account = unlearned.weights, SequentialAccount()
        else:
            key = hashlib.sha256(f"{self.setting['seed']} {self.steps}".encode()).digest()
            self.released = mechanism.perturb(problem, unlearned, calibration, GaussianNoise(key))
            account = context.account.after_release(calibration.error_bound)
        self.context = replace(self.context, account=account)
        self.kept, curvature_seconds = self._keep()
        return {
            "mechanism": mechanism.name,
            "why": next((a.refusal for a in plan.assessments if a.mechanism == "convex"), ""),
            "seconds": seconds,
            "curvature_seconds": curvature_seconds,
            "products": unlearned.sealed["products"],
            "account_step": account.step,
            "accumulated_error": account.accumulated_error,
            "accuracy": self.accuracy(),
        }

    def accuracy(self) -> float:
        logits = predict_logits(self.spec, self.released, self.origin, self.data.test_features)
        return accuracy(logits, self.data.test_labels)

    def compared(self) -> dict[str, Any]:
        """What is left at the end, beside training from scratch on the same records."""
        scratch = self._train()
        logits = predict_logits(self.spec, scratch["weights"], self.origin, self.data.test_features)
        return {
            "parameters": len(self.released),
            "records": len(self.data.labels),
            "retrain_seconds": scratch["seconds"],
            "retrain_products": scratch["products"],
            "accuracy_retrained": accuracy(logits, self.data.test_labels),
            "distance": float((self.noiseless - scratch["weights"]).norm()),
            "distance_released": float((self.released - scratch["weights"]).norm()),
            "certified_bound": certified_bound(self.spec),
        }


def _policy(row: dict[str, Any]) -> str:
    return f"{row['minimum_size']:,} or {row['maximum_wait_days']:g} d"


def _of_stream(document: Document, stream: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows(document) if all(row[key] == value for key, value in stream.items())]


def tables(document: Document) -> dict[str, str]:
    """One table for what a policy spends, one for what it takes, a stream after the other."""
    found, setting = rows(document), document["setting"]
    first, ledger = found[0], document["setting"]["ledger"]
    intro = (
        f"{setting['model']['name']} on {setting['dataset']}: {first['parameters']:,} parameters, {first['records']:,} "
        f"training records, {setting['requests']} people forgotten a stream. Policy: sigma "
        f"{setting['release']['sigma']:g}, every noised release (epsilon {setting['release']['epsilon']:g}, delta "
        f"{setting['release']['delta']:g}), class convex; the ledger allows an accumulated error of "
        f"{ledger['accumulated_error']:g} and {ledger['releases']} releases, then a batch is retrained exactly. The "
        f"true distance is of noiseless weights, at the end, from a model retrained from scratch; C1 bounds it by "
        f"{first['certified_bound']:.2e}.\n"
    )
    spent = [
        "arrivals",
        "deletions",
        "batch policy",
        "batches",
        "people a batch",
        "of one person alone",
        "records gone",
        "retrained exactly",
        "accumulated error (largest)",
        "uniform error",
        "epsilon (class)",
        "epsilon, had the state been secret",
        "true distance",
        "accuracy before",
        "after",
        "lowest",
        "retrained",
    ]
    body = [
        [
            row["arrivals"],
            row["deletions"],
            _policy(row),
            str(row["batches"]),
            f"{row['people_per_batch']:.3g}",
            f"{row['alone']:.0%}",
            f"{row['records_removed']:,}",
            _retrained(row),
            f"{row['largest_accumulated_error']:.2e}",
            f"{row['uniform_error']:.2e}",
            f"{row['epsilon']:g} ({row['guarantee']})",
            "–" if row["secret_state_epsilon"] is None else f"{row['secret_state_epsilon']:.2g}",
            f"{row['distance']:.1e}",
            *(
                f"{row[name]:.4f}"
                for name in ("accuracy_before", "accuracy_after", "accuracy_lowest", "accuracy_retrained")
            ),
        ]
        for row in found
    ]
    taken = [
        "arrivals",
        "deletions",
        "batch policy",
        "wait, days: mean",
        "largest",
        "to close, days: mean",
        "largest",
        f"closed in {DEADLINE_DAYS} days",
        "products a request",
        "seconds a request",
        "and for kept curvature",
        "retraining once: seconds",
        "products",
    ]
    times = [
        [
            row["arrivals"],
            row["deletions"],
            _policy(row),
            f"{row['wait_days_mean']:.2g}",
            f"{row['wait_days_largest']:.2g}",
            f"{row['close_days_mean']:.2g}",
            f"{row['close_days_largest']:.2g}",
            f"{row['closed_within_deadline']:.0%}",
            f"{row['products'] / row['requests']:.2f}",
            f"{row['seconds'] / row['requests']:.2g}",
            f"{row['curvature_seconds'] / row['requests']:.2g}",
            f"{row['retrain_seconds']:.2g}",
            str(row["retrain_products"]),
        ]
        for row in found
    ]
    return {"setting": intro, "spent": table(spent, body), "taken": table(taken, times)}


def _retrained(row: dict[str, Any]) -> str:
    if not row["retrained_at"]:
        return "never"
    return f"{row['retrainings']} (batch {', '.join(map(str, row['retrained_at']))})"


def expected(document: Document) -> dict[str, float]:
    """Batches, retrainings, errors, epsilons and waits; products of a cell in all."""
    names = (
        "batches",
        "retrainings",
        "records_removed",
        "largest_accumulated_error",
        "uniform_error",
        "epsilon",
        "secret_state_epsilon",
        "certified_bound",
        "wait_days_mean",
        "wait_days_largest",
    )
    found: dict[str, float] = {}
    for row in rows(document):
        cell = f"{row['arrivals']}, {row['deletions']}, {_policy(row)}"
        found |= {f"{cell}: {name}": float(row[name]) for name in names if row[name] is not None}
    return {**found, "products in all": float(sum(row["products"] for row in rows(document)))}


def figure(document: Document) -> Figure | None:
    """Six panels: what waiting buys, whom a batch exposes, the budget, secret state, utility, time to close."""
    setting = document["setting"]
    made = Figure(figsize=(13, 7.4), dpi=120, layout="constrained")
    panels = made.subplots(2, 3)
    for panel in panels.flat:
        unframe(panel)
    first = _of_stream(document, setting["streams"][0])
    for stream, mark in zip(setting["streams"], "os^Dv*", strict=False):
        found = _of_stream(document, stream)
        _draw_trade(panels[0, 0], found, stream, mark, lambda row: row["products"] / row["requests"])
        _draw_trade(panels[0, 1], found, stream, mark, lambda row: 1 / row["people_per_batch"])
    _finish(panels[0, 0], "mean days to close", "curvature products a request", "Waiting buys cost …")
    _finish(
        panels[0, 1],
        "mean days to close",
        "one person's share of a model difference",
        "… and hides a person among others",
    )
    for row in first:
        line = row["timeline"]
        panels[0, 2].plot(line["requests"], line["accumulated_error"], ".-", label=_policy(row), linewidth=1)
        panels[1, 2].plot(
            np.sort(line["close_days"]), np.linspace(0, 1, len(line["close_days"])), label=_policy(row)
        )
    panels[0, 2].axhline(setting["ledger"]["accumulated_error"], color="#b3261e", linestyle=":", linewidth=1)
    _finish(panels[0, 2], "requests", "accumulated error", "The budget: at the line, exact retraining")
    _draw_secret(panels[1, 0], first, setting)
    _draw_accuracy(panels[1, 1], document)
    panels[1, 2].axvline(DEADLINE_DAYS, color="#b3261e", linestyle=":", linewidth=1)
    title = f"Time to close: {first[0]['arrivals']} arrivals" if first else ""
    _finish(panels[1, 2], "days (red: one month)", "share of requests closed", title)
    return made


def _draw_trade(
    panel: Any, found: list[dict[str, Any]], stream: dict[str, Any], mark: str, height: Any
) -> None:
    # a batch of one closes within seconds: kept on the axis, at a quarter of an hour
    xs, ys = [max(row["close_days_mean"], 0.01) for row in found], [height(row) for row in found]
    panel.loglog(
        xs, ys, f"{mark}-", markersize=5, linewidth=0.8, label=f"{stream['arrivals']}, {stream['deletions']}"
    )
    if mark == "o":
        for row, x, y in zip(found, xs, ys, strict=True):
            panel.annotate(_policy(row), (x, y), fontsize=7, xytext=(4, 5), textcoords="offset points")


def _draw_secret(panel: Any, first: list[dict[str, Any]], setting: Setting) -> None:
    if not first:
        return
    row, delta = first[0], setting["release"]["delta"]
    counts = np.unique(np.geomspace(1, max(2, row["batches"]), 30).astype(int))
    secret = [composed_epsilon(row["m"], int(count), delta)[1] for count in counts]
    panel.loglog(counts, secret, "-", color="#b35c00", label="secret state: root-sum of m")
    published = [setting["release"]["epsilon"]] * len(counts)
    panel.loglog(counts, published, "-", color="#0b5cad", label="published state: each release its own")
    _finish(
        panel,
        "releases since the person left",
        "epsilon for that person",
        "Why certificates build on released weights",
    )


def _draw_accuracy(panel: Any, document: Document) -> None:
    for stream in document["setting"]["streams"]:
        found = [row for row in _of_stream(document, stream) if row["batches"] > 1]
        if found:
            line = found[0]["timeline"]
            name = f"{stream['arrivals']}, {stream['deletions']}"
            panel.plot(line["requests"], line["accuracy"], "-", linewidth=1, label=name)
    _finish(panel, "requests, in the smallest batches", "test accuracy", "Utility of the released weights")


def _finish(panel: Any, across: str, up: str, title: str) -> None:
    panel.set_xlabel(across, fontsize=9)
    panel.set_ylabel(up, fontsize=9)
    panel.set_title(title, fontsize=10)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False)
