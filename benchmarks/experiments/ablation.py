"""Every technique of the paper and of ours on and off, and sweeps of its constants: error bound, epsilon, truth, cost.

Parts of a setting: ``deep`` (the paper's network and step), ``dense`` (a smaller one, where the exact solver fits),
``convex`` (a linearised network), ``provable`` (softmax regression, where every constant of the theorem is known),
``sweeps``, ``gaussian`` (the exact and the classical calibration). All distances are of noiseless weights.
"""

import math
from typing import Any

from matplotlib.figure import Figure

from benchmarks import ablation_convex, ablation_deep
from benchmarks.common import unframe
from benchmarks.runner import Cell, Document, Place, Setting, rows, table
from expunge.privacy.gaussian import calibrate_sigma, classical_sigma, gaussian_epsilon
from expunge.settings import Policy

_FINE = ("converged", "no step", "not checked")
_SOLVERS = ("exact solver", "all on", "LiSSA", "LiSSA, published loop")


def cells(setting: Setting) -> list[Cell]:
    """Gaussian pairs, techniques of each model, provable steps, sweeps."""
    small = setting.get("dense") is None
    deep = [name for name in ablation_deep.TECHNIQUES if small or name != "exact solver"]
    made: list[Cell] = [
        {"part": "gaussian", "error_bound": bound, "sigma": sigma}
        for bound, sigma in setting["gaussian"]["pairs"]
    ]
    made += [{"part": "deep", "technique": name} for name in deep]
    made += [] if small else [{"part": "dense", "technique": name} for name in _SOLVERS]
    made += [{"part": "convex", "technique": name} for name in ablation_convex.TECHNIQUES]
    known = setting["provable"]
    made += [
        {"part": "provable", "l2": l2, "forgotten": share, "damping": damping}
        for l2 in known["l2"]
        for share in known["forgotten"]
        for damping in known["damping"]
    ]
    made += [
        {"part": "sweep", "model": model, "over": over, "value": value}
        for model, sweeps in setting["sweeps"].items()
        for over, values in sweeps.items()
        for value in values
    ]
    return made


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """One row."""
    part = cell["part"]
    if part == "gaussian":
        return gaussian(cell["error_bound"], cell["sigma"], setting["gaussian"]["delta"])
    if part == "provable":
        known = {name: cell[name] for name in ("l2", "forgotten", "damping")}
        return ablation_convex.provable(setting, place, **known)
    if part == "sweep":
        change = {cell["over"]: cell["value"]}
        if cell["model"] == "convex":
            return ablation_convex.measure(setting, place, **change)
        return ablation_deep.measure(setting, setting["deep"], place, **change)
    if part == "convex":
        return ablation_convex.measure(setting, place, **ablation_convex.TECHNIQUES[cell["technique"]])
    changes = ablation_deep.TECHNIQUES[cell["technique"]]
    return ablation_deep.measure(setting, setting[part], place, **changes)


def gaussian(error_bound: float, sigma: float, delta: float) -> dict[str, Any]:
    """What noise of this size grants: exactly, and by the classical formula inside and outside its domain."""
    exact = gaussian_epsilon(delta, error_bound / sigma)
    says = error_bound / sigma * math.sqrt(2 * math.log(1.25 / delta))
    applies = says <= 1
    return {
        "delta": delta,
        "epsilon": exact,
        "classical_epsilon": says if applies else None,
        "classical_outside_its_domain": None if applies else says,
        "sigma_for_epsilon_1": calibrate_sigma(error_bound, 1.0, delta),
        "classical_sigma_for_epsilon_1": classical_sigma(error_bound, 1.0, delta),
    }


def of_part(document: Document, part: str) -> list[dict[str, Any]]:
    """Rows of a part."""
    return [row for row in rows(document) if row["part"] == part]


def sweep(document: Document, model: str, over: str) -> list[dict[str, Any]]:
    """Rows of a sweep, by value."""
    found = [row for row in of_part(document, "sweep") if (row["model"], row["over"]) == (model, over)]
    return sorted(found, key=lambda row: row["value"])


def _number(value: float | None, form: str = ".3g") -> str:
    return "–" if value is None else format(value, form)


def _epsilon(row: dict[str, Any]) -> str:
    if row["epsilon"] is None:
        return "none"
    vacuous = ", vacuous" if row["epsilon"] > Policy().admit.epsilon else ""
    return f"{row['epsilon']:.2g} ({row['guarantee']}{vacuous})"


def tables(document: Document) -> dict[str, str]:
    """Techniques, solvers, provable steps, sweeps, calibration."""
    made = {
        "techniques": _techniques(document),
        "steps": _steps(document),
        "solvers": _solvers(document),
        "convex": _convex(document),
        "provable": _provable(document),
    }
    for model, sweeps in document["setting"]["sweeps"].items():
        made |= {f"{model}-{over}": _sweep(document, model, over) for over in sweeps}
    return {name: text for name, text in {**made, "gaussian": _gaussian(document)}.items() if text}


def _techniques(document: Document) -> str:
    found = of_part(document, "deep")
    if not found:
        return ""
    setting, first = document["setting"], found[0]
    title = (
        f"The deep network ({first['parameters']:,} parameters, {first['records']:,} records, "
        f"{first['forgotten_records']:,} forgotten, damping {setting['deep']['damping']:g}, ball C = "
        f"{setting['deep']['training']['norm_bound']:g}, sigma {first['sigma']:g}, delta "
        f"{setting['release']['delta']:g}). `N1` uses M = {first['assumed_hessian_lipschitz']:g}, **assumed**, and the "
        "gradient bound G measured at the retrained weights, which a product cannot see; where it binds, 1e-6 of the "
        "spectrum's bounds is to be added to delta.\n"
    )
    head = ["technique", "N1 (assumed M)", "error bound", "binds", "epsilon (class)", "true distance"]
    head += ["rel. residual", "products", "seconds", "accuracy, noised", "remark"]
    body = [
        [
            row["technique"],
            _number(row["theorem"]),
            _number(row["error_bound"]),
            row["binding"],
            _epsilon(row),
            _number(row["distance"]),
            _number(row.get("relative_residual"), ".1e"),
            str(row["products"]),
            _number(row["seconds"], ".2g"),
            _number(row["accuracy_noised"], ".3f"),
            "; ".join(filter(None, [row["remark"], "" if row["status"] in _FINE else row["status"]])),
        ]
        for row in found
    ]
    note = (
        f"\nRetrained: accuracy {first['accuracy_retrained']:.3f} in {first['retrain_seconds']:.2g} s. "
        f"Spectrum of the retain set's Hessian within [{first['lambda_min']:.3g}, {first['lambda_max']:.3g}]. "
        f"Largest relative difference of the kept gradient from one over the retain set: "
        f"{max(row.get('gradient_difference', 0.0) for row in found):.1e}.\n"
    )
    return f"{title}\n{table(head, body)}{note}"


def _steps(document: Document) -> str:
    """What the table of techniques has no room for."""
    head = ["technique", "true distance without a step", "norm trained", "norm unlearned"]
    head += ["mini-batch products", "gradient records", "accuracy before noise"]
    body = [
        [
            row["technique"],
            _number(row["distance_without_step"]),
            _number(row["norm_trained"]),
            _number(row["norm_unlearned"]),
            str(row["batch_products"]),
            str(row.get("gradient_records", "–")),
            _number(row["accuracy_unlearned"], ".3f"),
        ]
        for row in of_part(document, "deep")
    ]
    return table(head, body) if body else ""


def _solvers(document: Document) -> str:
    found = of_part(document, "dense")
    if not found:
        return ""
    head = ["solver", "rel. residual", "products", "mini-batch products", "seconds", "true distance"]
    body = [
        [
            "conjugate gradients" if row["technique"] == "all on" else row["technique"],
            _number(row["relative_residual"], ".1e"),
            str(row["products"]),
            str(row["batch_products"]),
            _number(row["seconds"], ".2g"),
            _number(row["distance"], ".6g"),
        ]
        for row in found
    ]
    return f"Solvers on a network of {found[0]['parameters']:,} parameters\n\n{table(head, body)}"


def _convex(document: Document) -> str:
    found = of_part(document, "convex")
    if not found:
        return ""
    first = found[0]
    head = [
        "technique",
        "error bound",
        "epsilon (class)",
        "true distance",
        "products",
        "of retraining",
        "seconds",
        "of retraining",
        "building curvature",
        "accuracy",
        "noised",
    ]
    body = [
        [
            row["technique"],
            _number(row["error_bound"], ".2e"),
            _epsilon(row),
            _number(row["distance"], ".1e"),
            str(row["products"]),
            str(row["retrain_products"]),
            _number(row["seconds"], ".2g"),
            _number(row["retrain_seconds"], ".2g"),
            _number(row["curvature_seconds"], ".2g"),
            _number(row["accuracy_unlearned"], ".3f"),
            _number(row["accuracy_noised"], ".3f"),
        ]
        for row in found
    ]
    title = (
        f"The convex model ({document['setting']['convex']['name']}, {first['parameters']:,} parameters, "
        f"{first['records']:,} records, {first['forgotten_records']:,} forgotten)\n"
    )
    return f"{title}\n{table(head, body)}"


def _provable(document: Document) -> str:
    found = of_part(document, "provable")
    if not found:
        return ""
    head = [
        "mu",
        "forgotten",
        "damping",
        "M (proved)",
        "R (proved)",
        "N1",
        "true distance",
        "without a step",
        "epsilon of min(N1, R)",
        "C1",
        "epsilon of C1",
    ]
    body = [
        [
            f"{row['l2']:g}",
            f"{row['forgotten_records']:,}",
            f"{row['damping']:g}",
            _number(row["hessian_lipschitz"]),
            _number(row["radius"]),
            _number(row["theorem"]),
            _number(row["distance"]),
            _number(row["distance_without_step"]),
            _number(row["epsilon"], ".2g"),
            _number(row["convex_bound"], ".1e"),
            _number(row["convex_epsilon"], ".2g"),
        ]
        for row in found
    ]
    title = (
        "One Newton step on softmax regression (class convex): M and lambda_min are proved; R = (||g|| + tau)/mu and "
        "the residual are measured on the forget set, so that a product may state none of this but C1.\n"
    )
    return f"{title}\n{table(head, body)}"


def _sweep(document: Document, model: str, over: str) -> str:
    found = sweep(document, model, over)
    deep = model == "deep"
    head = [over, *(["N1 (assumed M)"] if deep else []), "error bound", "epsilon (class)", "true distance"]
    head += ["products", "seconds", "retraining", "accuracy", "noised"]
    body = [
        [
            f"{row['value']:g}",
            *([_number(row["theorem"])] if deep else []),
            _number(row["error_bound"]),
            _epsilon(row),
            _number(row["distance"]),
            str(row["products"]),
            _number(row["seconds"], ".2g"),
            _number(row["retrain_seconds"], ".2g"),
            _number(row["accuracy_unlearned"], ".3f"),
            _number(row["accuracy_noised"], ".3f"),
        ]
        for row in found
    ]
    name = "deep network" if deep else "convex model"
    return f"The {name} against {over}\n\n{table(head, body)}"


def _gaussian(document: Document) -> str:
    found = of_part(document, "gaussian")
    head = [
        "error bound",
        "sigma",
        "epsilon, exact",
        "epsilon, classical",
        "sigma for epsilon 1",
        "classical",
    ]
    body = []
    for row in found:
        outside = row["classical_outside_its_domain"]
        classical = (
            _number(row["classical_epsilon"], ".2g")
            if outside is None
            else f"not applicable (would say {outside:.2g})"
        )
        body.append(
            [
                f"{row['error_bound']:g}",
                f"{row['sigma']:g}",
                f"{row['epsilon']:.2g}",
                classical,
                _number(row["sigma_for_epsilon_1"]),
                _number(row["classical_sigma_for_epsilon_1"]),
            ]
        )
    return (
        f"The Gaussian mechanism at delta {document['setting']['gaussian']['delta']:g}\n\n{table(head, body)}"
    )


def expected(document: Document) -> dict[str, float]:
    """Error bounds, epsilons, constants; products of the convex model in all, as single counts may shift by one.

    A deep network is not trained alike on every processor: of it, only what its ball gives.
    """
    found: dict[str, float] = {}
    products = 0.0
    for row in rows(document):
        name = ", ".join(_word(value) for key, value in row.items() if key in _IDENTITY[row["part"]])
        wanted = ["epsilon", "error_bound", "theorem", "radius", "hessian_lipschitz"]
        if row["part"] in ("deep", "dense") or row.get("model") == "deep":
            wanted = ["epsilon", "error_bound"] if row["binding"] == "ball" else []
        elif "products" in row:
            products += row["products"]
        found |= {
            f"{row['part']}, {name}: {figure}": float(row[figure])
            for figure in wanted
            if row.get(figure) is not None
        }
    return {**found, "convex, products in all": products}


_IDENTITY = {
    "gaussian": ("error_bound", "sigma"),
    "deep": ("technique",),
    "dense": ("technique",),
    "convex": ("technique",),
    "provable": ("l2", "forgotten", "damping"),
    "sweep": ("model", "over", "value"),
}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def figure(document: Document) -> Figure | None:
    """Six panels: bound and truth against each constant, utility against epsilon, provable steps, solvers."""
    made = Figure(figsize=(13, 7.2), dpi=120, layout="constrained")
    panels = made.subplots(2, 3)
    for panel in panels.flat:
        unframe(panel)
    _draw_against(
        panels[0, 0], sweep(document, "deep", "damping"), "damping λ", "Damping: N1 never beats the ball"
    )
    _draw_against(
        panels[0, 1],
        sweep(document, "deep", "norm_bound"),
        "norm bound C",
        "Norm bound: Δ = 2C, whatever the step",
    )
    _draw_shares(panels[0, 2], document)
    _draw_utility(panels[1, 0], document)
    _draw_provable(panels[1, 1], of_part(document, "provable"))
    _draw_solvers(panels[1, 2], document)
    return made


def _draw_against(panel: Any, found: list[dict[str, Any]], label: str, title: str) -> None:
    series = {"theorem": "N1, assumed M", "error_bound": "certified Δ (ball 2C)", "distance": "true distance"}
    for (what, name), style in zip(series.items(), ("s--", "o-", "^-"), strict=True):
        points = [(row["value"], row[what]) for row in found if row[what] is not None]
        if points:
            panel.loglog(*zip(*points, strict=True), style, markersize=4, label=name)
    _finish(panel, label, "weight units", title)


def _draw_shares(panel: Any, document: Document) -> None:
    for model, colour in (("deep", "#0b5cad"), ("convex", "#b35c00")):
        found = sweep(document, model, "forgotten")
        if not found:
            continue
        shares = [100 * row["value"] for row in found]
        name = "deep, Newton" if model == "deep" else "convex"
        for what, style, words in (("error_bound", "--", "bound"), ("distance", "o-", "truth")):
            values = [row[what] for row in found]
            panel.loglog(shares, values, style, color=colour, markersize=4, label=f"{name}: {words}")
    _finish(panel, "forgotten records, %", "weight units", "Size of the forget set")


def _draw_utility(panel: Any, document: Document) -> None:
    for model in ("deep", "convex"):
        found = sweep(document, model, "sigma")
        points = [(row["epsilon"], row["accuracy_noised"]) for row in found if row["epsilon"]]
        if points:
            panel.semilogx(*zip(*points, strict=True), "o-", markersize=4, label=model)
        for row in found:
            if row["epsilon"]:
                at = (row["epsilon"], row["accuracy_noised"])
                panel.annotate(
                    f"σ {row['value']:g}", at, fontsize=6, xytext=(3, 4), textcoords="offset points"
                )
    panel.axvline(1.0, color="#b3261e", linestyle=":", linewidth=1)
    _finish(panel, "epsilon", "test accuracy after noise", "What noise costs and grants")


def _draw_provable(panel: Any, found: list[dict[str, Any]]) -> None:
    for damping in sorted({row["damping"] for row in found}):
        part = [row for row in found if row["damping"] == damping]
        xs, ys = [row["distance"] for row in part], [row["theorem"] for row in part]
        panel.loglog(xs, ys, "o", markersize=5, label=f"damping {damping:g}")
    if found:
        ends = [min(row["distance"] for row in found), max(row["theorem"] for row in found)]
        panel.loglog(ends, ends, color="#777777", linewidth=1, label="bound = truth")
    _finish(panel, "true distance", "N1, all constants proved", "Softmax regression: the theorem holds")


def _draw_solvers(panel: Any, document: Document) -> None:
    found = of_part(document, "dense") or of_part(document, "deep")
    for row in found:
        if row["technique"] in _SOLVERS:
            name = "conjugate gradients" if row["technique"] == "all on" else row["technique"]
            panel.loglog(row["seconds"], max(row["relative_residual"], 1e-16), "o", markersize=7, label=name)
    _finish(
        panel,
        "seconds",
        "relative residual",
        f"Solvers, {found[0]['parameters']:,} parameters" if found else "",
    )


def _finish(panel: Any, across: str, up: str, title: str) -> None:
    panel.set_xlabel(across, fontsize=9)
    panel.set_ylabel(up, fontsize=9)
    panel.set_title(title, fontsize=10)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False)
