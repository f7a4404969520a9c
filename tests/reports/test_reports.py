"""The page and its words: never more than the certificate says, and nothing from outside."""

import copy
import html
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from scipy.stats import norm

from expunge.evidence.certificate import Status
from expunge.privacy.gaussian import gaussian_m
from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.plain_words import STATUS_WORDS, recognition, verdict
from expunge.reports.plots import accumulated_error_plot

GOLDEN = Path(__file__).parents[1] / "golden"


def render_certificate(*of):
    return render_page(certificate_document(*of))


def golden(name):
    folder = GOLDEN / f"certificate-v1-{name}"
    return json.loads((folder / "certificate.json").read_text()), json.loads(
        (folder / "ledger.json").read_text()
    )


def vacuous():
    content, ledger = golden("convex")
    content = copy.deepcopy(content) | {"vacuous": True, "epsilon": 8.0e6, "guarantee": "conditional"}
    return content, ledger


@pytest.mark.parametrize("name", ["convex", "exact"])
def test_page_is_self_contained(name):
    page = render_certificate(*golden(name))
    assert "<script" not in page
    assert "<link" not in page
    sources = re.findall(r'src="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.findall(r"https?://", page)


@pytest.mark.parametrize("name", ["convex", "exact"])
def test_page_says_what_it_does_not_prove(name):
    content, ledger = golden(name)
    page = render_certificate(content, ledger)
    assert page.index("What this does not prove") > page.index('class="verdict')
    for line in content["scope"]:
        assert line in page
    for item in content["coverage"]:
        assert item["artefact"] in page


def test_page_says_in_words_what_each_status_of_the_coverage_list_means():
    content, ledger = golden("convex")
    page = render_certificate(content, ledger)
    stated = {item["status"] for item in content["coverage"]}
    assert {"purged", "purge pending", "not covered"} <= stated
    for status, words in STATUS_WORDS.items():
        assert (html.escape(words) in page) == (status in stated), status
    assert set(STATUS_WORDS) == set(get_args(Status))


def test_a_vacuous_certificate_says_so_first():
    content, ledger = vacuous()
    assert verdict(content).startswith("VACUOUS")
    assert 'class="verdict vacuous"' in render_certificate(content, ledger)


def test_an_exact_certificate_speaks_of_retraining():
    content, _ = golden("exact")
    assert "retrained exactly" in verdict(content)
    assert "false alarm" not in verdict(content)


def test_a_conditional_certificate_is_never_called_proved():
    content, ledger = vacuous()
    assert "Nobody has proved them" in render_certificate(content, ledger)


def test_everything_is_escaped():
    content, ledger = golden("convex")
    content["reference"] = "<b>bold</b> & co"
    page = render_certificate(content, ledger)
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold" in page


def test_plot_follows_the_ledger():
    _, ledger = golden("convex")
    one = accumulated_error_plot(ledger, 0.01)
    assert one.startswith(b"\x89PNG")
    assert accumulated_error_plot(ledger, 0.05) != one
    grown = [*ledger, {**ledger[-1], "accumulated_error": 0.009}]
    assert accumulated_error_plot(grown, 0.01) != one


def test_recognition_is_never_below_what_epsilon_and_delta_allow():
    assert recognition(0, 0) == "with probability at most 1 p + 0"
    assert recognition(0.05, 1e-6) == "with probability at most 1.05128 p + 1e-06"  # e^0.05 = 1.05127
    assert "no protection" in recognition(8e6, 1e-6)


BEFORE = "With the two exchanged the same bound holds of what was drawn, before the gates."
# Of what is released, and for every set: false at the set of models that the gates refuse.
OLD = re.compile(
    r"both ways|(and the same|it holds) with the (two|sides) exchanged|fires on the released (one|model)",
    re.I,
)


def test_it_is_said_of_what_the_bound_holds():
    """Released and recognised is bounded; exchanged, what was drawn. Version 2 says what the gates cost."""
    content, ledger = golden("convex")
    later = content | {"attack_gates": {"false_alarm": 1e-3, "exchanged_delta": 1.001e-3}}
    for certificate in (content, later):
        for text in (verdict(certificate), html.unescape(render_certificate(certificate, ledger))):
            assert "drawn, passes the gates and is recognised is no more probable" in text
            assert BEFORE in text
            assert not OLD.search(text)
    page = render_certificate(later, ledger)
    assert "0.001001 instead of" in page
    assert "which nobody proves" in page
    assert "which nobody proves" not in render_certificate(content, ledger)
    none = content | {"attack_gates": {"false_alarm": 0.0, "exchanged_delta": content["delta"]}}
    assert "No attack on these people was a gate." in render_certificate(none, ledger)


def test_no_page_says_it_of_every_set_of_released_models():
    root = Path(__file__).parents[2]
    texts = [
        root / "README.md",
        *root.glob("docs/*.md"),
        *root.glob("expunge/**/*.py"),
        *root.glob("cli/*.py"),
    ]
    texts += [*root.glob("tasks/**/*.py"), *root.glob("expunge/reports/templates/*"), root / "policy.yaml"]
    said = {path.name: OLD.findall(" ".join(path.read_text(encoding="utf-8").split())) for path in texts}
    assert {name: found for name, found in said.items() if found} == {}
    for name in ("README.md", "docs/what-a-certificate-proves.md"):
        assert "before its gates" in " ".join((root / name).read_text(encoding="utf-8").split()), name


@pytest.mark.parametrize("kind", ["convex", "exact"])
def test_no_promise_about_odds(kind):
    """Trap: P[loss > epsilon] is 274 delta at the default policy, so no sentence may bound the odds."""
    content, ledger = golden(kind)
    m = gaussian_m(0.05, 1e-6)
    assert norm.sf(0.05 / m - m / 2) > 200 * 1e-6
    for text in (verdict(content), render_certificate(content, ledger)):
        assert "odds" not in text
        assert "except with" not in text
