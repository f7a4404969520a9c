"""Plots, as PNG bytes."""

import io
from collections.abc import Sequence
from typing import Any


def accumulated_error_plot(entries: Sequence[dict[str, Any]], limit: float) -> bytes:
    """The lineage's accumulated error, entry by entry, against policy's limit.

    Args:
        entries: Ledger entries as plain data, in order.
        limit: Largest accumulated error, in weight units.

    Returns:
        A PNG image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [entry for entry in entries if entry["kind"] not in ("purge", "alias")]
    figure = Figure(figsize=(7, 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = [entry["accumulated_error"] for entry in steps]
    axes.step(
        range(len(values)), values, where="post", color="#0b5cad", linewidth=2, label="accumulated error"
    )
    axes.plot(range(len(values)), values, "o", color="#0b5cad", markersize=5)
    axes.axhline(limit, color="#b3261e", linestyle="--", linewidth=1.5, label=f"limit of policy ({limit:g})")
    axes.set_xticks(range(len(values)), [entry["kind"] for entry in steps], fontsize=8)
    axes.set_ylim(0, max(limit, *values) * 1.15)
    axes.set_ylabel("sum of error bounds\n(weight units)", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="center right", fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
