"""Plots, as PNG bytes, each beside the words that say the same; colours are Okabe and Ito's, told apart by all eyes."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from expunge.reports.plain_words import bound, counted, plural

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#57606a"
_KINDS: Final = {  # of ledger entries that change the account: colour, marker, words
    "opening": (GREEN, "s", "first training"),
    "release": (BLUE, "o", "release"),
    "retraining": (ORANGE, "D", "exact retraining"),
}
_FEW = 12  # points that have room for a mark of their own


def accumulated_error_plot(entries: Sequence[Mapping[str, Any]], limit: float) -> bytes:
    """The lineage's accumulated error, entry by entry, against policy's limit.

    Args:
        entries: Ledger entries as plain data, in order.
        limit: Largest accumulated error, in weight units.

    Returns:
        A PNG image.
    """
    steps = [entry for entry in entries if entry["kind"] in _KINDS]
    figure, axes = _axes(7, 3.2)
    at, values = range(len(steps)), [entry["accumulated_error"] for entry in steps]
    axes.step(at, values, where="post", color=GREY, linewidth=1.5, zorder=1)
    size = 36 if len(steps) <= 40 else 9
    for kind, (color, marker, words) in _KINDS.items():
        chosen = [i for i in at if steps[i]["kind"] == kind]
        if chosen:
            axes.scatter(
                chosen, [values[i] for i in chosen], s=size, c=color, marker=marker, label=words, zorder=2
            )
    axes.axhline(limit, color=RED, linestyle="--", linewidth=1.5, label=f"limit of policy ({limit:g})")
    axes.set_ylim(0, max(limit, *values, 1e-300) * 1.1)
    _whole(axes)
    axes.set_xlabel("trainings and releases, in the ledger's order")
    axes.set_ylabel("sum of error bounds\n(weight units)")
    _legend(axes)
    return _png(figure)


def accumulated_error_words(entries: Sequence[Mapping[str, Any]], limit: float) -> str:
    """What :func:`accumulated_error_plot` shows.

    Args:
        entries: Ledger entries as plain data, in order.
        limit: Largest accumulated error, in weight units.

    Returns:
        In words.
    """
    steps = [entry for entry in entries if entry["kind"] in _KINDS]
    each = Counter(entry["kind"] for entry in steps)
    kinds = ", ".join(f"{words}: {each[kind]}" for kind, (*_, words) in _KINDS.items() if each[kind])
    values = [entry["accumulated_error"] for entry in steps] or [0.0]
    return (
        f"Accumulated error of the lineage against the limit of policy: {counted(len(steps), 'step')} ({kinds}); "
        f"it is {bound(values[-1])} at the last, at most {bound(max(values))}, and the limit is {limit:g}."
    )


def utility_plot(points: Sequence[Mapping[str, Any]]) -> bytes:
    """Epsilon against sigma, and test accuracy by version.

    Args:
        points: ``{version, epsilon, sigma, accuracy}`` of certified versions, in order; sigma 0 of an exact training,
            accuracy None where none is known.

    Returns:
        A PNG image.
    """
    figure, (left, right) = _axes(7, 3.2, columns=2)
    places: dict[tuple[float, float], list[int]] = {}
    for point in points:
        if point["sigma"] > 0:
            places.setdefault((point["sigma"], point["epsilon"]), []).append(point["version"])
    for number, ((sigma, epsilon), versions) in enumerate(places.items()):
        left.scatter([sigma], [epsilon], s=40, c=BLUE, zorder=2)
        if len(places) <= _FEW:
            left.annotate(
                _spans(versions), (sigma, epsilon), (0, 7 + 9 * (number % 2)), textcoords="offset points",
                ha="center", fontsize=7, annotation_clip=False,
            )  # fmt: skip
    if places:
        left.set_xscale("log")
        left.set_yscale("log" if all(epsilon > 0 for _, epsilon in places) else "linear")
        left.margins(0.3, 0.3)
    else:
        left.text(0.5, 0.5, "no noised release", ha="center", va="center", transform=left.transAxes)
        left.set_xticks([])
        left.set_yticks([])
    left.set_xlabel("σ (noise a parameter)")
    left.set_ylabel("ε of the certificate")
    for exact, color, marker, words in (
        (False, BLUE, "o", "noised"),
        (True, ORANGE, "D", "exact (σ = 0, ε = 0)"),
    ):
        chosen = [p for p in points if p["accuracy"] is not None and (p["sigma"] == 0) == exact]
        if chosen:
            size = 36 if len(points) <= 40 else 9
            right.scatter(
                [p["version"] for p in chosen],
                [p["accuracy"] for p in chosen],
                s=size, c=color, marker=marker, label=words,
            )  # fmt: skip
    right.margins(0.1, 0.25)
    right.set_ylim(top=min(right.get_ylim()[1], 1.02))
    _whole(right)
    right.set_xlabel("model version")
    right.set_ylabel("test accuracy")
    if right.collections:
        _legend(right)
    return _png(figure)


def utility_words(points: Sequence[Mapping[str, Any]]) -> str:
    """What :func:`utility_plot` shows.

    Args:
        points: As there.

    Returns:
        In words.
    """
    noised = [p for p in points if p["sigma"] > 0]
    known = [p["accuracy"] for p in points if p["accuracy"] is not None]
    said = [f"{counted(len(points), 'certified version')}, {len(points) - len(noised)} by exact training"]
    if noised:
        sigmas, epsilons = [p["sigma"] for p in noised], [p["epsilon"] for p in noised]
        said.append(f"σ from {min(sigmas):g} to {max(sigmas):g}")
        said.append(f"ε from {bound(min(epsilons))} to {bound(max(epsilons))}")
    if known:
        said.append(f"test accuracy from {min(known):.4f} to {max(known):.4f}, {known[-1]:.4f} at the last")
    return f"ε against σ, and utility: {'; '.join(said)}."


def ticket_times_plot(times: Sequence[tuple[datetime, float, float]]) -> bytes:
    """How long each closed ticket took, against what it was allowed.

    Args:
        times: When it was received, days until it was closed, days until it was due.

    Returns:
        A PNG image.
    """
    figure, axes = _axes(7, 3.2)
    few = len(times) <= 200
    axes.scatter(
        [t[0] for t in times], [t[2] for t in times], s=60 if few else 6, c=GREY, marker="_", label="due",
        zorder=1,
    )  # fmt: skip
    for late, color, marker, words in (
        (False, BLUE, "o", "closed in time"),
        (True, RED, "X", "closed late"),
    ):
        chosen = [t for t in times if (t[1] > t[2]) == late]
        if chosen:
            axes.scatter(
                [t[0] for t in chosen], [t[1] for t in chosen], s=22 if few else 5, c=color, marker=marker,
                label=words, zorder=2,
            )  # fmt: skip
    axes.set_ylim(0, max([1.0, *(max(t[1], t[2]) for t in times)]) * 1.1)
    if times:
        from matplotlib import dates as matplotlib_dates

        dates: Any = matplotlib_dates
        first, last = min(t[0] for t in times), max(t[0] for t in times)
        if (last - first).days < 2:  # too short for an axis of dates
            axes.set_xticks([first], [f"{first:%Y-%m-%d}"])
        else:
            locator = dates.AutoDateLocator(maxticks=8)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        _legend(axes)
    else:
        axes.text(0.5, 0.5, "no ticket was closed", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
    axes.set_xlabel("received")
    axes.set_ylabel("days until closed")
    return _png(figure)


def ticket_times_words(times: Sequence[tuple[datetime, float, float]]) -> str:
    """What :func:`ticket_times_plot` shows.

    Args:
        times: As there.

    Returns:
        In words.
    """
    if not times:
        return "Time per ticket: no ticket was closed."
    late = sum(took > allowed for _, took, allowed in times)
    took, allowed = [t[1] for t in times], [t[2] for t in times]
    return (
        f"Time per ticket: {counted(len(times), 'closed ticket')} took {_days(took, '.3g')}, with "
        f"{_days(allowed, '.0f')} allowed; {late:,} {plural(late, 'was', 'were')} late."
    )


def _days(values: Sequence[float], form: str) -> str:
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return f"{low} to {high} days" if low != high else f"{low} {'day' if low == '1' else 'days'}"


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, columns)
    for one in [axes] if columns == 1 else axes:
        one.grid(axis="y", alpha=0.3)
        one.tick_params(which="both", labelsize=8)
        one.xaxis.get_offset_text().set_size(8)
        one.xaxis.label.set_size(9)
        one.yaxis.label.set_size(9)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes


def _whole(axes: Any) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(axes: Any) -> None:
    """Above the axes, where no point is."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=8, frameon=False, borderaxespad=0.2
    )


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _spans(versions: Sequence[int]) -> str:
    if len(versions) <= 3:
        return ", ".join(f"v{version}" for version in versions)
    return f"{len(versions)} from v{versions[0]} to v{versions[-1]}"
