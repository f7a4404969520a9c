"""Speed against peers, in one run: the paper's Newton system by every solver, and convex unlearning against retraining.

The published recursion (LiSSA: chains x steps, one after the other), the same vectorised, an exact inverse where the
network is small, and conjugate gradients solve one system; every residual is measured afresh over the whole retain set
in float64. Convex unlearning is held against a warm start, against retraining the same model to the same gradient
tolerance, and against an ordinary network of the same width trained until it is as accurate. Where the time goes is
part of the result.
"""

from typing import Any

from matplotlib.figure import Figure

from benchmarks.common import Records, averaged, model_spec, read_records
from benchmarks.convex import deep_runs, measure_model, warm_up
from benchmarks.experiments.scale import certificate
from benchmarks.runner import Cell, Document, Place, Setting, rows, table
from benchmarks.solvers import measure

_SOLVERS = {
    "exact_inverse": "exact inverse, dense, float64",
    "lissa_published": "LiSSA as published",
    "lissa_vectorised": "LiSSA, chains vectorised",
    "conjugate_gradients_streamed": "conjugate gradients, streamed",
    "conjugate_gradients": "conjugate gradients, activations kept",
}
TARGET_NEWTON = 100.0  # published LiSSA over conjugate gradients
TARGET_CONVEX = 10.0, 20.0  # retraining over unlearning: asked for; better
TARGET_RESIDUAL = 1e-3


def cells(setting: Setting) -> list[Cell]:
    """Newton systems, convex models, ordinary networks."""
    parts = ("newton", "convex", "ordinary")
    return [{"part": part, "case": name} for part in parts for name in setting[part]]


def run(setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
    """One system, model or network."""
    case = setting[cell["part"]][cell["case"]]
    data = averaged(
        read_records(case["data"], place.source(case["data"]), case.get("records")), case.get("pool")
    )
    if cell["part"] == "newton":
        return _newton(setting, case, data, place)
    warm_up()
    width, hyper = data.features.shape[1], case.get("hyperparameters", {})
    spec = model_spec(case["model"], width, data.classes, case.get("training"), **hyper)
    if cell["part"] == "ordinary":
        runs = deep_runs(spec, data, case["target_accuracy"], case["max_epochs"], place.device)
        return {"target_accuracy": case["target_accuracy"], "runs": runs}
    measured = measure_model(spec, data, rank=case["rank"], sample=case["sample"], device=place.device)
    stated = certificate(spec, measured["parameters"])
    return {**measured, **stated, "train_records": len(data.labels)}


def _newton(setting: Setting, case: dict[str, Any], data: Records, place: Place) -> dict[str, Any]:
    found = measure(
        data,
        place.device,
        forgotten=case["forgotten"],
        hidden=tuple(case["hidden"]),
        epochs=case["epochs"],
        tolerance=TARGET_RESIDUAL,
        steps=setting["steps"],
        published_steps=case.get("published_steps"),
        chains=setting["chains"],
        batch=setting["batch"],
        scale=case["scale"],
        dense_limit=setting["dense_limit"],
    )
    spec = model_spec("mlp", data.features.shape[1], data.classes, hidden=case["hidden"])
    return {**found, **certificate(spec, found["system"]["parameters"])}


def _cheapest(row: dict[str, Any]) -> dict[str, Any]:
    """The faster way of conjugate gradients."""
    ways: list[dict[str, Any]] = [row["conjugate_gradients"], row["conjugate_gradients_streamed"]]
    return min(ways, key=lambda way: float(way["seconds"]))


def targets(document: Document) -> list[dict[str, Any]]:
    """Every ratio that has a target: how many times faster, whether that is enough, and where the time goes."""
    out = []
    for row in rows(document):
        if row["part"] == "newton":
            ours = _cheapest(row)
            ratio = row["lissa_published"]["seconds"] / ours["seconds"]
            close = ours["relative_residual"] <= TARGET_RESIDUAL
            out.append(
                {
                    "what": f"{row['case']}: published LiSSA over conjugate gradients",
                    "ratio": ratio,
                    "asked": TARGET_NEWTON,
                    "reached": ratio >= TARGET_NEWTON and close,
                    "beyond": False,
                    "profile": row["conjugate_gradients"]["profile"],
                }
            )
        elif row["part"] == "convex":
            for removal in row["removals"]:
                ratio = 1 / removal["ratio_unlearn"]
                out.append(
                    {
                        "what": f"{row['case']}, {removal['removed']}: retraining over unlearning",
                        "ratio": ratio,
                        "asked": TARGET_CONVEX[0],
                        "reached": ratio >= TARGET_CONVEX[0],
                        "beyond": ratio >= TARGET_CONVEX[1],
                        "profile": row["profile"],
                    }
                )
    return out


def tables(document: Document) -> dict[str, str]:
    """Newton systems, convex models, ordinary networks, and what of the targets is reached."""
    by_part: dict[str, list[dict[str, Any]]] = {"newton": [], "convex": [], "ordinary": []}
    for row in rows(document):
        by_part[row["part"]].append(row)
    newton, convex, ordinary = "", "", ""
    for row in by_part["newton"]:
        system, ours = row["system"], _cheapest(row)
        body = [
            [
                name + (f" ({row[key]['scaled']})" if row[key].get("scaled") else ""),
                f"{row[key]['seconds']:.3g}",
                f"{row[key]['seconds'] / ours['seconds']:.3g}",
                f"{row[key]['relative_residual']:.1e}",
                str(row[key]["full_products"])
                if "full_products" in row[key]
                else f"{row[key]['batch_products']:,} of a batch",
            ]
            for key, name in _SOLVERS.items()
            if row[key] is not None
        ]
        newton += (
            f"{row['case']}: {system['parameters']:,} parameters, {system['retained_records']:,} retained records, "
            f"damping {system['damping']:.3g}; training the network took {system['train_seconds']:.3g} s. A release at "
            f"policy's sigma would state epsilon {row['epsilon']:.3g} ({row['guarantee']}"
            f"{'' if row['admitted'] else ', vacuous'}).\n\n"
            + table(["solver", "seconds", "times the fastest", "relative residual", "products"], body)
            + "\n"
        )
    body = []
    for row in by_part["convex"]:
        for removal in row["removals"]:
            body.append(
                [f"{row['case']} ({row['parameters']:,})", removal["removed"]]
                + [f"{removal[key]['seconds']:.3g} s" for key in ("retrain", "warm_start", "unlearn")]
                + [
                    f"1/{1 / removal['ratio_unlearn']:.3g}",
                    f"{removal['unlearn']['products']} of {removal['retrain']['products']}",
                    f"{removal['rebuild_seconds']:.3g} s",
                    f"{removal['unlearn']['test_accuracy']:.4f}, {removal['retrain']['test_accuracy']:.4f}",
                    f"{row['epsilon']:g} ({row['guarantee']})",
                ]
            )
    if body:
        header = [
            "model (parameters)",
            "leave",
            "retrain",
            "warm start",
            "unlearn",
            "ratio",
            "products",
            "rebuild",
        ]
        convex = table([*header, "test accuracy, unlearned and retrained", "epsilon"], body)
    for row in by_part["ordinary"]:
        last = row["runs"][-1]
        reached = last["test_accuracy"] >= row["target_accuracy"]
        ordinary += (
            f"An ordinary network, {row['case']}, retrained exactly: {last['epochs']} epochs, {last['seconds']:.3g} s, "
            f"test accuracy {last['test_accuracy']:.4f} ({'reaches' if reached else 'does not reach'} "
            f"{row['target_accuracy']:g}).\n\n"
        )
    judged = [
        [
            target["what"],
            f"{target['ratio']:.3g}",
            f"{target['asked']:g}",
            ("yes" + (f", and {TARGET_CONVEX[1]:g}" if target["beyond"] else ""))
            if target["reached"]
            else "**no**",
            ", ".join(f"{part} {100 * share:.0f} %" for part, share in list(target["profile"].items())[:4]),
        ]
        for target in targets(document)
    ]
    judgement = table(
        ["how many times faster", "measured", "asked", "reached", "where our time goes"], judged
    )
    made = {"newton": newton, "convex": convex, "ordinary": ordinary, "targets": judgement}
    return {name: text for name, text in made.items() if text}


def figure(document: Document) -> Figure | None:
    """Solvers by time and residual; times faster against the targets; where the time goes."""
    newton = [row for row in rows(document) if row["part"] == "newton"]
    judged = targets(document)
    if not judged:
        return None
    drawn = Figure(figsize=(15, 2.4 + 0.36 * len(judged)), dpi=120, layout="constrained")
    left, middle, right = drawn.subplots(1, 3, width_ratios=[1.1, 1, 1])
    markers = dict(zip(_SOLVERS, "sPXo*", strict=True))
    for index, row in enumerate(newton):
        for key, name in _SOLVERS.items():
            if row[key] is not None:
                left.loglog(
                    row[key]["seconds"], row[key]["relative_residual"], markers[key], color=f"C{index}",
                    markersize=8, label=name if index == 0 or key == "exact_inverse" else None,
                )  # fmt: skip
        left.loglog([], [], "-", color=f"C{index}", label=row["case"])
    if newton:
        left.axhline(TARGET_RESIDUAL, color="grey", linestyle="--", linewidth=0.8)
        left.legend(fontsize=6, frameon=False)
    left.set_xlabel("seconds", fontsize=9)
    left.set_ylabel("relative residual, whole retain set", fontsize=9)
    names = [target["what"].replace(": ", ":\n") for target in judged]
    colours = ["#1b7f3b" if target["reached"] else "#b3261e" for target in judged]
    bar = middle.barh(range(len(judged)), [target["ratio"] for target in judged], color=colours)
    middle.bar_label(bar, fmt="%.3g", padding=3, fontsize=7)
    for index, target in enumerate(judged):
        middle.plot([target["asked"]] * 2, [index - 0.4, index + 0.4], color="black")
    middle.set_xscale("log")
    middle.set_yticks(range(len(judged)), names, fontsize=6)
    middle.set_xlabel("times faster; black: asked for", fontsize=9)
    shades = {part: f"C{i}" for i, part in enumerate(dict.fromkeys(p for t in judged for p in t["profile"]))}
    for index, target in enumerate(judged):
        start = 0.0
        for part, share in target["profile"].items():
            right.barh(index, share, left=start, color=shades[part])
            start += share
    for part, colour in shades.items():
        right.barh(0, 0, color=colour, label=part)
    right.set_yticks([])
    right.set_xlabel("where our time goes, share", fontsize=9)
    right.legend(fontsize=6, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for panel in (middle, right):
        panel.invert_yaxis()
    return drawn


def expected(document: Document) -> dict[str, float]:
    """Products, parameters, epsilon and error bound."""
    out: dict[str, float] = {}
    for row in rows(document):
        name = f"{row['part']} {row['case']}"
        if row["part"] == "ordinary":
            continue
        out |= {f"{name}: {what}": float(row[what]) for what in ("epsilon", "error_bound")}
        if row["part"] == "newton":
            out[f"{name}: parameters"] = float(row["system"]["parameters"])
            out[f"{name}: damping"] = row["system"]["damping"]
            for key in _SOLVERS:
                if row[key] is not None:
                    products = row[key].get("full_products", row[key].get("batch_products"))
                    out[f"{name}: products, {key}"] = float(products)
        else:
            out[f"{name}: parameters"] = float(row["parameters"])
            for removal in row["removals"]:
                for way in ("unlearn", "retrain"):
                    out[f"{name}, {removal['removed']}: products, {way}"] = float(removal[way]["products"])
    return out
