"""Files that are damaged before a batch begins: refused in one sentence; it goes on when they are right again."""

import shutil
from pathlib import Path

import pytest

from cli.checks import run_checks
from expunge.datasets.partitions import count_rows, count_training_rows, partition_files, read_dataset
from expunge.errors import DatasetError, ServiceUnavailableError, VerificationError, WorkspaceError
from expunge.state import open_state
from expunge.tickets.batches import ORDER, BatchStage
from tasks.adapters import access
from tasks.ledger import append, record_move
from tasks.parent import fetch, from_recorded_parent, recorded_digest
from tasks.planning import champion_context
from tests import workspaces
from tests.tasks.test_registry import spec_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    root = workspaces.make(folder)
    state, (spec, digest) = open_state(root), spec_of(folder, "opening")
    access.registry(state).register(spec)
    append(state, kind="opening", model_digest=digest)
    record_move(state, None, 1)
    access.registry(state).promote(1)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(tmp_path / "workspace"))
    return workspaces.copied(made, tmp_path / "workspace")


def model_check(root: Path) -> tuple[bool, str]:
    (found,) = [check for check in run_checks(root) if check["check"] == "model"]
    return found["ok"], found["detail"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "one bit of the weights": ("weights.safetensors", flip),
    "half of the weights": ("weights.safetensors", lambda p: p.write_bytes(p.read_bytes()[:40])),
    "no weights": ("weights.safetensors", Path.unlink),
    "no bytes": ("weights.safetensors", lambda p: p.write_bytes(b"")),
    "another description": ("model.json", flip),
    "no description": ("model.json", Path.unlink),
    "nothing": ("model.json", lambda p: shutil.rmtree(p.parent)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_before_anything_and_repair_helps(root, tmp_path, name):
    file, damage = DAMAGE[name]
    assert model_check(root)[0]
    path = next((root / ".expunge" / "mlflow").rglob(file))
    shutil.copytree(path.parent, tmp_path / "good")
    damage(path)
    state = open_state(root)
    with pytest.raises((VerificationError, WorkspaceError), match="restore them"):
        champion_context(state)
    with pytest.raises((VerificationError, WorkspaceError), match="restore them"):
        fetch(state, access.registry(state).get(1), tmp_path / "place")
    ok, said = model_check(root)
    assert not ok, said
    shutil.copytree(tmp_path / "good", path.parent, dirs_exist_ok=True)
    assert fetch(state, access.registry(state).get(1), tmp_path / "place")
    assert model_check(root)[0]


def test_the_ledger_tells_which_files_a_version_has_also_after_a_rollback(root):
    state = open_state(root)
    first = recorded_digest(state.ledger.entries(state.lineage), 1)
    about = {"batch": "b-1", "certificate_id": "c-1"}
    append(state, kind="retraining", model_digest="sha256:" + "b" * 64, guarantee="exact", **about)
    for old, new in ((1, 2), (2, 1)):
        record_move(state, old, new, **about)
    entries = state.ledger.entries(state.lineage)
    assert recorded_digest(entries, 2) == "sha256:" + "b" * 64
    assert (
        recorded_digest(entries, 1) == first == access.registry(state).get(1).tags.get("model_digest", first)
    )
    assert recorded_digest(entries, 3) is None


@pytest.mark.parametrize("stage", [BatchStage.UNLEARNED, BatchStage.VALIDATED])
def test_a_release_that_an_earlier_one_made_from_damaged_files_is_made_anew(root, stage):
    state = open_state(root)
    batch = state.batches.open_batch([state.tickets.submit(workspaces.ANN).ticket.ticket_id])
    right = recorded_digest(state.ledger.entries(state.lineage), 1)
    state.batches.record(batch.batch_id, parent_version=1, parent_digest=right, certificate={}, envelope={})
    for name in ORDER[1 : ORDER.index(stage) + 1]:
        state.batches.advance(batch.batch_id, name)
    assert from_recorded_parent(state, state.batches.get(batch.batch_id)).stage is stage
    state.batches.record(batch.batch_id, parent_digest="sha256:" + "f" * 64)
    again = from_recorded_parent(state, state.batches.get(batch.batch_id))
    assert again.stage is BatchStage.REMOVED
    assert not {"certificate", "envelope"} & set(again.data)


@pytest.mark.parametrize("left", [0, 3, 200])
def test_a_partition_that_is_cut_off_is_one_clear_error(root, left):
    state = open_state(root)
    path = partition_files(state.workspace.dataset_dir)[0]
    path.chmod(0o644)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:left])
    for read in (read_dataset, count_rows, count_training_rows):
        with pytest.raises(DatasetError, match="cannot be read") as refused:
            read(state.workspace.dataset_dir)
        assert path.name in str(refused.value)


@pytest.mark.parametrize("damage", [b"not a database at all, but text" * 40, None])
def test_a_damaged_database_is_to_be_restored(root, damage):
    for name, kind in (("mlflow/mlflow.db", WorkspaceError), ("tickets.db", ServiceUnavailableError)):
        path = root / ".expunge" / name
        good = path.read_bytes()
        path.write_bytes(damage or good[:100] + b"\xff" * 8000 + good[8100:])
        with pytest.raises(kind, match="restore"):
            access.registry(open_state(root)).champion()
        path.write_bytes(good)
