"""How cost grows: a Newton solve and convex unlearning against parameters, records and forgotten records.

`python -m benchmarks.scaling`. Each of d (by the hidden width), n and n_u varies over two decades with the other two
fixed, on Gaussian records from a public seed. The exponents are slopes of least-squares lines through the logarithms.
A Newton solve is conjugate gradients to a relative residual of 1e-3 in float32 with streamed products, the gradient
included, with damping just above the Hessian's norm. Convex unlearning starts from noised weights with kept
curvature.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.common import (
    SEED,
    best,
    emit,
    hardware,
    model_spec,
    panels,
    parser,
    pick_device,
    say,
    synthetic,
)
from benchmarks.convex import build_kept, noised, unlearn, warm_up
from expunge.curvature.lanczos import spectrum_bounds
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import conjugate_gradients
from expunge.models.training import train
from expunge.models.zoo import build

CLASSES = 5
TOLERANCE = 1e-3
TRAINING = {"l2": 1e-2, "gradient_tolerance": 5e-8}
AXES = ("parameters", "records", "forgotten")
_LANCZOS = {"steps": 40, "failure_probability": 1e-6}
REPEATS = 3


@dataclass(frozen=True)
class Size:
    """One problem.

    Args:
        hidden: Width of the hidden layer.
        records: n, before anything is forgotten.
        forgotten: n_u.
    """

    hidden: int
    records: int
    forgotten: int


def sizes(base: Size, points: int) -> dict[str, list[Size]]:
    """Two decades each way: the base is in the middle for d and n, forgotten records end at a tenth of n."""

    def around(value: int) -> Iterable[int]:
        return (round(x) for x in np.geomspace(value / 10, value * 10, points))

    top = base.records // 10
    return {
        "parameters": [Size(hidden, base.records, base.forgotten) for hidden in around(base.hidden)],
        "records": [Size(base.hidden, n, base.forgotten) for n in around(base.records)],
        "forgotten": [
            Size(base.hidden, base.records, max(1, round(n))) for n in np.geomspace(top / 100, top, points)
        ],
    }


def newton_solve(size: Size, features: int, device: torch.device, repeats: int) -> dict[str, Any]:
    """Solve the damped system of the retain set at initial weights."""
    data = synthetic(size.records, features, CLASSES)
    spec = model_spec("mlp", features, CLASSES, TRAINING, hidden=[size.hidden])
    network = build(spec).to(dtype=torch.float32, device=device)
    retained = data.features[size.forgotten :].float().to(device)
    objective = NetworkObjective(network, retained, data.labels[size.forgotten :], spec.l2)
    weights = network.initial()
    spectrum = spectrum_bounds(
        lambda v: objective.hessian_product(weights, v.float().to(device)).double().cpu(),
        network.size,
        **_LANCZOS,
        generator=torch.Generator().manual_seed(SEED),
    )
    damping = 1.1 * spectrum.upper

    def solve() -> Any:
        right = objective.gradient(weights)
        return conjugate_gradients(
            lambda v: objective.hessian_product(weights, v) + damping * v,
            right,
            tolerance=TOLERANCE * float(right.norm()),
            max_products=500,
            measure=False,
        )

    solution, seconds = best(solve, device, repeats)
    return {
        "parameters": network.size,
        "seconds": seconds,
        "products": solution.products,
        "status": solution.status,
    }


def convex_unlearning(size: Size, features: int, rank: int, sample: int, repeats: int) -> dict[str, Any]:
    """Train, release, unlearn with kept curvature; the curvature's building apart."""
    data = synthetic(size.records, features, CLASSES)
    spec = model_spec("linearized-mlp", features, CLASSES, TRAINING, hidden=[size.hidden])
    trained = train(spec, data.features, data.labels)
    released = noised(trained.weights)
    kept, _ = build_kept(spec, data.features, data.labels, released, rank=rank, sample=sample)
    retained = data.features[size.forgotten :], data.labels[size.forgotten :]
    runs = [unlearn(spec, *retained, released, kept, rank=rank, sample=sample) for _ in range(repeats)]
    return {
        "parameters": len(trained.weights),
        "seconds": min(run.seconds for run, _ in runs),
        "rebuild_seconds": min(rebuild for _, rebuild in runs),
        "train_seconds": trained.seconds,
        "products": runs[0][0].products,
        "status": "converged",  # train refuses anything else
    }


def exponent(points: list[dict[str, Any]], against: str, what: str) -> float:
    """Slope of the logarithms."""
    logs = np.log([[point[against], point[what]] for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def measure(
    base: Size,
    device: torch.device,
    *,
    features: int,
    points: int,
    rank: int,
    sample: int,
    repeats: int = REPEATS,
    axes: Iterable[str] = AXES,
) -> dict[str, Any]:
    """Every axis for both kinds of work."""
    warm_up()
    out: dict[str, Any] = {"newton_solve": {}, "convex_unlearning": {}}
    for axis in axes:
        chosen = sizes(base, points)[axis]
        newton = [{**asdict(size), **newton_solve(size, features, device, repeats)} for size in chosen]
        say(f"Newton solves against {axis}: done")
        convex = [
            {**asdict(size), **convex_unlearning(size, features, rank, sample, repeats)} for size in chosen
        ]
        say(f"convex unlearning against {axis}: done")
        out["newton_solve"][axis] = {
            "points": newton,
            "exponent": exponent(newton, axis, "seconds"),
        }
        out["convex_unlearning"][axis] = {
            "points": convex,
            "exponent": exponent(convex, axis, "seconds"),
            "exponent_rebuild": exponent(convex, axis, "rebuild_seconds"),
            "exponent_train": exponent(convex, axis, "train_seconds"),
        }
    return {
        "base": asdict(base),
        "features": features,
        "classes": CLASSES,
        "rank": rank,
        "sample": sample,
        "repeats": repeats,
        "seed": SEED,
        **out,
        "convex_device": "cpu",
        "hardware": hardware(device),
    }


def plot(document: dict[str, Any]) -> Figure:
    axes = list(document["newton_solve"])
    figure, drawn = panels(len(axes))
    series = {
        ("newton_solve", "seconds", "exponent"): "Newton solve",
        ("convex_unlearning", "seconds", "exponent"): "convex unlearning",
        ("convex_unlearning", "train_seconds", "exponent_train"): "convex training",
    }
    for panel, axis in zip(drawn, axes, strict=True):
        for (work, what, slope), name in series.items():
            part = document[work][axis]
            x = [point[axis] for point in part["points"]]
            y = [point[what] for point in part["points"]]
            panel.loglog(x, y, "o-", markersize=4, label=f"{name}: exponent {part[slope]:.2f}")
        panel.set_xlabel({"forgotten": "forgotten records"}.get(axis, axis), fontsize=9)
        panel.set_ylabel("seconds", fontsize=9)
        panel.legend(fontsize=7, frameon=False)
    return figure


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--hidden", type=int, default=40, help="hidden width in the middle")
    options.add_argument("--features", type=int, default=50)
    options.add_argument("--points", type=int, default=5, help="of each axis")
    options.add_argument("--rank", type=int, default=100)
    options.add_argument("--sample", type=int, default=2000)
    given = options.parse_args()
    records = given.records or 10_000
    document = measure(
        Size(given.hidden, records, max(1, records // 100)),
        pick_device(given.device),
        features=given.features,
        points=given.points,
        rank=given.rank,
        sample=given.sample,
    )
    emit("scaling", document, plot(document), given.out)


if __name__ == "__main__":
    main()
