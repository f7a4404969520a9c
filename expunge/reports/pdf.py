"""Documents as PDF: selectable text in embedded fonts, an outline, numbered pages, and the same bytes always."""

import io
from collections.abc import Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

import segno
from reportlab.graphics.shapes import Drawing, Polygon, Rect, String
from reportlab.graphics.shapes import Line as Stroke
from reportlab.lib.colors import HexColor, white
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    Image,
    KeepTogether,
    ListFlowable,
    ListItem,
    SimpleDocTemplate,
    Spacer,
)
from reportlab.platypus import Paragraph as Words
from reportlab.platypus import Table as Grid

from expunge.reports import fonts
from expunge.reports.document import (
    Block,
    Bullets,
    Code,
    Command,
    Document,
    Facts,
    Line,
    Paragraph,
    Picture,
    Plot,
    Square,
    Table,
    Tag,
)
from expunge.reports.picture import SIZE, WIDTH, lay_out

_TONES: Final = {
    "good": ("#dff2e3", "#115a26"),
    "wait": ("#fff3cd", "#6a4b00"),
    "bad": ("#fbe0dd", "#8c1d18"),
}
_RULE, _MUTED, _INK = HexColor("#d8dce2"), HexColor("#57606a"), HexColor("#1b1f24")
_WIDTH = A4[0] - 40 * mm


def _style(name: str, size: float, **more: Any) -> ParagraphStyle:
    base = {"fontName": fonts.SANS, "fontSize": size, "leading": size * 1.45, "textColor": _INK}
    return ParagraphStyle(name, **(base | more))


_BODY = _style("body", 9, spaceAfter=5)
_CELL = _style("cell", 8)
_HEAD = _style("head", 8, fontName=fonts.BOLD, textColor=_MUTED)
_SMALL = _style("small", 7.5, textColor=_MUTED, spaceAfter=5)
_TITLE = _style("title", 18, fontName=fonts.BOLD, spaceAfter=2)
_SECTION = _style("section", 12, fontName=fonts.BOLD, spaceBefore=12, spaceAfter=5)
_VALUE = _style("value", 10.5, fontName=fonts.BOLD, leading=13)
_COMMAND = _style(
    "command", 8, fontName=fonts.MONO, backColor=HexColor("#f4f5f7"), borderPadding=5, spaceBefore=6,
    spaceAfter=10,
)  # fmt: skip


def render_pdf(document: Document) -> bytes:
    """Render a document.

    Args:
        document: What it says.

    Returns:
        PDF.
    """
    fonts.register()
    out = io.BytesIO()
    name = f"{document.title} {document.name}"
    template = SimpleDocTemplate(
        out, pagesize=A4, leftMargin=20 * mm - 6, rightMargin=20 * mm - 6,  # its frame pads by 6
        topMargin=18 * mm, bottomMargin=20 * mm,
        title=name, author="Expunge", subject=document.verdict or document.title, creator="Expunge", lang="en",
        displayDocTitle=1, invariant=1, initialFontName=fonts.SANS,
    )  # fmt: skip
    story: list[Flowable] = [
        _Heading(document.title, _TITLE, 0),
        Words(_marked(document.about), _style("meta", 8.5, textColor=_MUTED, spaceAfter=8)),
    ]
    if document.verdict:
        story += [_verdict(document), Spacer(1, 8)]
    if document.figures:
        story.append(_figures(document.figures))
    for section in document.sections:
        flow = [_Heading(section.title, _SECTION, 1), *(f for block in section.blocks for f in _flow(block))]
        square = any(isinstance(block, Square) for block in section.blocks)  # not alone on a page
        story += [KeepTogether(flow)] if square else [CondPageBreak(_needed(flow)), *flow]

    def canvas(*given: Any, **named: Any) -> Canvas:
        return _Numbered(name, *given, **named)

    template.build(story, canvasmaker=canvas)
    return out.getvalue()


def _needed(flow: Sequence[Flowable]) -> float:
    """Room for a heading and the start of what is below it; kept with all of it, half a page would stay empty."""
    pictures: list[float] = [
        one.wrap(_WIDTH, A4[1])[1] for one in flow[1:3] if isinstance(one, (Image, Drawing))
    ]
    return 90.0 + sum(pictures)


class _Heading(Words):  # type: ignore[misc]
    """A heading that is in the outline too."""

    def __init__(self, text: str, style: ParagraphStyle, level: int) -> None:
        super().__init__(_marked((text,)), style)
        self._said, self._level = text, level

    def draw(self) -> None:
        """Draw it, and remember where."""
        key = f"{self._level}-{self._said}"
        self.canv.bookmarkHorizontal(key, 0, self.height)
        self.canv.addOutlineEntry(self._said, key, self._level)
        super().draw()


class _Numbered(Canvas):  # type: ignore[misc]
    """Pages that know how many there are: their foot is drawn when all are there."""

    def __init__(self, name: str, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._name, self._kept = name, list[dict[str, Any]]()

    def showPage(self) -> None:
        """Keep the page for later."""
        self._kept.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Number and write all pages."""
        self.showOutline()
        for number, page in enumerate(self._kept, 1):
            self.__dict__.update(page)
            self.setFont(fonts.SANS, 7)
            self.setFillColor(_MUTED)
            count = f"page {number} of {len(self._kept)}"
            room = _WIDTH - stringWidth(count, fonts.SANS, 7) - 12
            self.drawString(20 * mm, 11 * mm, fonts.wrap(fonts.drawable(self._name), room, 7)[0])
            self.drawRightString(A4[0] - 20 * mm, 11 * mm, count)
            Canvas.showPage(self)
        Canvas.save(self)


def _marked(line: Line) -> str:
    made = ""
    for piece in line:
        if isinstance(piece, Code):
            made += f'<font name="{fonts.MONO}" size="7.5">{escape(fonts.drawable(piece.text, fonts.MONO))}</font>'
        elif isinstance(piece, Tag):
            back, ink = _TONES[piece.tone]
            made += f'<font backColor="{back}" color="{ink}">\u00a0{escape(fonts.drawable(piece.text))}\u00a0</font>'
        else:
            made += escape(fonts.drawable(piece))
    return made


def _verdict(document: Document) -> Flowable:
    back, ink = _TONES[document.tone]
    grid = Grid([["", Words(_marked((document.verdict,)), _style("verdict", 11))]], colWidths=[4, _WIDTH - 4])
    grid.setStyle(
        [
            ("BACKGROUND", (0, 0), (0, -1), HexColor(ink)),
            ("BACKGROUND", (1, 0), (1, -1), HexColor(back)),
            ("TOPPADDING", (0, 0), (-1, -1), 7),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 9),
            ("LEFTPADDING", (1, 0), (1, -1), 10),
        ]
    )
    return grid


def _figures(figures: Sequence[tuple[str, str]]) -> Flowable:
    cells = [[Words(_marked((value,)), _VALUE), Words(_marked((label,)), _SMALL)] for value, label in figures]
    rows = [cells[start : start + 3] for start in range(0, len(cells), 3)]
    rows[-1] += [[] for _ in range(3 - len(rows[-1]))]
    grid = Grid(rows, colWidths=[_WIDTH / 3] * 3)
    grid.setStyle([("GRID", (0, 0), (-1, -1), 0.6, _RULE), ("VALIGN", (0, 0), (-1, -1), "TOP")])
    return grid


def _flow(block: Block) -> list[Flowable]:
    match block:
        case Paragraph(line):
            return [Words(_marked(line), _BODY)]
        case Bullets(lines, none):
            items = [ListItem(Words(_marked(line), _BODY)) for line in lines]
            if not items:
                return [Words(_marked((none,)), _BODY)]
            dot = {"start": "•", "bulletFontName": fonts.SANS, "bulletFontSize": 8}
            return [ListFlowable(items, bulletType="bullet", leftIndent=14, bulletDedent=10, **dot)]
        case Facts(_, facts):
            cells = [[Words(_marked((name,)), _HEAD), Words(_marked(line), _CELL)] for name, line in facts]
            return [_grid(cells, (24, 76), heads=0)]
        case Table(_, head, rows, widths, none):
            if not rows:
                return [Words(_marked((none,)), _BODY)]
            cells = [[Words(_marked((cell,)), _HEAD) for cell in head]]
            cells += [[Words(_marked(cell), _CELL) for cell in row] for row in rows]
            return [_grid(cells, widths, heads=1)]
        case Plot(png, alt):
            wide, high = ImageReader(io.BytesIO(png)).getSize()
            image = Image(io.BytesIO(png), _WIDTH, _WIDTH * high / wide)
            return [Spacer(1, 6), image, Words(_marked((alt,)), _SMALL)]
        case Picture():
            return [_drawing(block), Spacer(1, 4), Words(_marked((f"In words: {block.alt}",)), _SMALL)]
        case Square(content, _):
            return [_qr(content)]
        case Command(content):
            return [Words(escape(fonts.drawable(content, fonts.MONO)), _COMMAND)]


def _grid(cells: list[list[Any]], widths: Sequence[float], heads: int) -> Flowable:
    grid = Grid(
        cells, colWidths=[_WIDTH * width / sum(widths) for width in widths], repeatRows=heads, splitInRow=1
    )
    grid.setStyle(
        [
            ("LINEBELOW", (0, 0), (-1, -1), 0.5, _RULE),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 8),
            ("TOPPADDING", (0, 0), (-1, -1), 2.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3.5),
        ]
    )
    grid.spaceAfter = 6
    return grid


def _drawing(picture: Picture) -> Drawing:
    laid = lay_out(picture)
    made, blue = Drawing(WIDTH, laid.height), HexColor("#0b5cad")
    for x1, y1, x2, y2 in laid.arrows:
        made.add(Stroke(x1, laid.height - y1, x2, laid.height - y2, strokeColor=_MUTED, strokeWidth=1.5))
        made.add(_tip(x1, laid.height - y1, x2, laid.height - y2))
    for box in laid.boxes:
        bottom = laid.height - box.y - box.height
        made.add(
            Rect(
                box.x, bottom, box.width, box.height, 6, 6, fillColor=HexColor("#f3f7fc"), strokeColor=blue
            )
        )  # fmt: skip
        for text, bold, y in box.texts:
            font = fonts.BOLD if bold else fonts.SANS
            made.add(
                String(
                    box.x + 9, laid.height - y, text, fontName=font, fontSize=SIZE, fillColor=_INK
                )
            )  # fmt: skip
    return _scaled(made, _WIDTH / WIDTH)


def _tip(x1: float, y1: float, x2: float, y2: float) -> Polygon:
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5 or 1.0
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    back = (x2 - 9 * ux, y2 - 9 * uy)
    points = [x2, y2, back[0] - 4.5 * uy, back[1] + 4.5 * ux, back[0] + 4.5 * uy, back[1] - 4.5 * ux]
    return Polygon(points, fillColor=_MUTED, strokeColor=None)


def _qr(text: str) -> Drawing:
    matrix = segno.make(text, error="m", micro=False).matrix
    size = len(matrix) + 8  # with the quiet zone
    made = Drawing(size, size)
    made.add(Rect(0, 0, size, size, fillColor=white, strokeColor=None))
    for row, line in enumerate(matrix):
        for column, dark in enumerate(line):
            if dark:
                made.add(
                    Rect(column + 4, size - row - 5, 1.02, 1.02, fillColor=_INK, strokeColor=None)
                )  # a hair wider: no gaps  # fmt: skip
    return _scaled(made, 110 / size)


def _scaled(drawing: Drawing, factor: float) -> Drawing:
    drawing.scale(factor, factor)
    drawing.width, drawing.height = drawing.width * factor, drawing.height * factor
    return drawing
