"""`expunge certificate export`: as things stand now, whole files, clear errors."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.main import invoke
from expunge.evidence.statements import CERTIFICATE_PREDICATE, sign_statement
from expunge.state import open_state
from tests.workspaces import make

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-convex"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make(tmp_path_factory.mktemp("export"))


@pytest.fixture
def evidence(shared, monkeypatch):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(shared))
    content = json.loads((GOLDEN / "certificate.json").read_text())
    folder = open_state(shared).workspace.evidence_dir / content["certificate_id"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(GOLDEN, folder)
    return folder


def export(folder, *options):
    return invoke(["certificate", "export", folder.name, *map(str, options)])


def test_page_and_pdf_are_written(evidence, tmp_path, capsys):
    page, pdf = tmp_path / "c.html", tmp_path / "c.pdf"
    assert export(evidence, "--html", page, "--pdf", pdf) == 0
    assert str(pdf) in capsys.readouterr().out
    assert "carries no signature" in page.read_text()
    assert pdf.read_bytes().startswith(b"%PDF")


def test_the_key_is_named_only_where_its_signature_holds_on_this_certificate(
    evidence, tmp_path, shared, capsys
):
    page, content = tmp_path / "c.html", json.loads((evidence / "certificate.json").read_text())
    signer = open_state(shared).signing.signer("evidence")
    content["issued_at"] = datetime.now(UTC).isoformat()  # the key was not valid before it was made
    (evidence / "certificate.json").write_text(json.dumps(content))
    subjects = {"model.json": "0" * 64}
    envelope = evidence / "certificate.dsse.json"
    envelope.write_text(json.dumps(sign_statement(signer, CERTIFICATE_PREDICATE, subjects, content)))
    assert export(evidence, "--html", page) == 0
    assert signer.public_key.keyid in page.read_text()
    page.unlink()
    other = sign_statement(signer, CERTIFICATE_PREDICATE, subjects, content | {"epsilon": 0.5})
    envelope.write_text(json.dumps(other))
    assert export(evidence, "--html", page) == 1
    assert "not the one beside it" in capsys.readouterr().err
    assert not page.exists()


def test_a_malformed_certificate_is_not_rendered(evidence, tmp_path, capsys):
    (evidence / "certificate.json").write_text("{}")
    assert export(evidence, "--html", tmp_path / "c.html") == 1
    assert "not a certificate" in capsys.readouterr().err
    assert not (tmp_path / "c.html").exists()


@pytest.mark.parametrize("target", ["absent/c.pdf", "."])
def test_what_cannot_be_written_is_one_clear_error(evidence, tmp_path, capsys, target):
    assert export(evidence, "--html", tmp_path / "c.html", "--pdf", tmp_path / target) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_export_to_and_no_such_certificate_are_refused(evidence, capsys):
    assert export(evidence) == 2
    assert invoke(["certificate", "export", "c-0", "--html", "x.html"]) == 2
    assert "no such certificate" in capsys.readouterr().err
