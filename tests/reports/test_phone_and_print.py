"""Pages on a telephone and on paper: nothing to be scrolled aside, letters to read, no page that is left half empty."""

import io

import pytest
from pypdf import PdfReader

from expunge.reports.compliance import compliance_document
from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.pdf import render_pdf
from tests.reports.browser import browsing, needs_browser
from tests.reports.documents import every, figures, golden, long_ledger, of_decision

PHONE, DESK = 360, 1000
LEAST_LETTERS = 9  # pixels of CSS; browsers' own smallest setting
FOOT = 50  # points: where a PDF of ours has its page number


def of_versions(number):
    """A certificate and a report of a lineage with so many versions."""
    content, ledger = golden("convex")
    content["model"] = {**content["model"], "version": number, "parent_version": number - 1}
    content["tickets"] = [
        f"p1-{number:032x}" for number in range(50)
    ]  # in one row, which is half a page high
    told, times = figures(3)
    told["certificates"]["exceptions"] = told["certificates"]["exceptions"][:5]
    told["versions"] = [
        {"version": n + 1, "epsilon": 0.05, "sigma": 0.01, "accuracy": 0.9} for n in range(number)
    ]
    entries = long_ledger(ledger, number)
    return certificate_document(content, entries), compliance_document(told, times, entries)


@pytest.fixture(scope="module")
def documents():
    three, sixty = of_versions(3), of_versions(60)
    return {
        **every(),
        "decision": of_decision(),
        "certificate-3": three[0],
        "certificate-60": sixty[0],
        "report-3": three[1],
        "report-60": sixty[1],
    }


NAMES = [
    *("convex", "exact", "vacuous", "rolled-back", "extreme", "receipt", "receipt-vacuous", "report", "report-late"),
    *("report-empty", "decision", "certificate-3", "certificate-60", "report-3", "report-60"),
]  # fmt: skip

PRINTED = ["convex", "exact", "receipt", "decision", "report", "report-60", "certificate-60"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def shown(browser, folder, html, width):
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    browser.open(page, width)
    return browser


@needs_browser
@pytest.mark.parametrize("name", NAMES)
def test_a_telephone_need_not_scroll_aside(browser, documents, tmp_path, name):
    assert list(documents) == NAMES
    opened = shown(browser, tmp_path, render_page(documents[name]), PHONE)
    wide, window = opened.scroll_width()
    assert window == PHONE
    assert wide <= window
    assert opened.overflows() == []


@needs_browser
def test_a_page_that_is_too_wide_is_found(browser, documents, tmp_path):
    html = render_page(documents["exact"]).replace("</main>", '<div style="width: 500px">x</div></main>')
    wide, window = shown(browser, tmp_path, html, PHONE).scroll_width()
    assert wide > window


@needs_browser
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["extreme", "certificate-3", "certificate-60"])
def test_the_picture_of_the_lineage_can_be_read(browser, documents, tmp_path, name, width):
    opened = shown(browser, tmp_path, render_page(documents[name]), width)
    assert opened.letters() >= LEAST_LETTERS
    assert opened.overflows() == []  # no text outside of its box, no box outside of the picture


def lowest(pdf):
    """Of each page, how far down from its top its last line of text is, as a share of its height.

    What flows leaves room at the end of a page alone, so the last line tells how full it is; a caption is below its
    picture, which counts so.
    """
    found = []
    for page in PdfReader(io.BytesIO(pdf)).pages:
        heights, high = list[float](), float(page.mediabox.height)

        def seen(text, cm, tm, font, size, heights=heights):
            y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
            if text.strip() and y > FOOT:
                heights.append(y)

        page.extract_text(visitor_text=seen)
        found.append(1 - min(heights) / high if heights else 0.0)
    return found


@needs_browser
@pytest.mark.parametrize("name", PRINTED)
def test_no_printed_page_is_half_empty(browser, documents, tmp_path, name):
    pages = lowest(shown(browser, tmp_path, render_page(documents[name]), DESK).printed())
    assert min(pages[:-1], default=1) > 0.5, pages


@needs_browser
def test_printed_pages_that_are_half_empty_are_found(browser, documents, tmp_path):
    html = render_page(documents["report"]).replace(
        "</style>", "@media print { h2 { break-before: page } }</style>"
    )
    assert min(lowest(shown(browser, tmp_path, html, DESK).printed())[:-1]) < 0.5


@pytest.mark.parametrize("name", PRINTED)
def test_no_page_of_our_own_pdf_is_half_empty(documents, name):
    pages = lowest(render_pdf(documents[name]))
    assert min(pages[:-1], default=1) > 0.5, pages
