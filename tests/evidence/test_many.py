"""Many certificates and large files: the work is shared, and memory does not grow with them."""

import json
import shutil
import tracemalloc

import numpy as np
import pytest

from cli.main import invoke
from expunge.evidence import bundle
from expunge.evidence.bundle import Trust, Verifier, find_evidence
from expunge.evidence.canonical import read_json
from expunge.evidence.keyring import load_keyring
from expunge.evidence.model_files import WEIGHTS_FILE, file_digest, read_weights
from tests.evidence.forging import GOLDEN

KEYS = GOLDEN / "auditor" / "trusted-keys.json"


@pytest.fixture
def ledgers(monkeypatch):
    """Ledgers that are verified, one entry each time."""
    seen = []

    def counting(ledger, **given):
        seen.append(len(ledger.entries))
        return verify_ledger(ledger, **given)

    verify_ledger = bundle.verify_ledger
    monkeypatch.setattr(bundle, "verify_ledger", counting)
    return seen


@pytest.fixture
def folders(tmp_path):
    ignored = shutil.ignore_patterns("model", "auditor")
    return [shutil.copytree(GOLDEN, tmp_path / f"e{n}", ignore=ignored) for n in range(20)]


def test_certificates_share_one_check_of_the_ledger(folders, ledgers, monkeypatch):
    read = []
    monkeypatch.setattr(bundle, "read_json", lambda path: read.append(path.name) or read_json(path))
    verifier = Verifier(Trust(load_keyring(KEYS), ledger=GOLDEN / "ledger.json"))
    assert all(verifier.verify(find_evidence(folder)).consistent for folder in folders)
    assert len(ledgers) == 1
    assert read.count("ledger.json") == 1


def test_ledgers_beside_certificates_are_checked_again_only_where_they_differ(folders, ledgers):
    verifier = Verifier(Trust(load_keyring(KEYS)))
    spoiled = json.loads((folders[-1] / "ledger.json").read_text())
    spoiled["entries"][1]["step"] += 1
    (folders[-1] / "ledger.json").write_text(json.dumps(spoiled))
    outcomes = [verifier.verify(find_evidence(folder)) for folder in folders]
    assert [outcome.consistent for outcome in outcomes] == [True] * 19 + [False]
    assert len(ledgers) == 2


def test_many_in_one_answer_name_the_one_that_does_not_hold(folders, capsys):
    path = folders[7] / "certificate.json"
    path.write_text(path.read_text().replace('"epsilon"', '"epsilon_"', 1))
    assert invoke(["certificate", "verify", *map(str, folders), "--key", str(KEYS), "--json"]) == 1
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert [one["verified"] for one in answer["certificates"]] == [n != 7 for n in range(20)]
    assert all(finding.startswith(f"{folders[7]}: ") for finding in answer["findings"])
    assert printed.err.count("error:") == 1
    assert invoke(["certificate", "verify", *map(str, folders[:3]), "--key", str(KEYS)]) == 0
    assert "3 certificates: VERIFIED" in capsys.readouterr().out


def test_a_wrong_name_among_many_is_told_before_any_is_verified(folders, ledgers, capsys):
    (folders[2] / "certificate.json").write_text("{")
    assert invoke(["certificate", "verify", *map(str, folders)]) == 2
    assert "not JSON" in capsys.readouterr().err
    assert invoke(["certificate", "verify", str(folders[0]), str(folders[0] / "absent.json")]) == 2
    assert "no such certificate" in capsys.readouterr().err
    assert (
        invoke(["certificate", "verify", str(folders[0]), "--ledger", str(folders[0] / "absent.json")]) == 2
    )
    assert "the ledger cannot be read" in capsys.readouterr().err
    assert invoke(["certificate", "verify", str(folders[0]), "--model", str(folders[0] / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert ledgers == []


def test_weights_of_any_size_are_read_a_piece_at_a_time(tmp_path):
    count = 4 << 20  # 32 MiB
    header = json.dumps(
        {"weights": {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}}
    ).encode()
    with (tmp_path / WEIGHTS_FILE).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(np.zeros(count).tobytes())
    tracemalloc.start()
    file_digest(tmp_path / WEIGHTS_FILE)
    assert sum(len(piece) for piece in read_weights(tmp_path)) == count
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
