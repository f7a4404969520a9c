"""The fonts of PDFs and pictures: DejaVu, which come with matplotlib, have Greek and mathematical signs."""

from functools import cache
from pathlib import Path
from typing import Final

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

SANS: Final = "DejaVuSans"
BOLD: Final = "DejaVuSans-Bold"
MONO: Final = "DejaVuSansMono"
_FILES = (SANS, BOLD, MONO)


@cache
def register() -> None:
    """Make the fonts known to reportlab, which embeds what a document uses of them."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in _FILES:
        pdfmetrics.registerFont(TTFont(name, str(folder / f"{name}.ttf")))
    pdfmetrics.registerFontFamily(SANS, normal=SANS, bold=BOLD, italic=SANS, boldItalic=BOLD)


def drawable(text: str, font: str = SANS) -> str:
    """A text with its code points in the place of characters that a font lacks: nothing is left out silently.

    Args:
        text: Any text.
        font: One of those above.

    Returns:
        Text that the font can draw.
    """
    register()
    glyphs = pdfmetrics.getFont(font).face.charToGlyph
    return "".join(c if ord(c) in glyphs or c in "\n\t" else f"[U+{ord(c):04X}]" for c in text)


def wrap(text: str, width: float, size: float, font: str = SANS) -> list[str]:
    """Break a text into lines, inside of words too where one is too long.

    Args:
        text: One paragraph.
        width: Of the lines, in points.
        size: Of the font, in points.
        font: One of those above.

    Returns:
        At least one line.
    """
    register()
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pdfmetrics.stringWidth(longer, font, size) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if pdfmetrics.stringWidth(lines[-1] + character, font, size) > width:
                lines.append("")
            lines[-1] += character
    return lines
