"""Attacks on the original, on what each mechanism releases and on a retrained model, with intervals and their cost.

Canaries are records that a public coin puts among the trained-on (they are then the forget set) or leaves out; the rest
of both sides is the remaining training set and the population. One record a person, so that records are independent.
A *family* is one kind of model with its shadow models.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common import Records, model_spec, read_records, timed
from benchmarks.runner import Cell, Document, Place, Setting, rows, table
from expunge.attacks.difference import forgotten_gradient, gradient_scores, rank_forgotten
from expunge.attacks.empirical_epsilon import contradicts, one_run_epsilon
from expunge.attacks.exposure import exposure_change
from expunge.attacks.lira import likelihood_ratios
from expunge.attacks.population import population_attack
from expunge.attacks.report import AttackReport, Limits
from expunge.attacks.result import AttackResult, result_of
from expunge.attacks.rmia import relative_scores
from expunge.attacks.roc import halves
from expunge.attacks.scores import log_confidence, logit_confidence
from expunge.attacks.shadows import ShadowPlan, ShadowScores, plan_shadows, score_models, train_shadows
from expunge.curvature.linearized import LinearizedObjective
from expunge.mechanisms.contract import Context, Problem
from expunge.mechanisms.paper_compatible import PublishedSettings, unlearn_as_published
from expunge.mechanisms.planner import mechanism_named
from expunge.mechanisms.release import release
from expunge.models.predictor import accuracy, predict_logits
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import Policy

_CURVE = 80  # points of a curve that are kept
_AUDIT_DELTA = 1e-5


def cells(setting: Setting) -> list[Cell]:
    found: list[Cell] = []
    for family, content in setting["families"].items():
        found += [{"family": family, "model": method} for method in content["methods"]]
        found += [{"family": family, "model": "difference", "batch": size} for size in setting["batches"]]
    return found


@functools.lru_cache(maxsize=1)
def _read(dataset: str, source: Path | None) -> Records:
    return read_records(dataset, source, None)


class _Pool:
    """Records in a public order: canaries first, then the rest of the training set, then of the population."""

    def __init__(self, setting: Setting, family: str, place: Place) -> None:
        self.setting, self.family, self.place = setting, family, place
        data = _read(setting["dataset"], place.source(setting["dataset"]))
        rng = np.random.default_rng(setting["seed"])
        half, canaries = setting["training_records"], setting["canaries"]
        people = np.sort(np.unique(data.subjects, return_index=True)[1])  # the first record of everybody
        order = torch.from_numpy(rng.permutation(people)[: 2 * half])
        self.features, self.labels = data.features[order], data.labels[order]
        self.data = data
        trained = np.zeros(2 * half, dtype=bool)
        trained[:canaries] = rng.random(canaries) < 0.5
        others = half - int(trained.sum())
        trained[canaries : canaries + others] = True
        self.trained = trained
        self.forgotten = np.flatnonzero(trained[:canaries])
        self.retained = np.flatnonzero(trained & (np.arange(2 * half) >= canaries))
        self.population = np.flatnonzero(~trained)
        self.content = setting["families"][family]
        self.spec = _spec(self.content, data)

    def key(self, what: str) -> dict[str, Any]:
        shared = {k: v for k, v in self.setting.items() if k != "families"}
        return {"attacks": what, "setting": shared, "spec": self.spec.to_json()}

    def rows(self, positions: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(positions)
        return self.features[chosen], self.labels[chosen]

    def logits(self, weights: Tensor) -> Tensor:
        return predict_logits(self.spec, weights, build(self.spec).initial(), self.features)

    def original(self) -> tuple[Tensor, float]:
        """The attacked model before anything is unlearned."""

        def make() -> dict[str, Any]:
            trained, seconds = timed(lambda: train(self.spec, *self.rows(np.flatnonzero(self.trained))))
            return {"weights": trained.weights, "seconds": seconds}

        kept = self.place.kept(self.key("original"), make)
        return kept["weights"], kept["seconds"]

    def plan(self) -> ShadowPlan:
        seconds = 2 * self.original()[1]  # of all records: twice as many as the attacked model's
        return plan_shadows(
            self.spec,
            len(self.labels),
            self.setting["shadows"],
            seed=self.setting["seed"],
            training_seconds=seconds,
        )

    def shadows(self) -> tuple[Tensor, float]:
        """Shadow models, and what they took."""

        def make() -> dict[str, Any]:
            weights, seconds = timed(lambda: train_shadows(self.plan(), self.features, self.labels))
            return {"weights": weights, "seconds": seconds}

        kept = self.place.kept({**self.key("shadows"), "shadows": self.setting["shadows"]}, make)
        return kept["weights"], kept["seconds"]


def _spec(content: dict[str, Any], data: Records) -> ModelSpec:
    return model_spec(
        content["model"],
        data.features.shape[1],
        data.classes,
        content.get("training"),
        **content.get("hyper", {}),
    )


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    pool = _Pool(setting, cell["family"], place)
    if cell["model"] == "difference":
        return _difference(pool, cell["batch"])
    plan = pool.plan()
    (original, training_seconds), (shadows, shadow_seconds) = pool.original(), pool.shadows()
    retained = pool.rows(pool.retained)
    (weights, claim), seconds = timed(
        lambda: _method(pool, cell["model"], original, retained, training_seconds)
    )
    scored = score_models(plan, shadows, pool.features, pool.labels)
    found = _attacks(pool, plan, scored, weights)
    u_seconds = None
    if cell["model"] in setting.get("unlearned_shadows", []):
        changed, u_seconds = timed(
            lambda: _unlearned_shadows(pool, plan, shadows, cell["model"], training_seconds)
        )
        after = score_models(plan, changed, pool.features, pool.labels)
        found["u-lira"] = _lira(pool, plan, after, _statistics(pool, weights)[0], "u-lira")
    report = AttackReport(tuple(found.values()), shadow_models=plan.count, shadow_seconds=plan.seconds)
    verdict = report.passes(Limits(**setting["limits"]))
    test = predict_logits(pool.spec, weights, build(pool.spec).initial(), pool.data.test_features[:2000])
    before, after_scores = (_statistics(pool, w)[0][pool.retained] for w in (original, weights))
    exposure = exposure_change(before, after_scores)
    return {
        **claim,
        "accuracy": accuracy(test, pool.data.test_labels[:2000]),
        "seconds": seconds,
        "training_seconds": training_seconds,
        "shadow_models": plan.count,
        "shadow_seconds": shadow_seconds,
        "unlearned_shadow_seconds": u_seconds,
        "forgotten": len(pool.forgotten),
        "non_members": len(pool.population),
        "attacks": {name: _figures(result) for name, result in found.items()},
        "audit": _audit(pool, plan, scored, weights, claim),
        "exposure": {
            "mean": exposure.mean_change,
            "low": exposure.mean_low,
            "high": exposure.mean_high,
            "largest": exposure.worst[0][1],
        },
        "passed": verdict.passed,
        "conclusive": verdict.conclusive,
    }


def _policy(pool: _Pool, method: str) -> Policy:
    return Policy.model_validate(pool.content.get("policy", {}).get(method, {}))


def _method(
    pool: _Pool, method: str, start: Tensor, retained: tuple[Tensor, Tensor], training_seconds: float
) -> tuple[Tensor, dict[str, Any]]:
    """Weights that a method releases, and what it claims."""
    nothing = {"guarantee": "none", "epsilon": None, "delta": None}
    if method == "original":
        return start, nothing
    if method == "retrained":
        return train(pool.spec, *retained).weights, {"guarantee": "exact", "epsilon": 0.0, "delta": 0.0}
    if method == "published":
        settings = PublishedSettings(**pool.setting["published"])
        done = unlearn_as_published(build(pool.spec), start, *retained, settings)
        honest = done.facts.epsilon
        shown = {"honest_epsilon": honest if math.isfinite(honest) else None}
        return done.weights, {**nothing, **shown}
    mechanism = mechanism_named(method)
    context = Context(
        pool.spec, _policy(pool, method), len(start), training_seconds, records=len(retained[1])
    )
    problem = Problem(context, *retained, start)
    record = (made := release(mechanism, problem, mechanism.unlearn(problem), draws=1)).record
    return made.weights, {"guarantee": record.guarantee, "epsilon": record.epsilon, "delta": record.delta}


def _unlearned_shadows(
    pool: _Pool, plan: ShadowPlan, shadows: Tensor, method: str, training_seconds: float
) -> Tensor:
    """Every shadow model after it has unlearned what it had of the forget set."""
    leaves = np.zeros(len(pool.labels), dtype=bool)
    leaves[pool.forgotten] = True
    return torch.stack(
        [
            _method(pool, method, start, pool.rows(np.flatnonzero(inside & ~leaves)), training_seconds)[0]
            for start, inside in zip(shadows, plan.members, strict=True)
        ]
    )


def _statistics(pool: _Pool, weights: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    logits = pool.logits(weights).numpy()
    return logit_confidence(logits, pool.labels), log_confidence(logits, pool.labels)


def _attacks(pool: _Pool, plan: ShadowPlan, scored: ShadowScores, weights: Tensor) -> dict[str, AttackResult]:
    logits, labels = pool.logits(weights).numpy(), pool.labels.numpy()
    forgotten, others = pool.forgotten, pool.population
    sides = logits[forgotten], labels[forgotten], logits[others], labels[others]
    scaled, plain = logit_confidence(logits, labels), log_confidence(logits, labels)
    aside, judged = halves(len(others), pool.setting["seed"])
    # half of what is set aside is what RMIA compares with, the other half chooses its thresholds
    compared, chooses = others[aside[::2]], others[aside[1::2]]
    relative = relative_scores(
        plain, plain[compared], scored.log_confidence, scored.log_confidence[:, compared], gamma=1.0
    )
    return {
        "population": population_attack(*sides),
        "by class": population_attack(*sides, calibrate_by_class=True),
        "lira": _lira(pool, plan, scored, scaled),
        "rmia": result_of("rmia", relative[forgotten], relative[others[judged]], relative[chooses]),
    }


def _lira(
    pool: _Pool, plan: ShadowPlan, scored: ShadowScores, statistic: np.ndarray[Any, Any], name: str = "lira"
) -> AttackResult:
    ratios = likelihood_ratios(statistic, scored.logit_confidence, plan.members, variance="global")
    aside, judged = halves(len(pool.population), pool.setting["seed"])
    others = ratios[pool.population]
    return result_of(name, ratios[pool.forgotten], others[judged], others[aside])


def _figures(found: AttackResult) -> dict[str, Any]:
    roc = found.roc
    kept = np.unique(np.linspace(0, len(roc.fpr) - 1, _CURVE).astype(int))
    points = {
        f"{100 * p.target:g} %": None if p.tpr is None else [p.tpr, p.tpr_low, p.tpr_high] for p in roc.points
    }
    return {
        "auc": [roc.auc, roc.auc_low, roc.auc_high],
        "tpr": points,
        "fpr_curve": [roc.fpr[i] for i in kept],
        "tpr_curve": [roc.tpr[i] for i in kept],
    }


def _audit(
    pool: _Pool, plan: ShadowPlan, scored: ShadowScores, weights: Tensor, claim: dict[str, Any]
) -> dict[str, Any]:
    """Coins guessed by LiRA: the quarter with the largest scores "in", that with the least "out", the rest abstained.

    Every vector of coins leaves the same retain set, so that each release is within (epsilon, delta) of one reference:
    two of them are within 2 epsilon and (1 + e^epsilon) delta of one another, and the guesses are held against that.
    """
    canaries = pool.setting["canaries"]
    ratios = likelihood_ratios(
        _statistics(pool, weights)[0], scored.logit_confidence, plan.members, variance="global"
    )
    order, coins, quarter = np.argsort(ratios[:canaries]), pool.trained[:canaries], canaries // 4
    correct = int((~coins[order[:quarter]]).sum() + coins[order[-quarter:]].sum())
    epsilon, delta = claim["epsilon"], claim["delta"]
    doubled = None if epsilon is None else 2 * epsilon
    at = _AUDIT_DELTA if epsilon is None else min(1.0, (1 + math.exp(min(epsilon, 50))) * delta)
    lower = one_run_epsilon(canaries, 2 * quarter, correct, at)
    return {
        "guesses": 2 * quarter,
        "correct": correct,
        "lower": lower,
        "delta": at,
        "claimed": doubled,
        "contradicts": contradicts(doubled, lower),
    }


def _difference(pool: _Pool, batch: int) -> dict[str, Any]:
    """Parent against child without the first records of the training set, among all records of it."""
    members = np.flatnonzero(pool.trained)
    batch = min(batch, len(members) // 2)
    parent, _ = pool.original()
    features, labels = pool.rows(members)
    left = features[batch:], labels[batch:]
    # a convex child is re-solved from the parent; a deep one is trained anew from the same public seed
    start = parent if pool.spec.linearize else None
    child = train(pool.spec, *left, start=start).weights
    network = build(pool.spec)
    origin = network.initial() if pool.spec.linearize else None
    ranked = torch.cat([torch.arange(batch), batch + torch.arange(pool.setting["candidates"])])
    ranked = ranked[ranked < len(labels)]
    found = {}
    generator = torch.Generator().manual_seed(pool.setting["seed"])
    for name, sigma in (("noiseless", 0.0), ("noised", Policy().release.sigma)):
        moved = child + sigma * torch.randn(len(child), generator=generator, dtype=torch.float64)
        direction = moved - parent
        if pool.spec.linearize:
            # curvature of people whom the model never saw, as an outsider would take it
            others = pool.rows(pool.population)
            objective = LinearizedObjective(network, network.initial(), *others, pool.spec.l2)
            middle = torch.softmax(objective.logits((parent + moved) / 2), dim=1)
            direction = forgotten_gradient(
                parent,
                moved,
                lambda v, o=objective, m=middle: o.curvature_product(m, v),  # type: ignore[misc]
                retained=len(labels) - batch,
                forgotten=batch,
                l2=pool.spec.l2,
            )
        scores = gradient_scores(
            network,
            parent,
            direction,
            features[ranked],
            labels[ranked],
            origin=origin,
            normalize=pool.spec.linearize,
        )
        found[name] = rank_forgotten(scores, range(batch)).to_json()
    return {"sigma": Policy().release.sigma, **found}


def _interval(values: list[float] | None) -> str:
    return "–" if values is None else f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"


def tables(document: Document) -> dict[str, str]:
    """Attacks, what else an auditor asks, and what the difference of two versions tells."""
    found, lines, more, differences = rows(document), [], [], []
    for row in found:
        if row["model"] == "difference":
            differences.append(
                [
                    row["family"],
                    str(row["batch"]),
                    *(
                        f"{_interval([row[n]['auc'], row[n]['auc_low'], row[n]['auc_high']])}, {row[n]['best_rank']}"
                        for n in ("noiseless", "noised")
                    ),
                ]
            )
            continue
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:.3g}"
        attacks = row["attacks"]
        lines.append(
            [
                row["family"],
                row["model"],
                f"{epsilon} ({row['guarantee']})",
                f"{row['accuracy']:.3f}",
                *(_interval(attacks[n]["auc"]) for n in ("population", "lira", "rmia")),
                _interval(attacks["u-lira"]["auc"]) if "u-lira" in attacks else "–",
                "no" if not row["passed"] else "yes" if row["conclusive"] else "yes, inconclusive",
            ]
        )
        audit, exposure = row["audit"], row["exposure"]
        more.append(
            [
                row["family"],
                row["model"],
                _interval(attacks["lira"]["tpr"]["1 %"]),
                _interval(attacks["lira"]["tpr"]["0.1 %"]),
                f"{audit['correct']} of {audit['guesses']}",
                f"{audit['lower']:.2f} at {audit['delta']:.1e}",
                "none" if audit["claimed"] is None else f"{audit['claimed']:.3g}",
                "**yes**" if audit["contradicts"] else "no",
                f"{exposure['mean']:+.3f} [{exposure['low']:+.3f}, {exposure['high']:+.3f}]",
                f"{row['seconds']:.1f}",
            ]
        )
    parts = {}
    if lines:
        some = next(row for row in found if row["model"] != "difference")
        times = "; ".join(
            f"{family}: {row['shadow_models']} in {row['shadow_seconds']:.0f} s"
            for family in dict.fromkeys(r["family"] for r in found)
            for row in [r for r in found if r["family"] == family and r["model"] != "difference"][:1]
        )
        parts["attacks"] = (
            f"Forgotten {some['forgotten']} records, {some['non_members']} people never seen. Shadow models: {times}. "
            "AUC with 95 % intervals; U-LiRA attacks with shadow models that unlearned too.\n\n"
        ) + table(
            ["family", "model", "certified ε", "accuracy", "population", "LiRA", "RMIA", "U-LiRA", "passed"],
            lines,
        )
        parts["audit"] = table(
            ["family", "model", "LiRA TPR at 1 %", "at 0.1 %", "coins", "ε at least", "claimed for two",
             "refuted", "exposure of the retained", "s"],
            more,
        )  # fmt: skip
    if differences:
        header = ["family", "batch", "noiseless: AUC, best rank", "noised: AUC, best rank"]
        parts["difference"] = "Difference of parent and child:\n\n" + table(header, differences)
    return parts


def figure(document: Document) -> Figure | None:
    found = [row for row in rows(document) if row["model"] != "difference"]
    families = list(dict.fromkeys(row["family"] for row in found))
    if not families:
        return None
    drawn = Figure(figsize=(4.8 * len(families), 4.0), dpi=120, layout="constrained")
    for axes, family in zip(np.atleast_1d(drawn.subplots(1, len(families))), families, strict=True):
        axes.plot([1e-3, 1], [1e-3, 1], color="#57606a", linewidth=1, label="guessing")
        for row in found:
            if row["family"] == family:
                curve = row["attacks"]["lira"]
                axes.plot(
                    np.maximum(curve["fpr_curve"], 1e-3),
                    np.maximum(curve["tpr_curve"], 1e-3),
                    label=row["model"],
                )
        axes.set(
            xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1.05), title=f"LiRA, {family}",
            xlabel="false positive rate", ylabel="true positive rate",
        )  # fmt: skip
        axes.legend(fontsize=7, frameon=False)
    return drawn


def expected(document: Document) -> dict[str, float]:
    """Of models without noise: their attacks do not depend on a draw."""
    figures = {}
    for row in rows(document):
        if row["model"] in ("original", "retrained") and _is_convex(document, row["family"]):
            for attack in ("population", "lira"):
                figures[f"{row['family']}/{row['model']}/{attack}"] = row["attacks"][attack]["auc"][0]
        elif row["model"] == "difference" and _is_convex(document, row["family"]):
            figures[f"{row['family']}/difference/{row['batch']}"] = row["noiseless"]["auc"]
    return figures


def _is_convex(document: Document, family: str) -> bool:
    """Whether its models are convex, hence the same on every machine to many digits."""
    return bool(document["setting"]["families"][family].get("convex"))
