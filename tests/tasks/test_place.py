"""A workspace that was copied or moved: nothing of the original is touched, and one command lets it go on."""

import json
import os
import shutil
from pathlib import Path

import pytest

from cli.main import invoke
from expunge.errors import RefusedError, WorkspaceError
from expunge.evidence.verify_ledger import verify_ledger
from expunge.state import open_state
from tasks.adapters import access
from tasks.destruction import UNNAMED, begin_weights, destroy, plan
from tasks.leases import lineage_lease
from tasks.ledger import append
from tasks.place import fork, relocate, require_place
from tests import workspaces
from tests.tasks.test_registry import spec_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, the second of which serves: the first one's weights are to be purged."""
    folder = tmp_path_factory.mktemp("place")
    root = workspaces.make(folder)
    state = open_state(root)
    registry = access.registry(state)
    for batch in ("opening", "b-1"):
        registry.register(spec_of(folder, batch)[0])
    registry.promote(2)
    append(state, kind="opening")
    return root


@pytest.fixture
def original(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For one test, and settled where it is."""
    root = tmp_path / "original"
    shutil.copytree(made, root, symlinks=True)
    fork(open_state(root))
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    return root


def weights(root: Path) -> list[Path]:
    return sorted((root / ".expunge" / "mlflow").rglob("weights.safetensors"))


def wiped(root: Path) -> list[Path]:
    """Weights that are left after whatever a purge plans for weights."""
    state = open_state(root)
    for item in plan(state, None):
        if "weights" in item.kind:
            destroy(state, item, ())
    return weights(root)


def stated(root: Path) -> dict:
    return json.loads((root / ".expunge" / "workspace.json").read_text())


def forget_place(root: Path) -> None:
    """As an earlier release left it."""
    content = {k: v for k, v in stated(root).items() if k not in ("place", "id")}
    (root / ".expunge" / "workspace.json").write_text(json.dumps(content))


def copy_of(root: Path, to: Path) -> Path:
    shutil.copytree(root, to, symlinks=True)
    return to


def test_a_copy_touches_nothing_of_the_original(original, tmp_path, capsys):
    copy, before = copy_of(original, tmp_path / "copy"), [path.read_bytes() for path in weights(original)]
    with pytest.raises(WorkspaceError, match="copied or moved"), lineage_lease(open_state(copy)):
        raise AssertionError
    for command in (["run"], ["train"], ["ticket", "submit", "--subject", workspaces.ANN],
                    ["purge", "approve", "b-1", "--yes"], ["data", "import", str(tmp_path)], ["rollback", "1", "--yes"],
                    ["keys", "rotate"], ["suppression", "rotate"]):  # fmt: skip
        assert invoke([*command, "--workspace", str(copy)]) == 2, command
        said = " ".join(capsys.readouterr().err.split())
        assert "expunge workspace relocate" in said, said
        assert "expunge workspace fork" in said
    assert invoke(["ledger", "show", "--workspace", str(copy)]) == 0
    # Whatever got around that: weights that lie elsewhere are no purge's.
    with pytest.raises(WorkspaceError, match="outside of this workspace"):
        access.registry(open_state(copy)).purge_weights(1)
    with pytest.raises(WorkspaceError, match="outside of this workspace"):
        plan(open_state(copy), None)
    assert [path.read_bytes() for path in weights(original)] == before


def test_a_copy_is_no_move_and_a_fork_purges_its_own(original, tmp_path):
    copy, before = copy_of(original, tmp_path / "copy"), [path.read_bytes() for path in weights(original)]
    with pytest.raises(RefusedError, match="still where it was"):
        relocate(open_state(copy))
    assert invoke(["workspace", "fork", "--workspace", str(copy)]) == 0
    require_place(open_state(copy))
    assert stated(copy)["id"] != stated(original)["id"] == stated(copy)["fork_of"]
    state = open_state(copy)
    ledger = state.ledger.read(state.lineage)
    assert ledger.entries[-1].details == {"workspace": stated(copy)["id"], "of": stated(original)["id"]}
    outcome = verify_ledger(ledger, keys=state.signing.keyring())
    assert outcome.verified
    assert any(line.startswith(f"fork: since entry {len(ledger.entries) - 1}") for line in outcome.missing)
    (left,) = wiped(copy)
    assert left.is_relative_to(copy)
    assert [path.read_bytes() for path in weights(original)] == before
    assert len(wiped(original)) == 1  # the original's own purge is as ever
    with pytest.raises(WorkspaceError, match="no copy"):
        fork(open_state(copy))


def test_a_moved_workspace_goes_on_after_one_command(original, tmp_path):
    moved = original.rename(tmp_path / "moved")
    with pytest.raises(WorkspaceError, match="copied or moved"):
        require_place(open_state(moved))
    for _ in range(2):
        assert invoke(["workspace", "relocate", "--workspace", str(moved)]) == 0
    require_place(open_state(moved))
    assert access.registry(open_state(moved)).download(
        access.registry(open_state(moved)).get(2), tmp_path / "down"
    )
    (left,) = wiped(moved)
    assert left.is_relative_to(moved)
    assert not any(str(original).encode() in path.read_bytes() for path in (moved / ".expunge").rglob("*.db"))


def test_a_place_with_odd_letters_and_a_longer_name_of_the_same_beginning(original, tmp_path):
    moved = original.rename(tmp_path / "original é x")  # its name begins as the old one's
    relocate(open_state(moved))
    assert wiped(moved)[0].is_relative_to(moved)
    back = moved.rename(tmp_path / "original")
    relocate(open_state(back))
    assert len(weights(back)) == 1


def test_a_restored_backup_in_the_same_place_needs_nothing(original, tmp_path):
    backup = copy_of(original, tmp_path / "backup")
    shutil.rmtree(original)
    shutil.copytree(backup, original, symlinks=True)
    require_place(open_state(original))


def test_a_backup_elsewhere_goes_on_when_the_original_is_gone(original, tmp_path):
    backup = copy_of(original, tmp_path / "backup")
    shutil.rmtree(original)
    relocate(open_state(backup))
    assert len(wiped(backup)) == 1


def test_a_link_is_no_other_place(original, tmp_path):
    link = tmp_path / "link"
    os.symlink(original, link)
    require_place(open_state(link))
    forget_place(original)
    require_place(open_state(link))
    assert stated(original)["place"] == str(original)


def test_a_workspace_of_an_earlier_release_records_its_place_or_is_refused(original, tmp_path):
    forget_place(original)
    copy = copy_of(original, tmp_path / "copy")
    with pytest.raises(WorkspaceError, match="copied or moved"):
        require_place(open_state(copy))
    assert "place" not in stated(copy)
    with pytest.raises(RefusedError, match="still where it was"):
        relocate(open_state(copy))
    require_place(open_state(original))
    assert stated(original)["place"] == str(original)
    identity = stated(original)["id"]
    require_place(open_state(original))
    assert stated(original)["id"] == identity
    fork(open_state(copy))
    assert len(wiped(copy)) == 1
    assert len(weights(original)) == 2


def test_a_killed_relocation_or_fork_is_run_again(original, tmp_path, monkeypatch):
    moved = original.rename(tmp_path / "moved")
    monkeypatch.setattr("tasks.place._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        relocate(open_state(moved))
    monkeypatch.undo()
    with pytest.raises(WorkspaceError, match="copied or moved"):
        require_place(open_state(moved))
    relocate(open_state(moved))
    copy = copy_of(moved, tmp_path / "copy")
    monkeypatch.setattr("tasks.ledger._renew_witness", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fork(open_state(copy))
    monkeypatch.undo()
    made = fork(open_state(copy))["id"]
    state = open_state(copy)
    told = [e for e in state.ledger.entries(state.lineage) if e.details.get("workspace") == made]
    assert len(told) == 1


def test_a_copy_that_shares_a_database_is_no_workspace_of_its_own(original, tmp_path, monkeypatch):
    copy = copy_of(original, tmp_path / "copy")
    monkeypatch.setenv("EXPUNGE_DATABASE_URL", f"sqlite:///{original}/.expunge/tickets.db")
    with pytest.raises(WorkspaceError, match="shares its database"):
        fork(open_state(copy))


def test_what_is_absent_was_not_purged(original):
    first = access.registry(open_state(original)).client.get_logged_model(
        access.registry(open_state(original)).get(1).logged_model_id
    )
    folder = Path(first.artifact_location.removeprefix("file://"))
    kept = folder.rename(folder.with_name("away"))
    with pytest.raises(WorkspaceError, match="what is absent was not purged"):
        plan(open_state(original), None)
    kept.rename(folder)
    assert len(wiped(original)) == 1


def test_weights_that_vanish_between_plan_and_purge(original):
    state = open_state(original)
    batch = state.batches.open_batch([state.tickets.submit(workspaces.ANN).ticket.ticket_id])
    (item,) = [one for one in plan(state, None) if one.kind == "weights"]
    begin_weights(state, batch.batch_id, item)
    destroy(state, item, ())  # and killed before it was written down
    begin_weights(state, batch.batch_id, item)
    destroy(state, item, ())
    other = state.batches.open_batch([state.tickets.submit(workspaces.BOB).ticket.ticket_id])
    begin_weights(state, other.batch_id, item)  # purged by the first one: it is tagged


def test_weights_that_no_version_names_are_swept(original):
    (original / ".expunge" / "mlflow" / "artifacts" / "models" / "m-stray").mkdir()
    stray = original / ".expunge" / "mlflow" / "artifacts" / "models" / "m-stray" / "data"
    shutil.copytree(weights(original)[0].parent, stray)
    found = [item for item in plan(open_state(original), None) if item.kind == UNNAMED]
    assert [item.what for item in found] == [stray.relative_to(original).as_posix()]
    assert len(wiped(original)) == 1
    assert not stray.exists()
