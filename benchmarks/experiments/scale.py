"""How cost grows: a Newton solve and convex unlearning against parameters, records and forgotten records.

On Gaussian records from a public seed. A *Newton solve* is what the paper's step costs: the gradient of the retain set
and conjugate gradients to a relative residual, in float32 with streamed products, at initial weights, with a damping
just above the Hessian's norm; the Lanczos bound on that norm is timed beside. *Convex unlearning* re-solves the
linearised network on the retain set from noised weights, with curvature kept from before.

Every cell runs in a process of its own, so that its peak of memory is its own. A cell whose forecast (one product on
few records, times records, times products) is above a limit of the setting is not run, and says so: no figure here is
extrapolated. What its certificate would state is known all the same: it depends on public constants alone.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import linregress
from torch import Tensor

from benchmarks.common import (
    SEED,
    Records,
    extra_bytes,
    fresh_process,
    model_spec,
    pick_device,
    synthetic,
    timed,
)
from benchmarks.convex import noised
from benchmarks.runner import Cell, Document, Place, Setting, rows, table
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.linearized import LinearizedObjective
from expunge.curvature.network import NetworkObjective
from expunge.curvature.preconditioner import keep_curvature
from expunge.curvature.solvers import Solution, conjugate_gradients
from expunge.errors import ExpungeError
from expunge.mechanisms.contract import Context
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.newton import Newton
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.models.zoo import build
from expunge.settings import Policy

_PROBE_SECONDS = 0.2  # a probe takes at least this long, or all records
_AGAINST = {"parameters": "parameters", "records": "records", "forgotten": "forgotten_records"}
_QUANTITIES = {"seconds": "seconds", "peak_bytes": "peak memory", "products": "products"}
_QUICK = 5.0  # seconds; slower work is timed once
_LEAST_BYTES = 2**20  # a process's high-water mark does not tell less apart


@dataclass(frozen=True)
class Fit:
    """A power law ``y = c x^exponent`` fitted by least squares to the logarithms.

    Args:
        exponent: Its slope.
        standard_error: Of the slope; None for two points, which a line always meets.
        points: How many points.
    """

    exponent: float
    standard_error: float | None
    points: int

    def words(self) -> str:
        """``0.93 ± 0.04 (5)``: exponent, standard error, points."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2f}"
        return f"{self.exponent:.2f}{error} ({self.points})"


def fit_power(x: list[float], y: list[float | None]) -> Fit | None:
    """Fit a power law to the points that have both numbers, above 0; None for fewer than two different x."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and a > 0 and b > 0]
    if len({a for a, _ in pairs}) < 2:
        return None
    line = linregress([math.log(a) for a, _ in pairs], [math.log(b) for _, b in pairs])
    error = float(line.stderr) if len(pairs) > 2 and math.isfinite(line.stderr) else None
    return Fit(float(line.slope), error, len(pairs))


def cells(setting: Setting) -> list[Cell]:
    """Every combination of every sweep, the cheap ones first within each."""
    return [
        {"sweep": sweep["sweep"], "work": work, "model": model, "records": records, "forget_percent": percent}
        for sweep in setting["sweeps"]
        for work in sweep["work"]
        for model in sweep["models"]
        for records in sweep["records"]
        for percent in sweep["forget_percent"]
    ]


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """Measure one configuration, or say why not."""
    if not setting["fresh_process"]:
        return measure(setting, cell, place.device)
    given = json.dumps({"setting": setting, "cell": cell})
    return fresh_process("benchmarks.experiments.scale", ["--given", given, "--device", str(place.device)])


def measure(setting: Setting, cell: Cell, device: torch.device) -> dict[str, Any]:
    """The certificate from public constants, then the work itself unless its forecast is above a limit."""
    model, convex = setting["models"][cell["model"]], cell["work"] == "convex"
    width = math.prod(setting["image"])
    spec = replace(
        model_spec(
            model["name"], width, setting["classes"], setting["training"], **model.get("hyperparameters", {})
        ),
        linearize=convex,
    )
    data = synthetic(cell["records"], width, setting["classes"])
    forgotten = max(1, round(cell["records"] * cell["forget_percent"] / 100))
    parameters = build(spec).size
    known = {
        "parameters": parameters,
        "forgotten_records": forgotten,
        "retained_records": cell["records"] - forgotten,
        **certificate(spec, parameters),
    }
    reason = _too_much(setting, cell, spec, data, parameters, device)
    if reason is None:
        work = _convex_unlearning if convex else _newton_solve
        try:
            return {**known, **work(setting, spec, data, forgotten, device), "not_run": None}
        except ExpungeError as error:  # the library refused: that is a finding too
            reason = f"refused: {error}"
    return {**known, "seconds": None, "peak_bytes": None, "products": None, "not_run": reason}


def certificate(spec: ModelSpec, parameters: int) -> dict[str, Any]:
    """What policy's release would state; the Newton step's ball of radius C binds, as no constant is assumed."""
    mechanism = Convex() if spec.linearize else Newton()
    stated = mechanism.assess(
        Context(spec=spec, policy=Policy(), parameters=parameters, training_seconds=0.0)
    )
    return {
        "guarantee": stated.guarantee,
        "epsilon": stated.epsilon,
        "delta": stated.delta,
        "error_bound": stated.error_bound,
        "admitted": not stated.refusal,
    }


def _too_much(
    setting: Setting, cell: Cell, spec: ModelSpec, data: Records, parameters: int, device: torch.device
) -> str | None:
    """Why a cell is not run; None if it is."""
    vectors = setting["lanczos"]["steps"] + 4 if cell["work"] == "newton" else 10 + 2.5 * setting["rank"]
    gigabytes = (8 * vectors * parameters + 24 * data.features.numel()) / 1e9
    if gigabytes > setting["limit_gigabytes"]:
        return f"about {gigabytes:.0f} GB forecast, the limit is {setting['limit_gigabytes']:g} GB"
    count, seconds = _probe(spec, data, device)
    products = setting["forecast_products"][cell["work"]]
    forecast = seconds * products * cell["records"] / count
    if forecast > setting["limit_seconds"]:
        return (
            f"about {forecast:.0f} s forecast ({products} products; one took {seconds:.2g} s on {count} records), "
            f"the limit is {setting['limit_seconds']:g} s"
        )
    return None


def _probe(spec: ModelSpec, data: Records, device: torch.device) -> tuple[int, float]:
    """Seconds of one product on few records, and how many records; it also warms the process up."""
    count = 64
    while True:
        count = min(count, len(data.labels))
        features, labels = data.features[:count], data.labels[:count]
        if spec.linearize:
            linear = LinearizedObjective(
                build(spec, device=device), build(spec).initial(), features, labels, spec.l2, memory_limit=0
            ).single()
            point = torch.zeros(linear.size, device=device)
            probabilities = torch.softmax(linear.logits(point), dim=1)
            call: Callable[[], object] = partial(linear.curvature_product, probabilities, point + 1)
        else:
            network = build(spec).to(dtype=torch.float32, device=device)
            deep = NetworkObjective(network, features, labels, spec.l2)
            call = partial(deep.hessian_product, network.initial(), network.initial())
        call()
        _, seconds = timed(call, device)
        if seconds >= _PROBE_SECONDS or count == len(data.labels):
            return count, seconds
        count *= 4


def _timed(call: Callable[[], Any], device: torch.device, repeats: int, memory: bool) -> dict[str, Any]:
    """Result, least seconds, and bytes at the peak of the first run; slow work is run once."""
    first: list[tuple[Any, float]] = []
    peak = extra_bytes(lambda: first.append(timed(call, device)), device)
    result, seconds = first[0]
    for _ in range(repeats - 1 if seconds < _QUICK else 0):
        seconds = min(seconds, timed(call, device)[1])
    return {"result": result, "seconds": seconds, "peak_bytes": peak if memory else None}


def _newton_solve(
    setting: Setting, spec: ModelSpec, data: Records, forgotten: int, device: torch.device
) -> dict[str, Any]:
    network = build(spec).to(dtype=torch.float32, device=device)
    objective = NetworkObjective(network, data.features[forgotten:], data.labels[forgotten:], spec.l2)
    weights = network.initial()
    spectrum, spectrum_seconds = timed(
        lambda: spectrum_bounds(
            lambda v: objective.hessian_product(weights, v.float()).double(),
            network.size,
            **setting["lanczos"],
            generator=torch.Generator().manual_seed(SEED),
            device=device,
        ),
        device,
    )
    damping = setting["damping_factor"] * max(spectrum.upper, -spectrum.lower)

    def damped(vector: Tensor) -> Tensor:
        curved: Tensor = objective.hessian_product(weights, vector) + damping * vector
        return curved

    def solve() -> tuple[Tensor, Solution]:
        right = objective.gradient(weights)
        tolerance = setting["tolerance"] * float(right.norm())
        return right, conjugate_gradients(damped, right, tolerance=tolerance, max_products=500, measure=False)

    measured = _timed(solve, device, setting["repeats"], setting["fresh_process"])
    right, solution = measured.pop("result")
    if solution.status != "converged":
        raise ExpungeError(f"conjugate gradients: {solution.status}")
    return {
        **measured,
        "products": solution.products,
        "relative_residual": float((damped(solution.solution) - right).norm() / right.norm()),
        "damping": damping,
        "spectrum_seconds": spectrum_seconds,
        "spectrum_products": spectrum.products,
    }


def _convex_unlearning(
    setting: Setting, spec: ModelSpec, data: Records, forgotten: int, device: torch.device
) -> dict[str, Any]:
    trained = train(spec, data.features, data.labels, device=device)
    released = noised(trained.weights)

    def keep(features: Tensor, labels: Tensor) -> Any:
        network = build(spec, device=device)
        objective = LinearizedObjective(network, network.initial(), features, labels, spec.l2)
        return keep_curvature(objective, released, rank=setting["rank"], sample=setting["sample"])

    kept = keep(data.features, data.labels)
    features, labels = data.features[forgotten:], data.labels[forgotten:]
    measured = _timed(
        lambda: train(spec, features, labels, start=released, kept=kept, device=device),
        device,
        setting["repeats"],
        setting["fresh_process"],
    )
    unlearned = measured.pop("result")
    _, rebuild_seconds = timed(lambda: keep(features, labels), device)
    return {
        **measured,
        "products": unlearned.products,
        "train_seconds": trained.seconds,
        "train_products": trained.products,
        "rebuild_seconds": rebuild_seconds,
    }


def fits(document: Document) -> list[dict[str, Any]]:
    """Every exponent: of each work and family, against each axis."""
    models = document["setting"]["models"]
    found = [{**row, "family": models[row["model"]]["name"]} for row in rows(document)]
    out = []
    for sweep, against in _AGAINST.items():
        chosen = [row for row in found if row["sweep"] == sweep]
        for work, family in sorted({(row["work"], row["family"]) for row in chosen}, reverse=True):
            part = [row for row in chosen if (row["work"], row["family"]) == (work, family)]
            x = [row[against] for row in part]
            if len(set(x)) > 1:
                made = {name: fit_power(x, [_told(row, name) for row in part]) for name in _QUANTITIES}
                out.append({"work": work, "family": family, "against": sweep, "rows": part, **made})
    return out


def _told(row: dict[str, Any], quantity: str) -> float | None:
    """A figure of a cell; None where it was not measured, or is too small to be told from nothing."""
    value: float | None = row[quantity]
    small = value is not None and quantity == "peak_bytes" and value < _LEAST_BYTES
    return None if small else value


def tables(document: Document) -> dict[str, str]:
    """Exponents, then every cell."""
    setting = document["setting"]
    exponents = [
        [fit["work"], fit["family"], fit["against"]]
        + [fit[name].words() if fit[name] else "–" for name in _QUANTITIES]
        for fit in fits(document)
    ]
    body = []
    for row in rows(document):
        size = [row["work"], row["model"], f"{row['parameters']:,}", f"{row['records']:,}"]
        stated = f"{row['epsilon']:.3g} ({row['guarantee']}{'' if row['admitted'] else ', vacuous'})"
        if row["not_run"]:
            measured = [f"not run: {row['not_run']}", "–", "–", "–"]
        else:
            beside = row.get("train_seconds", row.get("spectrum_seconds"))
            peak = _told(row, "peak_bytes")
            memory = (
                "–"
                if row["peak_bytes"] is None
                else "< 1 MiB"
                if peak is None
                else f"{peak / 2**20:,.0f} MiB"
            )
            measured = [f"{row['seconds']:.3g} s", f"{beside:.3g} s", memory, str(row["products"])]
        body.append([*size, f"{row['forgotten_records']:,}", *measured, stated, f"{row['error_bound']:.3g}"])
    return {
        "exponents": "Exponents of fitted power laws ± standard error (points); limit "
        f"{setting['limit_seconds']:g} s a cell.\n\n"
        + table(["work", "network", "against", *_QUANTITIES.values()], exponents),
        "cells": "*Beside*: a Newton solve's Lanczos bound on the Hessian's norm; the convex model's training from "
        "zero.\n\n"
        + table(
            [
                "work",
                "model",
                "parameters",
                "records",
                "forgotten",
                "seconds",
                "beside",
                "peak memory",
                "products",
                f"epsilon at sigma {Policy().release.sigma:g}",
                "error bound",
            ],
            body,
        ),
    }


def figure(document: Document) -> Figure | None:
    """Seconds above, peak memory below; a column an axis; lines are the fitted power laws."""
    found = fits(document)
    axes = [axis for axis in _AGAINST if any(fit["against"] == axis for fit in found)]
    if not axes:
        return None
    shown = [q for q in ("seconds", "peak_bytes") if any(fit[q] for fit in found)]
    drawn = Figure(figsize=(4.6 * len(axes), 3.6 * len(shown)), dpi=120, layout="constrained")
    grid = drawn.subplots(len(shown), len(axes), squeeze=False)
    names = sorted({(fit["work"], fit["family"]) for fit in found}, reverse=True)
    for column, axis in enumerate(axes):
        for line, quantity in enumerate(shown):
            panel = grid[line][column]
            for fit in found:
                if fit["against"] == axis and fit[quantity]:
                    _draw(panel, fit, quantity, f"C{names.index((fit['work'], fit['family']))}")
            panel.set_xlabel("forgotten records" if axis == "forgotten" else axis, fontsize=9)
            panel.set_ylabel("seconds" if quantity == "seconds" else "peak MiB", fontsize=9)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=6, frameon=False, title="exponent ± s.e. (points)", title_fontsize=6)
    return drawn


def _draw(panel: Any, fit: dict[str, Any], quantity: str, colour: str) -> None:
    """The points of one work and family, and the power law through their geometric mean."""
    unit = 1.0 if quantity == "seconds" else 2**20
    told = [(row[_AGAINST[fit["against"]]], _told(row, quantity)) for row in fit["rows"]]
    points = [(across, value / unit) for across, value in told if value]
    x, y = ([point[i] for point in points] for i in (0, 1))
    label = f"{fit['work']}, {fit['family']}: {fit[quantity].words()}"
    panel.loglog(x, y, "o" if fit["work"] == "newton" else "s", label=label, color=colour, markersize=4)
    middle = [math.exp(sum(map(math.log, values)) / len(values)) for values in (x, y)]
    ends = [min(x), max(x)]
    law = [middle[1] * (end / middle[0]) ** fit[quantity].exponent for end in ends]
    panel.loglog(ends, law, "-" if fit["work"] == "newton" else "--", alpha=0.6, color=colour)


def expected(document: Document) -> dict[str, float]:
    """Products, epsilon, error bound, parameters, of the cells that ran."""
    out = {}
    for row in rows(document):
        if row["not_run"] is None:
            name = f"{row['work']} {row['model']} {row['records']} {row['forget_percent']}"
            for what in ("products", "epsilon", "error_bound", "parameters"):
                out[f"{name}: {what}"] = float(row[what])
    return out


def main() -> None:
    """One cell, in a process of its own."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--given", type=json.loads, required=True, help="setting and cell, as JSON")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    print(json.dumps(measure(given.given["setting"], given.given["cell"], pick_device(given.device))))


if __name__ == "__main__":
    main()
