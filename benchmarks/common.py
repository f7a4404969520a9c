"""What every benchmark shares: options, hardware, clocks, peak memory, data, output."""

import argparse
import contextlib
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import avg_pool2d

from expunge.datasets.catalogue import load
from expunge.datasets.preprocessing import encode, fit
from expunge.models.spec import ModelSpec
from expunge.settings import Params

ROOT = Path(__file__).parents[1]
SEED = 20240801  # public, of synthetic data and of random choices that no record enters
# Above this, memory that a tensor gives back goes back to the system at once, so that a peak is a peak.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

_T = TypeVar("_T")


def parser(doc: str | None, *, device: bool = True) -> argparse.ArgumentParser:
    """Options of every benchmark."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--out", type=Path, help="folder for the JSON document and the plot")
    made.add_argument("--records", type=int, help="use this many training records only")
    if device:
        made.add_argument("--device", default="cpu", help="cpu or cuda; the CPU where there is no such GPU")
    return made


def pick_device(name: str) -> torch.device:
    """The device asked for, or the CPU where there is none."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        say("no GPU here: measured on the CPU")
        return torch.device("cpu")
    return torch.device(name)


def hardware(device: torch.device) -> dict[str, object]:
    """Where the figures come from."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], _T], device: torch.device | str = "cpu") -> tuple[_T, float]:
    """A call's result and its seconds, once."""
    device = torch.device(device)
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return result, time.perf_counter() - began


def computed(call: Callable[[], _T], device: torch.device | str = "cpu") -> tuple[_T, float]:
    """A call's result and this process's CPU seconds, which other work on the machine hardly lengthens (GPU: wall)."""
    if torch.device(device).type == "cuda":
        return timed(call, device)
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


def best(call: Callable[[], _T], device: torch.device | str = "cpu", repeats: int = 3) -> tuple[_T, float]:
    """A call's result and the least seconds of several, after one that only warms up."""
    call()
    runs = [timed(call, device) for _ in range(repeats)]
    return runs[-1][0], min(seconds for _, seconds in runs)


def extra_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes at the peak of a call above those before it; to be called in a process of its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(OSError):  # Linux: the peak so far is forgotten
        Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    call()
    return high_water() - before


def high_water() -> int:
    """Peak resident bytes. Linux: of this program alone, while ``ru_maxrss`` also holds what its parent held."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fresh_process(module: str, arguments: list[str]) -> dict[str, Any]:
    """What a module prints as JSON when run in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **_ALLOCATOR},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    content: dict[str, Any] = json.loads(answer.stdout)
    return content


def model_spec(
    name: str, in_features: int, classes: int, training: Mapping[str, Any] | None = None, **hyper: Any
) -> ModelSpec:
    """A model of the catalogue with the defaults of params.yaml, but for what is named."""
    params = Params.model_validate(
        {"model": {"name": name, "hyperparameters": hyper}, "training": dict(training or {})}
    )
    return ModelSpec.from_params(params, in_features=in_features, classes=classes)


@dataclass(frozen=True)
class Records:
    """Encoded records of a dataset.

    Args:
        features: Training records, float64, shape (n, p).
        labels: Shape (n,).
        subjects: Whose record each is, shape (n,).
        test_features: Test records.
        test_labels: Of the test records.
        classes: Number of classes.
    """

    features: Tensor
    labels: Tensor
    subjects: np.ndarray[Any, Any]
    test_features: Tensor
    test_labels: Tensor
    classes: int


def read_records(name: str, source: Path | None, limit: int | None) -> Records:
    """The first training records of a dataset and all its test records, encoded."""
    loaded = load(name, source)
    rows = loaded.frame[loaded.frame["split"] == "train"].iloc[:limit]
    preprocessing = fit(rows, loaded.contract)
    train = encode(rows, preprocessing)
    test = encode(loaded.frame[loaded.frame["split"] == "test"], preprocessing)
    return Records(
        torch.from_numpy(train.features),
        torch.from_numpy(train.labels),
        rows["subject_id"].to_numpy(),
        torch.from_numpy(test.features),
        torch.from_numpy(test.labels),
        len(preprocessing.classes),
    )


def synthetic(records: int, width: int, classes: int, test: int = 0) -> Records:
    """Gaussian records with the labels of a random linear rule and noise; the seed is public."""
    generator = torch.Generator().manual_seed(SEED)
    rule = torch.randn(width, classes, dtype=torch.float64, generator=generator)
    features = torch.randn(records + test, width, dtype=torch.float64, generator=generator)
    noise = torch.randn(records + test, classes, dtype=torch.float64, generator=generator)
    labels = (features @ rule / math.sqrt(width) + noise).argmax(dim=1)
    return Records(
        features[:records],
        labels[:records],
        np.arange(records),
        features[records:],
        labels[records:],
        classes,
    )


def pooled(images: Tensor, shape: Sequence[int], size: int) -> Tensor:
    """Images of fewer pixels: means over squares.

    Args:
        images: Flat rows, shape (n, channels height width).
        shape: [channels, height, width].
        size: Side of a square.

    Returns:
        Flat rows.
    """
    return avg_pool2d(images.reshape(-1, *shape), size).flatten(1)


def averaged(records: Records, window: int | None) -> Records:
    """Records of square grey images, averaged over windows; as they are without a window."""
    if window is None:
        return records
    side = math.isqrt(records.features.shape[1])
    features, tested = (
        pooled(rows, (1, side, side), window) for rows in (records.features, records.test_features)
    )
    return replace(records, features=features, test_features=tested)


def say(line: str) -> None:
    """A line for the person who runs it; stdout is the document's."""
    sys.stderr.write(line + "\n")


def emit(name: str, document: dict[str, Any], figure: Figure | None, out: Path | None) -> None:
    """Print the document and, with a folder, write NAME.json and NAME.png."""
    text = json.dumps(document, indent=1) + "\n"
    sys.stdout.write(text)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(text, encoding="utf-8")
        if figure is not None:
            figure.savefig(out / f"{name}.png")


def panels(count: int) -> tuple[Figure, list[Any]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(4.2 * count, 3.4), dpi=120, layout="constrained")
    made = list(np.atleast_1d(figure.subplots(1, count)))
    for axes in made:
        unframe(axes)
    return figure, made


def unframe(axes: Any) -> None:
    """A panel with a faint grid, and no frame above and to the right."""
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def bars(axes: Any, values: Mapping[str, float], label: str, *, log: bool = False) -> None:
    """Horizontal bars, each with its figure, the first on top."""
    names = list(values)
    drawn = axes.barh(range(len(names)), [values[name] for name in names], color="#0b5cad")
    axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=9)
    axes.margins(x=0.25)
    if log:
        axes.set_xscale("log")
