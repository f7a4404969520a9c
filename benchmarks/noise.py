"""Our noise generator against OpenDP's Gaussians: `python -m benchmarks.noise`.

Seconds, added peak memory and ratio of seconds at 1e4 to 1e7 coordinates. Each figure comes from a
process of its own. OpenDP is optional; where it is absent the document says so.
"""

import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import resource
import time
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import emit, panels, parser
from expunge.privacy.noise import GENERATOR, GaussianNoise, release_step

SIGMA = 0.01
OURS, CONTINUOUS, DISCRETE = "expunge", "opendp_continuous", "opendp_discrete"


def _opendp(name: str, size: int) -> None:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    if name == CONTINUOUS:
        atom, scale, values = dp.atom_domain(T=float, nan=False), SIGMA, [0.0] * size
    else:  # integers: steps of our own grid
        atom, scale, values = dp.atom_domain(T=int), SIGMA / release_step(SIGMA), [0] * size
    dp.m.make_gaussian(dp.vector_domain(atom), dp.l2_distance(T=float), scale=scale)(values)


def _run(name: str, size: int) -> None:
    if name == OURS:
        GaussianNoise().add(np.zeros(size), SIGMA)
    else:
        _opendp(name, size)


def measure(task: tuple[str, int]) -> dict[str, float]:
    """Noise one vector, in this process, after a small one that loads the library."""
    name, size = task
    _run(name, 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    _run(name, size)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def compare(largest: int, largest_of_opendp: int) -> dict[str, object]:
    """Measure every generator at every size up to its largest."""
    present = importlib.util.find_spec("opendp") is not None
    names = (OURS, CONTINUOUS, DISCRETE) if present else (OURS,)
    sizes = [size for size in (10**4, 10**5, 10**6, 10**7) if size <= largest]
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for size in sizes:
            row: dict[str, object] = {"coordinates": size}
            tasks = [(name, size) for name in names if name == OURS or size <= largest_of_opendp]
            figures = dict(zip([t[0] for t in tasks], pool.map(measure, tasks, chunksize=1), strict=True))
            row.update(figures)
            for name in list(figures)[1:]:
                row[f"ratio_seconds_{name}"] = figures[name]["seconds"] / figures[OURS]["seconds"]
            rows.append(row)
    return {
        "generator": GENERATOR,
        "opendp": importlib.metadata.version("opendp") if present else "absent: pip install opendp",
        "sigma": SIGMA,
        "sizes": rows,
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "numpy": np.__version__},
    }


def main() -> None:
    options = parser(__doc__, device=False)
    options.add_argument("--largest", type=float, default=1e7, help="coordinates")
    options.add_argument("--largest-of-opendp", type=float, default=1e5, help="coordinates")
    given = options.parse_args()
    document = compare(int(given.largest), int(given.largest_of_opendp))
    emit("noise", document, plot(document), given.out)


def plot(document: dict[str, Any]) -> Figure:
    figure, (axes,) = panels(1)
    rows = document["sizes"]
    for name in (OURS, CONTINUOUS, DISCRETE):
        points = [(row["coordinates"], row[name]["seconds"]) for row in rows if name in row]
        if points:
            axes.loglog(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xlabel("coordinates")
    axes.set_ylabel("seconds")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
