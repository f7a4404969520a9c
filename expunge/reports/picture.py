"""Boxes and arrows on a grid: where they lie, for the page's SVG and the PDF's drawing alike.

A picture is laid out twice: across for paper and screens, downwards for telephones, on which the first would be too
small to read.
"""

import math
from dataclasses import dataclass
from typing import Final

from expunge.reports.document import Picture
from expunge.reports.fonts import BOLD, SANS, drawable, wrap

WIDTH: Final = 722.0
NARROW: Final = 320.0
SIZE: Final = 11.0  # of the font
_BOX, _GAP, _PAD, _LEADING = 204.0, 54.0, 9.0, 15.0
_NARROW_BOX, _NARROW_GAP = 146.0, 26.0


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
        width: In points.
        height: In points.
        boxes: With their places.
        arrows: From x, y to x, y.
    """

    width: float
    height: float
    boxes: tuple[Placed, ...]
    arrows: tuple[tuple[float, float, float, float], ...]


def lay_out(picture: Picture, *, narrow: bool = False) -> Laid:
    """Give every box room for its text, however long.

    Args:
        picture: Boxes in at most three columns, or in two where it is narrow.
        narrow: Whether for a telephone: at the places that boxes have for it.

    Returns:
        Places.
    """
    wide, gap = (_NARROW_BOX, _NARROW_GAP) if narrow else (_BOX, _GAP)
    inner = wide - 2 * _PAD
    places = {box.name: box.narrow if narrow else (box.column, box.row) for box in picture.boxes}
    texts = {}
    for box in picture.boxes:
        lines = [(line, True) for line in wrap(drawable(box.title, BOLD), inner, SIZE, BOLD)]
        lines += [(line, False) for said in box.lines for line in wrap(drawable(said), inner, SIZE, SANS)]
        texts[box.name] = lines
    heights = {name: len(lines) * _LEADING + 2 * _PAD for name, lines in texts.items()}
    middles, y = dict[float, float](), 1.0
    for row in sorted({row for _, row in places.values() if row == int(row)}):
        tallest = max(heights[name] for name, (_, at) in places.items() if at == row)
        middles[row] = y + tallest / 2
        y += tallest + 30
    placed: dict[str, Placed] = {}
    for box in picture.boxes:
        height, (column, row) = heights[box.name], places[box.name]
        x = column * (wide + gap)
        y = (middles[int(row)] + middles[math.ceil(row)]) / 2 - height / 2
        written = tuple(
            (line, bold, y + _PAD + _LEADING * (index + 0.75))
            for index, (line, bold) in enumerate(texts[box.name])
        )
        placed[box.name] = Placed(x + 1, y, wide, height, written)
    arrows = tuple(_arrow(placed[a], placed[b], narrow) for a, b in picture.arrows)
    width = NARROW if narrow else WIDTH
    return Laid(width, max(b.y + b.height for b in placed.values()) + 2, tuple(placed.values()), arrows)


def _arrow(a: Placed, b: Placed, down: bool) -> tuple[float, float, float, float]:
    """From side to side, or from bottom to top where one is below the other or the picture goes downwards."""
    if down or a.x == b.x:
        return a.x + a.width / 2, a.y + a.height, b.x + b.width / 2, b.y
    return a.x + a.width, a.y + a.height / 2, b.x, b.y + b.height / 2
