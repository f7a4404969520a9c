"""Every tampering shows, and the finding names the fault. Tamperings are generated from the evidence, not picked."""

import base64
import copy
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from expunge.evidence.bundle import ENVELOPE_FILE, Trust, Verifier, find_evidence
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import KEYRING_FILE, Keyring, load_keyring
from expunge.evidence.ledger_file import parse_ledger
from expunge.evidence.model_check import MODEL_SIGNATURE_FILE
from expunge.evidence.witness import read_witness
from tests.evidence.forging import (
    Operator,
    chained,
    golden_certificate,
    golden_figures,
    write,
)


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def issued(operator, tmp_path_factory):
    return operator.issue(tmp_path_factory.mktemp("issued"))


@pytest.fixture
def folder(issued, tmp_path):
    return shutil.copytree(issued, tmp_path / "evidence")


def trust(operator, **more):
    return Trust(operator.keys.keyring(), **more)


def verify(folder, given, model=False):
    return Verifier(given).verify(find_evidence(folder), model=folder / "model" if model else None)


def leaves(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of everything that holds no more than one value."""
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    found = False
    for name, value in inner:
        found = True
        yield from leaves(value, (*path, name))
    if not found:
        yield path


def at(content: Any, path: tuple) -> Any:
    for name in path:
        content = content[name]
    return content


def changed(content: Any, path: tuple, value: Any = None) -> Any:
    """A copy with another value of the same type at a path."""
    content = copy.deepcopy(content)
    where, old = at(content, path[:-1]), at(content, path)
    if value is None:
        value = (
            not old
            if isinstance(old, bool)
            else old + 1
            if isinstance(old, int)
            else old * 1.5 + 0.25
            if isinstance(old, float)
            else f"{old}x"
            if isinstance(old, str)
            else "x"
            if old is None
            else ["x"]
            if isinstance(old, list)
            else {"x": 1}
        )
    where[path[-1]] = value
    return content


def dotted(path: tuple) -> str:
    return ".".join(map(str, path))


def test_what_nobody_touched_verifies_with_everything_at_hand(operator, issued):
    outcome = verify(issued, trust(operator, annex_key=operator.annex_key), model=True)
    assert outcome.consistent, outcome.findings
    assert outcome.missing == (
        "ledger: witness: none was given; whether this is an old copy, or signed anew, was not checked",
        "annex: no attack is recorded: the release is of an earlier version",
    )


FIELDS = list(leaves(golden_certificate()))


def test_every_field_of_the_bare_certificate(operator, folder):
    content = json.loads((folder / "certificate.json").read_text())
    assert len(FIELDS) > 100
    for path in FIELDS:
        write(folder / "certificate.json", changed(content, path))
        findings = verify(folder, trust(operator)).findings
        assert any("differs from what was signed" in f and dotted(path) in f for f in findings), (
            path,
            findings,
        )


def test_every_field_of_the_signed_certificate(operator, folder):
    envelope = json.loads((folder / ENVELOPE_FILE).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    (folder / "certificate.json").unlink()  # what the envelope says is all there is
    for path in leaves(statement):
        payload = base64.b64encode(canonical_bytes(changed(statement, path))).decode()
        write(folder / ENVELOPE_FILE, {**envelope, "payload": payload})
        outcome = verify(folder, trust(operator))
        assert any(f.startswith("signature: ") for f in outcome.findings), (path, outcome)
        assert not any(line.startswith("signature by key") for line in outcome.checked)


def test_fields_added_to_or_taken_from_every_object_of_the_bare_certificate(operator, folder):
    content = json.loads((folder / "certificate.json").read_text())
    objects = {path[:-1] for path in FIELDS if isinstance(path[-1], str)}
    for path in objects:
        for name in [*at(content, path), "invented"]:
            spoiled = copy.deepcopy(content)
            if at(spoiled, path).pop(name, None) is None:
                at(spoiled, path)[name] = 1
            if spoiled == content:
                continue
            write(folder / "certificate.json", spoiled)
            findings = verify(folder, trust(operator)).findings
            assert any(name in finding for finding in findings), (path, name, findings)


def test_every_part_of_the_envelope(operator, folder):
    envelope = json.loads((folder / ENVELOPE_FILE).read_text())
    for path in leaves(envelope):
        write(folder / ENVELOPE_FILE, changed(envelope, path))
        assert any(f.startswith("signature: ") for f in verify(folder, trust(operator)).findings), path
    for keep in (0, 10, len(json.dumps(envelope)) // 2):
        (folder / ENVELOPE_FILE).write_text(json.dumps(envelope)[:keep])
        assert any("is not JSON" in f for f in verify(folder, trust(operator)).findings)
    (folder / ENVELOPE_FILE).unlink()
    assert any("nobody signed this" in f for f in verify(folder, trust(operator)).findings)
    assert "signature (no key given: --key)" in verify(folder, Trust()).missing


def test_every_field_of_every_ledger_entry(operator, folder):
    content = json.loads((folder / "ledger.json").read_text())
    entries = content["entries"]
    paths = [(index, *path) for index, entry in enumerate(entries) for path in leaves(entry)]
    assert len(paths) > 200
    for path in paths:
        write(folder / "ledger.json", {**content, "entries": changed(entries, path)})
        findings = verify(folder, trust(operator)).findings
        told = (f"entry {path[0]}", f"entry {path[0] + 1}", f"entries.{path[0]}.", "malformed")
        assert any(f.startswith("ledger: ") and any(t in f for t in told) for f in findings), (path, findings)


def test_entries_taken_away_swapped_and_repeated_everywhere(operator, folder):
    content = json.loads((folder / "ledger.json").read_text())
    entries = content["entries"]
    for index in range(len(entries)):
        without = entries[:index] + entries[index + 1 :]
        repeated = [*entries[: index + 1], *entries[index:]]
        swapped = [*entries[:index], *entries[index : index + 2][::-1], *entries[index + 2 :]]
        for spoiled in (without, repeated, swapped):
            if spoiled == entries:
                continue
            write(folder / "ledger.json", {**content, "entries": spoiled})
            findings = verify(folder, trust(operator)).findings
            assert any(f.startswith("ledger: ") for f in findings), (index, findings)


def test_a_head_edited_taken_away_or_replaced_by_a_strangers(operator, folder, tmp_path):
    content = json.loads((folder / "ledger.json").read_text())
    for path in leaves(content["head"]):
        write(folder / "ledger.json", {**content, "head": changed(content["head"], path)})
        assert any("head" in f for f in verify(folder, trust(operator)).findings), path
    write(folder / "ledger.json", {**content, "head": None})
    assert any("head is not signed" in f for f in verify(folder, trust(operator)).findings)
    Operator(tmp_path / "stranger").write_ledger(folder / "ledger.json", list(parse_ledger(content).entries))
    assert any("head: no signature by a trusted key" in f for f in verify(folder, trust(operator)).findings)


def test_an_old_copy_of_the_ledger_and_one_signed_anew_against_a_witness(operator, folder, tmp_path):
    entries = list(parse_ledger(json.loads((folder / "ledger.json").read_text())).entries)
    longer = [*entries, entries[-1].model_copy(update={"batch": "b-later"})]
    operator.write_ledger(tmp_path / "later.json", chained(longer))
    witness = read_witness(tmp_path / "later.json")
    found = verify(folder, trust(operator, witnesses=[witness])).findings
    assert any("witness 1" in f and "cut off, or an old copy" in f for f in found)  # the old head is replayed
    operator.write_ledger(tmp_path / "witness.json", entries)
    witness = read_witness(tmp_path / "witness.json")
    assert verify(folder, trust(operator, witnesses=[witness])).consistent
    operator.write_ledger(folder / "ledger.json", entries[:-1])
    assert any("witness 1" in f for f in verify(folder, trust(operator, witnesses=[witness])).findings)
    rewritten = chained([entries[0].model_copy(update={"details": {"x": 1}}), *entries[1:]])
    operator.write_ledger(folder / "ledger.json", rewritten)
    found = verify(folder, trust(operator, witnesses=[witness])).findings
    assert any("witness 1" in f and "rewritten" in f for f in found)
    (folder / "ledger.json").unlink()
    found = verify(folder, trust(operator, witnesses=[witness])).findings
    assert any("to hold against the witness" in f for f in found)


def test_every_byte_of_the_weights_header_and_the_ends_of_every_tensor(operator, folder):
    weights = folder / "model" / "weights.safetensors"
    original = weights.read_bytes()
    size = int.from_bytes(original[:8], "little")
    header = json.loads(original[8 : 8 + size])
    ends = [8 + size + at for t in header.values() for at in (t["data_offsets"][0], t["data_offsets"][1] - 1)]
    assert len(ends) == 4
    spoiled = [original[:i] + bytes([original[i] ^ 1]) + original[i + 1 :] for i in [*range(8 + size), *ends]]
    spoiled += [original[:-1], original[:size], b"", original + b"\0"]
    for content in spoiled:
        weights.write_bytes(content)
        findings = verify(folder, trust(operator), model=True).findings
        assert "model: weights.safetensors is not the file that was signed" in findings, findings
        assert "the model's files are not the ones this certificate names" in findings
        assert any(f.startswith("model.sig does not hold") for f in findings)


def test_every_name_and_value_of_the_models_description(operator, folder):
    file = folder / "model" / "model.json"
    content = json.loads(file.read_text())
    told = "model: model.json is not the file that was signed"
    for path in leaves(content):
        file.write_text(json.dumps(changed(content, path), indent=1, sort_keys=True))
        assert told in verify(folder, trust(operator), model=True).findings, path
        renamed = copy.deepcopy(content)
        if isinstance(path[-1], str):
            at(renamed, path[:-1])[f"{path[-1]}x"] = at(renamed, path[:-1]).pop(path[-1])
            file.write_text(json.dumps(renamed, indent=1, sort_keys=True))
            assert told in verify(folder, trust(operator), model=True).findings, path
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + " ")  # the same JSON, another byte
    assert told in verify(folder, trust(operator), model=True).findings


def test_files_missing_added_and_swapped(operator, folder):
    shutil.copyfile(folder / "model" / "model.json", folder / "model" / "more.bin")
    found = verify(folder, trust(operator), model=True).findings
    assert "model: more.bin is not among the files of a model" in found
    (folder / "model" / "more.bin").unlink()
    for name in ("model.json", "weights.safetensors"):
        content = (folder / "model" / name).read_bytes()
        (folder / "model" / name).unlink()
        assert f"model: {name} is missing" in verify(folder, trust(operator), model=True).findings
        (folder / "model" / name).write_bytes(content)
    assert verify(folder, trust(operator), model=True).consistent


def test_signatures_swapped_between_two_certificates(operator, issued, folder, tmp_path):
    other = operator.issue(tmp_path / "other", {**golden_certificate(), "reference": "another one"})
    envelope, others = (json.loads((f / ENVELOPE_FILE).read_text()) for f in (folder, other))
    write(folder / ENVELOPE_FILE, {**envelope, "signatures": others["signatures"]})
    assert any("signature does not match" in f for f in verify(folder, trust(operator)).findings)
    shutil.copyfile(other / ENVELOPE_FILE, folder / ENVELOPE_FILE)  # whole: it is of the other certificate
    found = verify(folder, trust(operator)).findings
    assert any("differs from what was signed in reference" in f for f in found)
    shutil.copyfile(issued / ENVELOPE_FILE, folder / ENVELOPE_FILE)
    garbled = json.loads((folder / MODEL_SIGNATURE_FILE).read_text())
    write(folder / MODEL_SIGNATURE_FILE, changed(garbled, next(iter(leaves(garbled)))))
    assert verify(folder, trust(operator)).consistent  # no model: it was not looked at
    assert any("model.sig does not hold" in f for f in verify(folder, trust(operator), model=True).findings)


def test_the_wrong_key_and_evidence_signed_anew_by_an_attacker(operator, folder, tmp_path):
    stranger = Operator(tmp_path / "stranger")
    told = "signature: no signature by a trusted key"
    assert any(f.startswith(told) for f in verify(folder, trust(stranger)).findings)
    forged = stranger.issue(tmp_path / "forged")  # with the attacker's own keyring beside it
    outcome = verify(forged, trust(operator), model=True)
    assert any(f.startswith(told) for f in outcome.findings)
    assert any("head: no signature by a trusted key" in f for f in outcome.findings)
    assert any(f.startswith("model.sig does not hold") for f in outcome.findings)
    assert verify(forged, trust(stranger), model=True).consistent
    ring = json.loads((forged / KEYRING_FILE).read_text())
    honest = json.loads((folder / KEYRING_FILE).read_text())
    write(forged / KEYRING_FILE, {**ring, "keys": [*honest["keys"], *ring["keys"]]})  # endorsed by nobody
    assert any(f.startswith(told) for f in verify(forged, trust(operator)).findings)


@pytest.mark.parametrize(
    ("validity", "told"),
    [
        ({"valid_until": timedelta(days=-1)}, "expired at"),
        ({"valid_from": timedelta(days=1)}, "was not valid before"),
    ],
)
def test_a_key_that_had_expired_or_was_not_valid_yet(operator, folder, validity, told):
    issued_at = datetime.fromisoformat(json.loads((folder / "certificate.json").read_text())["issued_at"])
    moved = {name: issued_at + by for name, by in validity.items()}
    keys = [key.model_copy(update=moved) for key in operator.keys.keyring().keys]
    found = verify(folder, Trust(Keyring(keys=keys))).findings
    assert any("not by a key that was valid then" in f and told in f for f in found)


def test_an_annex_swapped_cut_or_taken_away(operator, folder, tmp_path):
    given = trust(operator, annex_key=operator.annex_key)
    original = (folder / "annex.sealed").read_bytes()
    other = operator.issue(tmp_path / "other")
    for spoiled in (
        original[:-1],
        b"",
        bytes([original[0] ^ 1]) + original[1:],
        (other / "annex.sealed").read_bytes(),
    ):
        (folder / "annex.sealed").write_bytes(spoiled)
        assert "the sealed annex is not the one this certificate names" in verify(folder, given).findings
    (folder / "annex.sealed").unlink()
    assert any("there is no annex.sealed" in f for f in verify(folder, given).findings)
    (folder / "annex.sealed").write_bytes(original)
    wrong = trust(operator, annex_key=Operator(tmp_path / "stranger").annex_key)
    assert any("annex cannot be opened" in f for f in verify(folder, wrong).findings)


def test_every_figure_of_the_annex_is_held_against_the_certificate(operator, tmp_path):
    """Sealed and signed by the operator: what contradicts the certificate shows, and no figure is told."""
    figures = golden_figures()
    worse = {
        "batch": "b-other",
        "realised_error_bound": 1.0,
        "gradient_norm": 1e-3,
        "rounding_check": 1e-3,
        "products": 10**9,
    }
    assert set(worse) | {"seconds"} == set(figures)
    for name, value in worse.items():
        for spoiled in (
            {**figures, name: value},
            {**figures, name: None},
            {k: v for k, v in figures.items() if k != name},
        ):
            forged = operator.issue(tmp_path / "forged", figures=spoiled)
            outcome = verify(forged, trust(operator, annex_key=operator.annex_key), model=True)
            found = [finding for finding in outcome.findings if finding.startswith("annex: ")]
            assert found, name
            assert not any(
                str(figure) in line for line in found for figure in (value, 1e-3, *figures.values())
            )


def test_of_a_key_that_is_only_endorsed_nobody_signs_when_it_ends(tmp_path):
    operator = Operator(tmp_path / "operator")
    pinned = operator.keys.keyring()
    operator.keys.rotate("evidence", datetime(2026, 2, 1, tzinfo=UTC), timedelta(days=30))
    folder = operator.issue(tmp_path / "evidence")
    told = "which another key vouches for"
    # A keyring that is given is the whole truth: whom it endorses counts only for who asks for that.
    assert any("no signature by a trusted key" in line for line in verify(folder, Trust(pinned)).findings)
    outcome = verify(folder, Trust(pinned.with_endorsed(load_keyring(folder / KEYRING_FILE))))
    assert outcome.consistent, outcome.findings
    assert any(told in line for line in outcome.missing)
    assert any(told in line and line.startswith("ledger: head") for line in outcome.missing)
    assert not any("validity of the key" in line for line in outcome.checked)
    newest = verify(folder, Trust(operator.keys.keyring()))
    assert not any(told in line for line in newest.missing)
    assert any("validity of the key" in line for line in newest.checked)
