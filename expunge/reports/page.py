"""Documents as self-contained HTML pages: no script, no outside asset."""

import base64

import segno
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expunge.reports.document import Code, Document, Line, Picture, Tag
from expunge.reports.picture import SIZE, Laid, lay_out


def render_page(document: Document) -> str:
    """Render a document.

    Args:
        document: What it says.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("expunge.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "line": _line,
        "base64": lambda png: base64.b64encode(png).decode(),
        "svg": _svg,
        "qr": _qr,
        "kind": lambda block: type(block).__name__,
    }
    return environment.get_template("document.html").render(d=document)


def _line(line: Line) -> Markup:
    made = Markup()
    for piece in line:
        if isinstance(piece, Code):
            made += Markup("<code>{}</code>").format(piece.text)
        elif isinstance(piece, Tag):
            made += Markup('<span class="tag {}">{}</span>').format(piece.tone, piece.text)
        else:
            made += Markup("{}").format(piece)
    return made


def _svg(picture: Picture) -> Markup:
    """Both layouts: which of them is seen is the style's."""
    return _drawn(lay_out(picture), picture.alt, "across") + _drawn(
        lay_out(picture, narrow=True), picture.alt, "down"
    )


def _drawn(laid: Laid, alt: str, name: str) -> Markup:
    made = Markup(
        '<svg class="{name}" viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{alt}" font-size="{size:g}" '
        'font-family="DejaVu Sans, Verdana, sans-serif"><defs><marker id="tip-{name}" viewBox="0 0 8 8" refX="8" '
        'refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>'
    ).format(name=name, w=laid.width, h=laid.height, alt=alt, size=SIZE)
    for x1, y1, x2, y2 in laid.arrows:
        made += Markup(
            '<line x1="{:g}" y1="{:g}" x2="{:g}" y2="{:g}" stroke="#57606a" stroke-width="1.5" '
            'marker-end="url(#tip-{})"/>'
        ).format(x1, y1, x2, y2, name)
    for box in laid.boxes:
        made += Markup(
            '<rect x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="6" fill="#f3f7fc" stroke="#0b5cad"/>'
        ).format(box.x, box.y, box.width, box.height)
        for text, bold, y in box.texts:
            made += Markup('<text x="{:g}" y="{:g}"{}>{}</text>').format(
                box.x + 9, y, Markup(' font-weight="bold"') if bold else "", text
            )
    return made + Markup("</svg>")


def _qr(text: str) -> Markup:
    return Markup(segno.make(text, error="m", micro=False).svg_inline(scale=4, border=4, light="#fff"))
