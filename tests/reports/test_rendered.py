"""Every document as a browser and a PDF reader see it: nothing clipped, every sign there, text to select."""

import io
import re

import pytest
from pypdf import PdfReader

from expunge.evidence.canonical import digest
from expunge.reports import fonts
from expunge.reports.content import certificate_document
from expunge.reports.document import Facts, Paragraph, Picture, Plot, Table, text
from expunge.reports.page import render_page
from expunge.reports.pdf import render_pdf
from expunge.reports.plain_words import verdict
from tests.reports.browser import browsing, needs_browser
from tests.reports.documents import KEYID, every, extreme, golden

NAMES = ["convex", "exact", "vacuous", "rolled-back", "extreme", "receipt", "receipt-vacuous", "report", "report-late",
         "report-empty"]  # fmt: skip


@pytest.fixture(scope="module")
def documents():
    found = every()
    assert list(found) == NAMES
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def squeezed(words):
    return re.sub(r"\s", "", words)


def words_of(document):
    """All that a document says: its words must be in each rendering."""
    found = [document.title, document.verdict, text(document.about)]
    found += [word for pair in document.figures for word in pair]
    for section in document.sections:
        found.append(section.title)
        for block in section.blocks:
            match block:
                case Paragraph(line):
                    found.append(text(line))
                case Facts(_, rows):
                    found += [word for name, line in rows for word in (name, text(line))]
                case Table(_, head, rows, _, none):
                    found += [text(cell) for row in rows for cell in row] + (list(head) if rows else [none])
                case Plot(_, alt) | Picture(_, _, alt):
                    found.append(alt)
    return found


@needs_browser
@pytest.mark.parametrize("width", [1000, 400])
@pytest.mark.parametrize("name", NAMES)
def test_pages_are_accessible_and_nothing_is_clipped(browser, documents, tmp_path, name, width):
    page = tmp_path / "page.html"
    page.write_text(render_page(documents[name]), encoding="utf-8")
    browser.open(page, width)
    assert browser.overflows() == []
    assert browser.violations() == []


@needs_browser
def test_the_browser_finds_what_is_clipped_and_what_nobody_can_read(browser, tmp_path):
    page = tmp_path / "page.html"
    made = '<h1>x</h1><div style="width: 9rem; white-space: nowrap; color: #ddd">a line that is too long for it</div>'
    page.write_text(
        f'<html lang="en"><title>t</title><main>{made}<img src="data:,"></main>', encoding="utf-8"
    )
    browser.open(page)
    assert any(one.startswith("DIV") for one in browser.overflows())
    assert {one.split(":")[0] for one in browser.violations()} >= {"color-contrast", "image-alt"}


@pytest.mark.parametrize("name", NAMES)
def test_pdfs_have_text_to_select_titles_and_an_outline(documents, name):
    document = documents[name]
    reader = PdfReader(io.BytesIO(render_pdf(document)))
    read = squeezed("".join(page.extract_text() for page in reader.pages))
    # a word at the end of one page and the foot of it lie together: pages are not joined for sentences
    for said in words_of(document):
        drawn = squeezed(fonts.drawable(said))
        assert drawn[:40] in read, said
    assert reader.metadata.title == f"{document.title} {document.name}"
    assert reader.trailer["/Root"]["/Lang"] == "en"
    flat = [one for part in reader.outline for one in (part if isinstance(part, list) else [part])]
    assert [one.title for one in flat] == [document.title, *(section.title for section in document.sections)]
    pages = len(reader.pages)
    assert f"page{pages}of{pages}" in squeezed(reader.pages[-1].extract_text())


@pytest.mark.parametrize("name", NAMES)
def test_pdfs_embed_their_fonts_which_have_every_sign(documents, name):
    document = documents[name]
    fonts.register()
    for said in words_of(document):
        drawn = fonts.drawable(said)
        assert fonts.drawable(drawn) == drawn
        assert "□" not in drawn
    reader = PdfReader(io.BytesIO(render_pdf(document)))
    used = {
        (str(font["/BaseFont"]), "/FontFile2" in font["/FontDescriptor"])
        for page in reader.pages
        for font in (one.get_object() for one in page["/Resources"]["/Font"].values())
        if "/FontDescriptor" in font
    }
    assert used
    assert all("DejaVu" in name and embedded for name, embedded in used), used


def test_the_signs_of_the_mathematics_are_drawn_and_others_are_named():
    assert fonts.drawable("ε δ σ ≤ ∑ √ → · – “”") == "ε δ σ ≤ ∑ √ → · – “”"
    assert fonts.drawable("数") == "[U+6570]"


@pytest.mark.parametrize("name", ["convex", "exact"])
def test_page_and_pdf_state_the_verdict_the_key_and_the_digest(name):
    content, ledger = golden(name)
    reader = PdfReader(io.BytesIO(render_pdf(certificate_document(content, ledger, signed_by=KEYID))))
    read = squeezed("".join(page.extract_text() for page in reader.pages))
    for said in (verdict(content), KEYID, digest(content), content["model"]["digest"], *content["tickets"]):
        assert squeezed(said) in read
    without = PdfReader(io.BytesIO(render_pdf(certificate_document(content, ledger))))
    read = squeezed("".join(page.extract_text() for page in without.pages))
    assert "nosignature" in read
    assert KEYID not in read


def test_the_same_evidence_gives_the_same_bytes(documents):
    for name in ("extreme", "report"):
        assert render_pdf(documents[name]) == render_pdf(documents[name])
        assert render_page(documents[name]) == render_page(documents[name])
    assert render_pdf(documents["convex"]) != render_pdf(documents["exact"])


def test_an_undone_release_says_so_first_whoever_tells_it():
    content, ledger = golden("convex")
    told = render_page(every()["rolled-back"])
    named = [{"version": 2, "certificate_id": content["certificate_id"], "at": "2026-11-24T00:00:00+00:00"}]
    from_ledger = certificate_page(content, [*ledger, {**ledger[1], "sequence": 2, "certificate_id": "c-2",
                                                       "details": {"rolled_back": named}}])  # fmt: skip
    for page in (told, from_ledger):
        assert 'class="verdict undone">ROLLED BACK' in page
    assert "ROLLED BACK" not in certificate_page(content, ledger)


def test_a_vacuous_one_that_was_undone_says_vacuous_first():
    content, ledger = extreme()
    assert 'class="verdict vacuous">VACUOUS' in certificate_page(content, ledger, rolled_back=True)


def certificate_page(content, ledger, **more):
    return render_page(certificate_document(content, ledger, **more))
