"""Plots of attacks, as PNG bytes, each beside the words that say the same; from plain numbers alone."""

from collections.abc import Mapping, Sequence

from expunge.reports.plots import BLUE, GREEN, GREY, ORANGE, RED, _axes, _legend, _png

_COLORS = (BLUE, ORANGE, GREEN, RED, GREY)
_STYLES = ("-", "--", "-.", ":")
_LEAST = 1e-3  # of both rates


def roc_plot(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], least: float = _LEAST) -> bytes:
    """Receiver operating characteristics on logarithmic axes, where low false positive rates can be seen.

    Args:
        curves: False and true positive rates, by name.
        least: Where both axes begin; rates below it are drawn there.

    Returns:
        A PNG image.
    """
    figure, axes = _axes(7, 4.2)
    axes.plot([least, 1], [least, 1], color=GREY, linewidth=1, label="guessing")
    for number, (name, (fpr, tpr)) in enumerate(curves.items()):
        axes.plot(
            [max(rate, least) for rate in fpr],
            [max(rate, least) for rate in tpr],
            color=_COLORS[number % len(_COLORS)],
            linestyle=_STYLES[number // len(_COLORS) % len(_STYLES)],
            linewidth=1.5,
            drawstyle="steps-post",
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.05)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    _legend(axes)
    return _png(figure)


def roc_words(areas: Mapping[str, tuple[float, float, float]]) -> str:
    """What :func:`roc_plot` shows.

    Args:
        areas: Area with both ends of its 95 % interval, by name.

    Returns:
        In words.
    """
    said = [f"{name} {auc:.3f} ({low:.3f} to {high:.3f})" for name, (auc, low, high) in areas.items()]
    return f"Areas under the curves with 95 % intervals, 0.5 for guessing: {'; '.join(said)}."


def difference_plot(points: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> bytes:
    """How well the difference of parent and child picks out the forgotten records, by size of batch.

    Args:
        points: ``(batch size, area, low, high)``, by name.

    Returns:
        A PNG image.
    """
    figure, axes = _axes(7, 3.4)
    axes.axhline(0.5, color=GREY, linewidth=1, label="guessing")
    for number, (name, found) in enumerate(points.items()):
        values = [auc for _, auc, _, _ in found]
        axes.errorbar(
            [batch for batch, *_ in found],
            values,
            yerr=[
                [auc - low for _, auc, low, _ in found],
                [high - auc for _, auc, _, high in found],
            ],
            color=_COLORS[number % len(_COLORS)],
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.2,
            label=name,
        )
    axes.set_xscale("log")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("forgotten records in the batch")
    axes.set_ylabel("AUC")
    _legend(axes)
    return _png(figure)


def difference_words(points: Mapping[str, Sequence[tuple[int, float, float, float]]]) -> str:
    """What :func:`difference_plot` shows.

    Args:
        points: As there.

    Returns:
        In words.
    """
    said = []
    for name, found in points.items():
        values = ", ".join(
            f"{auc:.3f} ({low:.3f} to {high:.3f}) at {batch}" for batch, auc, low, high in found
        )
        said.append(f"{name}: {values}")
    return f"AUC of the difference attack by size of batch, with 95 % intervals: {'; '.join(said)}."
