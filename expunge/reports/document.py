"""What a page or a PDF is made of: built once from evidence, then rendered, so that both say the same words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["good", "wait", "bad"]


@dataclass(frozen=True)
class Code:
    """Text that is to be copied letter by letter, such as a digest."""

    text: str


@dataclass(frozen=True)
class Tag:
    """A short word with a colour; the word alone says it too."""

    text: str
    tone: Tone


Line = Sequence[str | Code | Tag]
"""A sentence or a cell: pieces of text, one after the other."""


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    line: Line


@dataclass(frozen=True)
class Bullets:
    """A list; where it is empty, ``none`` says so."""

    lines: Sequence[Line]
    none: str = "None."


@dataclass(frozen=True)
class Facts:
    """Named facts, one a row."""

    about: str
    rows: Sequence[tuple[str, Line]]


@dataclass(frozen=True)
class Table:
    """A table; where it has no row, ``none`` says so.

    Args:
        about: What it shows, for those who cannot see it.
        head: Of the columns.
        rows: Cells.
        widths: Of the columns, relative.
        none: Said in its place.
    """

    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[Line]]
    widths: Sequence[float]
    none: str = "None."


@dataclass(frozen=True)
class Plot:
    """A picture of numbers, and the same in words."""

    png: bytes
    alt: str


@dataclass(frozen=True)
class Box:
    """A thing of a picture, at a place of a grid.

    Args:
        name: By which arrows know it.
        column: From 0.
        row: From 0; halves lie between two.
        narrow: Column and row on a telephone: of two columns, a half is the middle.
        title: What it is.
        lines: Which one.
    """

    name: str
    column: int
    row: float
    narrow: tuple[float, float]
    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """Boxes and arrows, and the same in words."""

    boxes: Sequence[Box]
    arrows: Sequence[tuple[str, str]]
    alt: str


@dataclass(frozen=True)
class Square:
    """A QR code of a text."""

    text: str
    alt: str


@dataclass(frozen=True)
class Command:
    """What to type."""

    text: str


Block = Paragraph | Bullets | Facts | Table | Plot | Picture | Square | Command


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A document for people.

    Args:
        title: Heading of the first level.
        name: Of this one among its kind: an id, a period.
        about: One line under the heading.
        verdict: The most important sentence; empty where there is none.
        tone: Of the verdict.
        figures: ``(value, label)`` to be seen at a glance.
        sections: The rest.
    """

    title: str
    name: str
    about: Line
    verdict: str = ""
    tone: Tone = "good"
    figures: Sequence[tuple[str, str]] = field(default=())
    sections: Sequence[Section] = field(default=())


def text(line: Line) -> str:
    """A line without marks.

    Args:
        line: The line.

    Returns:
        Plain text.
    """
    return "".join(piece if isinstance(piece, str) else piece.text for piece in line)
