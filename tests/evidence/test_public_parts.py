"""What a certificate says of a model's public parts is held against the model's files, and what was signed."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from expunge.evidence.bundle import Trust, Verifier, find_evidence
from expunge.evidence.certificate import Certificate2, parse_certificate
from expunge.evidence.keyring import Keyring
from expunge.evidence.model_files import combined_digest, file_digests, is_part, model_digest
from expunge.evidence.public_parts import INITIAL, assumptions_of, declare
from expunge.evidence.verify import verify_certificate
from expunge.reports.plain_words import verdict
from tests.evidence import forging
from tests.evidence.forging import Operator, golden_certificate

GOLDEN = forging.GOLDEN.parent / "certificate-v2-signed-convex"


@pytest.fixture(autouse=True)
def version_2(monkeypatch):
    """Everything is forged from evidence of version 2."""
    monkeypatch.setattr(forging, "GOLDEN", GOLDEN)


@pytest.fixture
def model(tmp_path):
    """The golden model, as if it were made by code of one's own on a frozen layer."""
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "model", folder)
    content = json.loads((folder / "model.json").read_text())
    content["spec"]["name"] = "net:make"
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "code").mkdir()
    (folder / "code" / "net.py").write_text("def make(): ...\n")
    (folder / "frozen.safetensors").write_bytes(b"tensors")
    return folder


def certificate(model: Path, **changes) -> dict:
    """The golden certificate as one of version 2, of this model."""
    content = copy.deepcopy(golden_certificate())
    parts = declare(model, "a public hub", "2020-01-31")
    new = {
        "public_parts": parts,
        "assumptions": [*content["assumptions"], *assumptions_of(parts)],
    }
    return {**content, **new, **changes}


@pytest.fixture
def operator(tmp_path):
    return Operator(tmp_path / "operator")


def verify(folder: Path, operator: Operator, model: Path | None) -> list[str]:
    ring = Keyring.model_validate(json.loads((operator.place / "keys" / "public-keys.json").read_text()))
    return list(Verifier(Trust(keys=ring)).verify(find_evidence(folder), model=model).findings)


def test_parts_are_stated_with_digest_source_and_date(model):
    parts = {part["name"]: part for part in certificate(model)["public_parts"]}
    assert set(parts) == {"code/net.py", "frozen.safetensors", INITIAL}
    assert parts["frozen.safetensors"]["digest"] == f"sha256:{hashlib.sha256(b'tensors').hexdigest()}"
    lines = certificate(model)["assumptions"]
    assert any(
        line.startswith("The frozen part frozen.safetensors, digest sha256:")
        and line.endswith(", is public: declared by the operator on 2020-01-31, from a public hub.")
        for line in lines
    )


def test_a_model_with_public_parts_verifies(model, operator, tmp_path):
    folder = operator.issue(tmp_path / "evidence", certificate(model), model=model)
    assert verify(folder, operator, folder / "model") == []
    assert verify(folder, operator, None) == []


@pytest.mark.parametrize("name", ["frozen.safetensors", "code/net.py"])
def test_a_tampered_part_is_found(name, model, operator, tmp_path):
    folder = operator.issue(tmp_path / "evidence", certificate(model), model=model)
    (folder / "model" / name).write_bytes(b"x = 1\n")
    found = "; ".join(verify(folder, operator, folder / "model"))
    assert f"model: {name} is not the file that was signed" in found
    assert f"model: {name} is another than the public part of the certificate" in found
    assert "model.sig does not hold" in found
    assert "the model's files are not the ones this certificate names" in found
    (folder / "model" / name).unlink()
    found = "; ".join(verify(folder, operator, folder / "model"))
    assert f"model: {name} is missing" in found
    assert "model.sig does not hold" in found


def test_code_that_nobody_signed_is_found(model, operator, tmp_path):
    folder = operator.issue(tmp_path / "evidence", certificate(model), model=model)
    (folder / "model" / "code" / "torch.py").write_text("")
    found = "; ".join(verify(folder, operator, folder / "model"))
    assert "model: code/torch.py is not the file that was signed" in found
    assert "model: nobody declared that code/torch.py is public" in found
    (folder / "model" / "code" / "rows.npy").write_text("")
    assert "code/rows.npy is not among the files of a model" in "; ".join(
        verify(folder, operator, folder / "model")
    )


UNDECLARED = {
    "code/net.py": "the public part code/net.py is another than the file that was signed",
    "frozen.safetensors": "the public part frozen.safetensors is another than the file that was signed",
    INITIAL: "nobody declared that the model's initial weights are public",
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_an_operator_who_does_not_state_a_part_is_found(name, model, operator, tmp_path):
    content = certificate(model)
    dropped = [part for part in content["public_parts"] if part["name"] == name]
    content["public_parts"] = [part for part in content["public_parts"] if part["name"] != name]
    gone = set(assumptions_of(dropped))
    content["assumptions"] = [line for line in content["assumptions"] if line not in gone]
    folder = operator.issue(tmp_path / "evidence", content, model=model)
    assert UNDECLARED[name] in verify(folder, operator, None)  # the model is not needed for it
    assert f"model: nobody declared that {name} is public" in verify(folder, operator, folder / "model")


def test_own_code_that_is_no_file_of_the_model_is_found(model, operator, tmp_path):
    shutil.rmtree(model / "code")
    (model / "frozen.safetensors").unlink()
    folder = operator.issue(tmp_path / "evidence", certificate(model), model=model)
    assert "model: it is made by code that is not among its files" in verify(
        folder, operator, folder / "model"
    )


def changed(content: dict, **changes) -> list[str]:
    return list(verify_certificate(parse_certificate({**content, **changes})).findings)


def test_parts_and_assumptions_have_to_agree(model):
    content = certificate(model)
    assert changed(content) == []
    silent = "a part of the model is called public, and this is not among the assumptions"
    assert silent in changed(content, assumptions=golden_certificate()["assumptions"])
    unstated = "it is assumed that a part of the model is public, and the part is not stated"
    assert unstated in changed(content, public_parts=content["public_parts"][1:])
    twice = [*content["public_parts"], content["public_parts"][0]]
    assert "a public part is stated twice" in changed(content, public_parts=twice)
    for day, told in (
        ("2999-01-31", "the part code/net.py was declared public after the certificate was issued"),
        ("some day", "the public part code/net.py was declared on no date"),
    ):
        later = [{**part, "declared_on": day} for part in content["public_parts"]]
        lines = [*golden_certificate()["assumptions"], *assumptions_of(later)]
        assert told in changed(content, public_parts=later, assumptions=lines)


def test_an_exact_certificate_may_assume_that_parts_are_public(model):
    """The reference of a retraining starts from the same parts."""
    lines = assumptions_of(certificate(model)["public_parts"])
    outcome = verify_certificate(
        Certificate2.model_validate(certificate(model, guarantee="exact", assumptions=lines))
    )
    assert not any("assum" in line or "part" in line for line in outcome.findings)


def test_the_verdict_names_the_operators_word(model):
    told = "This takes the operator's word that 3 parts of the model, which no batch changes, are public."
    for guarantee in ("convex", "exact"):
        assert told in verdict(certificate(model, guarantee=guarantee))
        assert "word" not in verdict(certificate(model, guarantee=guarantee, public_parts=[]))


def test_a_model_of_two_files_has_the_digest_that_it_had(tmp_path):
    shutil.copytree(GOLDEN / "model", tmp_path / "model")
    assert model_digest(tmp_path / "model") == golden_certificate()["model"]["digest"]
    two = file_digests(tmp_path / "model")
    assert combined_digest({**two, "code/net.py": "00"}) != combined_digest(two)
    assert combined_digest({**two, "code/net.py": "00"}) != combined_digest({**two, "code/nets.py": "00"})


@pytest.mark.parametrize(
    "name",
    ["code/net.py\n", "code/../net.py", "code//net.py", "code/net.pyc", "code", "net.py", "code/a b.py"],
)
def test_names_that_are_no_part(name):
    assert not is_part(name)
