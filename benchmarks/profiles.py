"""Where the time of a call goes: by operator of torch, and by named part of the program."""

import cProfile
import pstats
from collections.abc import Callable, Mapping

import torch

_GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "conv", "mkldnn", "cholesky"),
    "activations": ("tanh", "relu", "gelu", "softmax", "threshold", "sigmoid", "nll_loss", "exp", "log"),
    "copies": ("copy", "cat", "fill", "zero", "clone", "index", "gather", "scatter", "empty", "select", "slice"),
    "additions, products, sums": ("add", "mul", "sub", "sum", "div", "neg", "norm", "mean"),
}  # fmt: skip


def by_operator(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one call by operator, each without the operators that it calls."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        call()
    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = {event.key: getattr(event, clock) * 1e-6 for event in profile.key_averages()}
    if device.type == "cuda":  # kernels appear beside the operators that launched them
        spent = {name: seconds for name, seconds in spent.items() if name.startswith("aten::")}
    return spent


def group(spent: Mapping[str, float]) -> dict[str, float]:
    """Shares of the time by kind of operator, the largest first.

    Args:
        spent: Seconds by operator.
    """
    total = sum(spent.values())
    out = dict.fromkeys([*_GROUPS, "other"], 0.0)
    for name, seconds in spent.items():
        bare = name.removeprefix("aten::").strip("_")
        kind = next((kind for kind, starts in _GROUPS.items() if bare.startswith(starts)), "other")
        out[kind] += seconds / total if total else 0.0
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def by_part(call: Callable[[], object], whole: str, parts: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Seconds spent in functions called from others, everything below them included.

    On a GPU a part also holds the waiting for what was queued before it.

    Args:
        call: What to run.
        whole: Function whose time is the total; what no part holds of it is "the rest".
        parts: ``"callee" -> (caller, part)``, by the names of the functions.

    Returns:
        Seconds by part, the largest first.
    """
    profile = cProfile.Profile()
    profile.runcall(call)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total, out = 0.0, dict[str, float]()
    for (_, _, name), (_, _, _, cumulative, callers) in stats.items():
        if name == whole:
            total = max(total, cumulative)
        if name in parts:
            caller, part = parts[name]
            seconds = sum(spent[3] for (_, _, by), spent in callers.items() if by == caller)
            out[part] = out.get(part, 0.0) + seconds
    out["the rest"] = max(0.0, total - sum(out.values()))
    return dict(sorted(out.items(), key=lambda item: -item[1]))
