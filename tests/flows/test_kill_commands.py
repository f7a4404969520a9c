"""SIGKILL of the commands that are no batch: training, rollback, approval, moving house. Repeating them ends all."""

import shutil

import pytest

from cli.main import invoke
from tasks.adapters import access, git
from tests.conftest import Expunge, make_clinic
from tests.flows.killer import KILLED, run
from tests.flows.test_pipeline import policy

PEOPLE = ("person-00005-x", "person-00011-x")
TRAINING = [
    ("tasks.adapters.versioning:Repository.reproduce", "after"),  # trained, and nothing registered
    ("mlflow:MlflowClient.create_model_version", "after"),
    ("expunge.evidence.store:LedgerStore.append", "after"),  # the ledger is open
    ("tasks.adapters.registry:Registry.promote", "before"),  # its move is in the ledger, and was not made
]
ROLLBACK = [
    ("tasks.rollback:record_rollback", "before"),
    ("tasks.rollback:record_rollback", "after"),
    ("tasks.rollback:install_model", "after"),
    ("tasks.rollback:record_move", "after"),
    ("tasks.adapters.registry:Registry.roll_back", "after"),
]


def moves(clinic):
    state = clinic.state()
    return [
        (entry.move.from_version, entry.move.to_version)
        for entry in state.ledger.entries(state.lineage)
        if entry.move is not None
    ]


def test_a_training_that_dies_is_repeated_and_is_one(tmp_path, prefect_api):
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    clinic = Expunge(root)
    for where, when in TRAINING:
        assert run(root, where=where, when=when, command=("train",)) == KILLED, where
        assert clinic("status") == 0
    assert clinic("train") == 0
    state = clinic.state()
    registry = access.registry(state)
    assert [version.version for version in registry.versions()] == [1]
    assert registry.champion().version == 1
    kinds = [entry.kind for entry in state.ledger.entries(state.lineage)]
    assert kinds == ["opening", "policy", "alias"]
    assert clinic("ledger", "verify") == 0
    assert git.git(root, "status", "--porcelain") == ""
    clinic.ticket(PEOPLE[0])
    assert clinic("run") == 0


@pytest.fixture
def registered(clinic):
    """A batch that serves as version 2, and is not purged because nobody has approved of it."""
    policy(
        clinic, gates={"max_accuracy_drop": 0.5}, retention={"rollback": True}, purge={"approval": "required"}
    )
    clinic.ticket(PEOPLE[0])
    assert clinic("run") == 0
    assert access.registry(clinic.state()).champion().version == 2
    return clinic


def test_a_rollback_and_an_approval_that_die_are_repeated(registered):
    clinic = registered
    (batch,) = clinic.state().batches.unfinished()
    for where, when in ROLLBACK:
        recorded = clinic.state().batches.get(batch.batch_id).data.get("rolled_back")
        command = ("run",) if recorded else ("rollback", "1", "--yes")
        assert run(clinic.root, where=where, when=when, command=command) == KILLED, where
        assert clinic("ledger", "verify") == 0
    assert clinic("run") == 0
    registry = access.registry(clinic.state())
    assert registry.champion().version == 3
    assert moves(clinic) == [(None, 1), (1, 2), (2, 1), (1, 3)]
    approval = ("purge", "approve", batch.batch_id, "--yes")
    for when in ("before", "after"):
        assert (
            run(clinic.root, where="expunge.tickets.purge_waits:approve", when=when, command=approval)
            == KILLED
        )
    assert clinic(*approval) == 0
    assert clinic("run") == 0
    assert clinic.state().batches.get(batch.batch_id).stage == "closed"
    for certificate in clinic.certificates()[-1:]:
        assert certificate["sequential"]["draws"] == 2  # of the release that was rolled back, too
        assert clinic("certificate", "verify", certificate["certificate_id"]) == 0


def test_a_move_that_dies_is_repeated(clinic, tmp_path):
    home = clinic.root
    moved = tmp_path / "moved"
    shutil.copytree(home, tmp_path / "away", symlinks=True)
    shutil.move(tmp_path / "away", moved)
    hidden = home.with_name("hidden")
    home.rename(hidden)  # the original is gone from its place
    try:
        for where, when in (("tasks.place:rewrite", "after"), ("tasks.place:_write", "before")):
            assert run(moved, where=where, when=when, command=("workspace", "relocate")) == KILLED
            assert Expunge(moved)("run") == 2
        assert Expunge(moved)("workspace", "relocate") == 0
        assert Expunge(moved)("doctor") == 0
    finally:
        hidden.rename(home)
