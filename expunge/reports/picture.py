"""Boxes and arrows on a grid: where they lie, for the page's SVG and the PDF's drawing alike."""

import math
from dataclasses import dataclass
from typing import Final

from expunge.reports.document import Picture
from expunge.reports.fonts import BOLD, SANS, drawable, wrap

WIDTH: Final = 722.0
SIZE: Final = 11.0  # of the font
_BOX, _GAP, _PAD, _LEADING = 204.0, 54.0, 9.0, 15.0


@dataclass(frozen=True)
class Placed:
    """A box with its place: top left corner, in points, downwards."""

    x: float
    y: float
    width: float
    height: float
    texts: tuple[tuple[str, bool, float], ...]  # text, bold, baseline


@dataclass(frozen=True)
class Laid:
    """A picture that is laid out.

    Args:
        height: In points; its width is :data:`WIDTH`.
        boxes: With their places.
        arrows: From x, y to x, y.
    """

    height: float
    boxes: tuple[Placed, ...]
    arrows: tuple[tuple[float, float, float, float], ...]


def lay_out(picture: Picture) -> Laid:
    """Give every box room for its text, however long.

    Args:
        picture: Boxes in at most three columns.

    Returns:
        Places.
    """
    inner = _BOX - 2 * _PAD
    texts = {}
    for box in picture.boxes:
        lines = [(line, True) for line in wrap(drawable(box.title, BOLD), inner, SIZE, BOLD)]
        lines += [(line, False) for said in box.lines for line in wrap(drawable(said), inner, SIZE, SANS)]
        texts[box.name] = lines
    heights = {name: len(lines) * _LEADING + 2 * _PAD for name, lines in texts.items()}
    middles, y = dict[float, float](), 1.0
    for row in sorted({box.row for box in picture.boxes if box.row == int(box.row)}):
        tallest = max(heights[box.name] for box in picture.boxes if box.row == row)
        middles[row] = y + tallest / 2
        y += tallest + 30
    placed: dict[str, Placed] = {}
    for box in picture.boxes:
        height = heights[box.name]
        x = box.column * (_BOX + _GAP)
        y = (middles[int(box.row)] + middles[math.ceil(box.row)]) / 2 - height / 2
        written = tuple(
            (line, bold, y + _PAD + _LEADING * (index + 0.75))
            for index, (line, bold) in enumerate(texts[box.name])
        )
        placed[box.name] = Placed(x + 1, y, _BOX, height, written)
    arrows = tuple(_arrow(placed[a], placed[b]) for a, b in picture.arrows)
    return Laid(max(b.y + b.height for b in placed.values()) + 2, tuple(placed.values()), arrows)


def _arrow(a: Placed, b: Placed) -> tuple[float, float, float, float]:
    """From side to side, or from bottom to top where one is below the other."""
    if a.x == b.x:
        return a.x + a.width / 2, a.y + a.height, b.x + b.width / 2, b.y
    return a.x + a.width, a.y + a.height / 2, b.x, b.y + b.height / 2
