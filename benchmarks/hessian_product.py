"""A Hessian product against its own matrix products, and a solve against a training step: time and memory.

`python -m benchmarks.hessian_product`. The network and the number of records are those of the paper's MNIST; the
records are Gaussian, since time and memory depend on shapes alone. The matrix products that a Hessian product cannot
do without are counted and executed as plain ``A @ B`` of the same shapes, chunk by chunk. For a layer with input a,
weights W and output derivative e, forward over reverse (and reverse over reverse: as many, of the same shapes) needs

    forward   a W^T;  a' W^T + a W'^T          (a' = 0 at the first layer)
    weights   e'^T a + e^T a'
    input     e W;    e' W + e W'              (not at the first layer)

of which the first of each line does not depend on the vector: where activations are kept it is not done again.
"""

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.common import (
    SEED,
    Records,
    bars,
    best,
    emit,
    extra_bytes,
    fresh_process,
    hardware,
    model_spec,
    panels,
    parser,
    pick_device,
    say,
    synthetic,
)
from benchmarks.profiles import by_operator
from expunge.curvature.flat import FlatModule
from expunge.curvature.jacobian import MEMORY_LIMIT, chunk_size, record_bytes
from expunge.curvature.network import NetworkObjective
from expunge.curvature.solvers import conjugate_gradients
from expunge.models.zoo import build

RECORDS, WIDTH, CLASSES = 59_000, 784, 10  # MNIST after the paper's 1,000 forgotten samples
HIDDEN = [32, 32]
L2, DAMPING = 1e-3, 12.0
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_MATRIX = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
_WARM_RECORDS = 64
_WORKS = ("training-step", "training-step-all", "streamed", "kept")


class Product(NamedTuple):
    """One plain matrix product ``(m, k) @ (k, n)``, and how often it is needed."""

    kind: Literal["forward", "weights", "input"]
    m: int
    k: int
    n: int
    times: int

    @property
    def flops(self) -> int:
        """Floating-point operations, an addition and a multiplication each."""
        return 2 * self.m * self.k * self.n * self.times


def needed_products(widths: list[int], records: int, *, kept: bool) -> list[Product]:
    """What one Hessian product needs, layer by layer."""
    again = 0 if kept else 1
    out = []
    for layer, (wide, narrow) in enumerate(pairwise(widths)):
        first = layer == 0
        out.append(Product("forward", records, wide, narrow, (1 if first else 2) + again))
        out.append(Product("weights", narrow, records, wide, 1 if first else 2))
        if not first:
            out.append(Product("input", records, narrow, wide, 2 + again))
    return out


def plain_products(products: list[Product], dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """Execute them, laid out in memory as a network's operands are."""
    generator = torch.Generator(device).manual_seed(SEED)
    drawn: dict[tuple[int, int], Tensor] = {}

    def operand(rows: int, columns: int) -> Tensor:
        if (rows, columns) not in drawn:
            drawn[rows, columns] = torch.randn(rows, columns, dtype=dtype, device=device, generator=generator)
        return drawn[rows, columns]

    pairs = []
    for kind, m, k, n, times in products:
        left = operand(k, m).T if kind == "weights" else operand(m, k)
        right = operand(n, k).T if kind == "forward" else operand(k, n)
        pairs += [(left, right)] * times

    def run() -> None:
        for left, right in pairs:
            left @ right

    return run


def _network(width: int, classes: int, dtype: torch.dtype, device: torch.device) -> FlatModule:
    spec = model_spec("mlp", width, classes, hidden=HIDDEN)
    return build(spec).to(dtype=dtype, device=device)


def _where_it_goes(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Time of one call by operator, each without the operators that it calls."""
    spent = by_operator(call, device)
    total = sum(spent.values())
    matrix = sum(spent.get(name, 0.0) for name in _MATRIX)
    top = sorted(spent.items(), key=lambda item: -item[1])[:8]
    return {
        "matrix_products_seconds": matrix,
        "other_seconds": total - matrix,
        "matrix_products_share": matrix / total if total else 0.0,
        "top_operators_seconds": dict(top),
    }


def measure_time(data: Records, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """One product, activations kept or not, against its matrix products."""
    width, classes = data.features.shape[1], data.classes
    network = _network(width, classes, dtype, device)
    features, labels = data.features.to(device, dtype), data.labels.to(device)
    records = len(labels)
    # enough to keep every chunk, whatever the precision
    objective = NetworkObjective(network, features, labels, L2, memory_limit=2**40)
    weights = network.initial()
    generator = torch.Generator(device).manual_seed(SEED)
    vector = torch.randn(network.size, dtype=dtype, device=device, generator=generator)
    kept_map = objective.hessian_at(weights)
    ways: dict[str, tuple[bool, Callable[[], Tensor]]] = {
        "hessian_at": (True, lambda: kept_map(vector)),
        "hessian_product": (False, lambda: objective.hessian_product(weights, vector)),
    }
    widths = [width, *HIDDEN, classes]
    out: dict[str, Any] = {"chunk": objective.chunk}
    answers = []
    for name, (kept, call) in ways.items():
        chunk = records if kept else min(records, objective.chunk)
        chunks = [chunk] * (records // chunk) + ([records % chunk] if records % chunk else [])
        parts = [plain_products(needed_products(widths, part, kept=kept), dtype, device) for part in chunks]
        _, plain_seconds = best(lambda parts=parts: [part() for part in parts], device, repeats=5)
        answer, seconds = best(call, device, repeats=5)
        answers.append(answer)
        products = needed_products(widths, records, kept=kept)
        flops = sum(product.flops for product in products)
        out[name] = {
            "seconds": seconds,
            "plain_seconds": plain_seconds,
            "ratio": seconds / plain_seconds,
            "flops": flops,
            "gigaflops_per_second": flops / seconds / 1e9,
            "plain_gigaflops_per_second": flops / plain_seconds / 1e9,
            "matrix_products": [{**product._asdict(), "flops": product.flops} for product in products],
            "where_it_goes": _where_it_goes(call, device),
        }
    out["relative_difference"] = float((answers[0] - answers[1]).norm() / answers[1].norm())
    return out


def memory_worker(
    work: str, records: int, width: int, classes: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Extra bytes of one piece of work; the same work on a few records has been done before."""
    network = _network(width, classes, dtype, device)
    features = torch.empty(records, width, dtype=dtype, device=device).normal_()
    labels = torch.arange(records, device=device) % classes
    weights = network.initial()
    chunk = min(records, chunk_size(record_bytes(network, weights, features)))
    status = {}

    def step(count: int) -> None:
        point = network.initial().requires_grad_(True)
        optimizer = torch.optim.Adam([point])
        loss = cross_entropy(network(point, features[:count]), labels[:count])
        (loss + L2 / 2 * point.square().sum()).backward()
        optimizer.step()

    def solve(count: int, limit: int) -> None:
        objective = NetworkObjective(network, features[:count], labels[:count], L2, memory_limit=limit)
        product, right = objective.hessian_at(weights), objective.gradient(weights)
        solution = conjugate_gradients(
            lambda v: product(v) + DAMPING * v,
            right,
            tolerance=1e-3 * float(right.norm()),
            max_products=500,
            measure=False,
        )
        status["solver"] = solution.status

    calls: dict[str, tuple[Callable[[int], None], int]] = {
        "training-step": (step, chunk),
        "training-step-all": (step, records),
        "streamed": (partial(solve, limit=0), records),
        "kept": (partial(solve, limit=MEMORY_LIMIT), records),
    }
    call, count = calls[work]
    call(min(count, _WARM_RECORDS))
    return {"bytes": extra_bytes(lambda: call(count), device), "records": count, "chunk": chunk, **status}


def measure_memory(
    records: int, device: torch.device, *, dtype: str = "float32", width: int = WIDTH
) -> dict[str, Any]:
    """Peaks of a solve and of a training step, each in a process of its own, without data and warm-up."""
    parameters = _network(width, CLASSES, torch.float32, torch.device("cpu")).size
    vector = parameters * _DTYPES[dtype].itemsize
    options = ["--records", str(records), "--device", str(device), "--width", str(width), "--dtype", dtype]
    runs = {
        work: fresh_process("benchmarks.hessian_product", ["--worker", work, *options]) for work in _WORKS
    }
    step = runs["training-step"]["bytes"]
    return {
        "dtype": dtype,
        "parameter_vector_bytes": vector,
        "baseline": "data in memory and the same work done once on a few records; subtracted",
        "activations_limit_bytes": {"streamed": 0, "kept": MEMORY_LIMIT},
        **{work.replace("-", "_"): run for work, run in runs.items()},
        "ratio_streamed": runs["streamed"]["bytes"] / max(step, 1),
        "ratio_kept": runs["kept"]["bytes"] / max(step, 1),
        "vectors_above_one_and_a_half_steps": (runs["streamed"]["bytes"] - 1.5 * step) / vector,
    }


def measure(records: int, device: torch.device, *, width: int = WIDTH, memory: bool = True) -> dict[str, Any]:
    """Memory first, while this process is small; then time in both precisions."""
    peaks = measure_memory(records, device, width=width) if memory else None
    say("memory measured" if memory else "memory left out")
    data = synthetic(records, width, CLASSES)
    size = _network(width, CLASSES, torch.float32, torch.device("cpu")).size
    return {
        "network": {"hidden": HIDDEN, "activation": "tanh", "parameters": size},
        "records": records,
        "repeats": 5,
        **{name: measure_time(data, dtype, device) for name, dtype in _DTYPES.items()},
        "peak_memory": peaks,
        "hardware": hardware(device),
    }


def plot(document: dict[str, Any]) -> Figure:
    figure, axes = panels(3 if document["peak_memory"] else 2)
    ratios = {
        f"{way}\n{dtype}": document[dtype][way]["ratio"]
        for way in ("hessian_at", "hessian_product")
        for dtype in _DTYPES
    }
    bars(axes[0], ratios, "time over its own matrix products")
    operators = document["float32"]["hessian_at"]["where_it_goes"]["top_operators_seconds"]
    bars(axes[1], {name: 1e3 * value for name, value in operators.items()}, "ms by operator, kept, float32")
    if document["peak_memory"]:
        peaks = {name: document["peak_memory"][name.replace("-", "_")]["bytes"] / 2**20 for name in _WORKS}
        bars(axes[2], peaks, "peak MiB above the data", log=True)
    return figure


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--width", type=int, default=WIDTH, help="features of a record")
    options.add_argument("--worker", choices=_WORKS, help="measure one peak in this very process")
    options.add_argument("--dtype", choices=tuple(_DTYPES), default="float32", help="of a --worker")
    given = options.parse_args()
    device, records = pick_device(given.device), given.records or RECORDS
    if given.worker:
        dtype = _DTYPES[given.dtype]
        print(json.dumps(memory_worker(given.worker, records, given.width, CLASSES, dtype, device)))
        return
    document = measure(records, device, width=given.width)
    emit("hessian_product", document, plot(document), given.out)


if __name__ == "__main__":
    main()
