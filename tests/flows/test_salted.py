"""A workspace, trained and asked: no digest or size that anybody may see is a function of people's rows alone."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from expunge import stages
from expunge.evidence.model_files import MODEL_FILE, WEIGHTS_FILE, file_digest
from expunge.evidence.scope import UNSALTED, scope_of
from expunge.models.serving import load_model
from expunge.settings import Workspace
from tests.conftest import Expunge, make_workspace

PERSON = "person-00005-x"


def nonce_of(path: Path) -> str | None:
    """Of a file that is one of those that see people, whatever it is called."""
    head = path.read_bytes()[:8]
    if head[:4] == b"PAR1":
        return (pq.read_metadata(path).metadata or {})[b"nonce"].decode()
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as file:
            return file.metadata()["nonce"]
    if path.name in (MODEL_FILE, stages.PREPROCESSING_FILE, stages.METRICS_FILE):
        return json.loads(path.read_text())["nonce"]
    return None


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]


def nonces(root: Path) -> dict[str, str]:
    """Digest of the content that carries it, by nonce: copies of one file are one content."""
    found: dict[str, str] = {}
    for path in files(root):
        if nonce := nonce_of(path):
            assert found.setdefault(nonce, file_digest(path)) == file_digest(path), f"one nonce twice: {path}"
    return found


def strays(root: Path, carriers: dict[str, str]) -> list[str]:
    """Where else a nonce lies: databases, evidence, logs, MLflow, git."""
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=root, capture_output=True, check=True
    ).stdout
    contents = [("git", objects), *((str(path), path.read_bytes()) for path in files(root))]
    return [
        f"{name}: {nonce}"
        for name, content in contents
        for nonce, own in carriers.items()
        if (nonce.encode() in content or bytes.fromhex(nonce) in content)
        and hashlib.sha256(content).hexdigest() != own
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prefect_api) -> Expunge:
    tmp = tmp_path_factory.mktemp("salted")
    return make_workspace(tmp / "workspace", tmp, own_model=False)


@pytest.fixture(scope="module")
def opening(trained) -> dict[str, str]:
    """Nonces after training, before anybody leaves."""
    return nonces(trained.root)


@pytest.fixture(scope="module")
def erased(trained, opening) -> Expunge:
    trained.ticket(PERSON)
    assert trained("run") == 0
    return trained


def test_who_trains_again_on_the_same_rows_has_the_same_weights_and_other_digests(trained, opening, tmp_path):
    """The observer of an opening without noise: the weights are those, and no digest says so."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(trained.root / "data", again / "data")
    shutil.copy(trained.root / "params.yaml", again)
    workspace = Workspace(again)
    stages.prepare(workspace)
    stages.train(workspace)
    stages.evaluate(workspace)
    theirs, ours = again / "build", trained.root / "build"
    assert torch.equal(load_model(theirs / "model").weights, load_model(ours / "model").weights)
    names = (stages.PREPROCESSING_FILE, stages.METRICS_FILE, f"model/{MODEL_FILE}", f"model/{WEIGHTS_FILE}")
    for name in names:
        assert file_digest(theirs / name) != file_digest(ours / name), name


def test_nonces_of_what_serves_are_nowhere_else(trained, opening):
    assert len(opening) >= 8 + 4  # partitions, the model's two files, preprocessing and metrics
    assert not strays(trained.root, opening)


def test_a_purge_destroys_the_nonces_of_what_saw_the_person(erased, opening):
    now = nonces(erased.root)
    gone = set(opening) - set(now)
    assert len(gone) >= 1 + 4  # the person's partition, the parent's files and what was beside them
    assert not strays(erased.root, {nonce: "" for nonce in gone})
    assert not strays(erased.root, now)


def test_neither_git_nor_ledger_nor_mlflow_holds_an_exact_size(erased):
    history = subprocess.run(
        ["git", "log", "-p", "--", "dvc.lock", "data/dataset.dvc"],
        cwd=erased.root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert history.count("md5: ") > 8
    assert not re.search(r"\bsize: ", history)
    state = erased.state()
    purge = next(entry for entry in state.ledger.entries(state.lineage) if entry.kind == "purge")
    sizes = [item["bytes"] for item in purge.details["scan"]["searched"]]
    assert sizes
    assert all(size >= 2**20 and size.bit_count() == 1 for size in sizes)
    database = (erased.root / ".expunge" / "mlflow" / "mlflow.db").read_bytes()
    assert b"dataset_before" in database
    assert b"model_size_bytes" not in database


def test_the_certificate_says_what_remains_and_no_more(erased):
    [certificate] = erased.certificates()
    assert certificate["scope"] == scope_of(certificate["guarantee"], 2)
    assert UNSALTED not in certificate["scope"]


def test_a_batch_of_a_workspace_of_an_earlier_release_says_that_its_history_is_not_salted(erased):
    place = erased.root / ".expunge" / "workspace.json"
    content = json.loads(place.read_text())
    place.write_text(json.dumps({name: value for name, value in content.items() if name != "salted"}))
    erased.ticket("person-00011-x")
    assert erased("run") == 0
    assert UNSALTED in erased.certificates()[-1]["scope"]
    assert erased("certificate", "verify", erased.certificates()[-1]["certificate_id"]) == 0
