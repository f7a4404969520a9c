"""Figures that do not depend on the machine: products, iterations, error bounds, epsilon, bytes.

``benchmarks/expected.json`` holds them for every setting whose name begins with ``small-``; the tests run those and
compare. Times are never among them.
"""

import json
import math
import tempfile
from pathlib import Path

from benchmarks import runner

EXPECTED = Path(__file__).parent / "expected.json"
_RELATIVE = 0.05
_OF_PRODUCTS = 0.15  # sums in another order, on another processor, may shift a whole solve of a training


def small() -> list[str]:
    """Settings that run in a test."""
    return [name for name in runner.settings() if name.startswith("small-")]


def figures(name: str, place: runner.Place, out: Path) -> dict[str, float]:
    """What a setting's experiment calls machine-independent, from a run into an empty folder."""
    document = runner.run(name, place, out)
    return runner.experiment(document["setting"]["experiment"]).expected(document)


def differences(found: dict[str, float], expected: dict[str, float]) -> list[str]:
    """Every figure that is new, gone, or further off than 5 % (products: 15 %); empty if none."""
    said = [f"{name} is new" for name in found.keys() - expected.keys()]
    said += [f"{name} is gone" for name in expected.keys() - found.keys()]
    for name in found.keys() & expected.keys():
        allowed = _OF_PRODUCTS if "products" in name else _RELATIVE
        if not math.isclose(found[name], expected[name], rel_tol=allowed, abs_tol=1e-12):
            said.append(f"{name}: expected {expected[name]:g}, got {found[name]:g}")
    return sorted(said)


def write(place: runner.Place) -> None:
    """Run the small settings and write the file."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "scratch"
        there = runner.Place(place.data, place.device, scratch)
        found = {name: figures(name, there, Path(folder) / name) for name in small()}
    EXPECTED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
