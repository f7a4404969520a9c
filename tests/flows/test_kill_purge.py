"""SIGKILL at every entry of a purge's journal: it resumes, and nothing is deleted that anybody needs."""

import hashlib
import shutil

import pytest

from tasks.adapters import access
from tasks.destruction import preview
from tests.conftest import Expunge, make_workspace
from tests.flows.killer import KILLED, run
from tests.flows.test_kill import check_end_state

DESTROY, MARK = "tasks.purge:destroy", "expunge.tickets.purge_journal:PurgeJournal.done"
PEOPLE = ["person-00011-x", "person-00017-x"]


def checksums(clinic: Expunge) -> dict[str, str]:
    """md5 of everything that has to stay: the dataset, its objects in every store, the weights that serve."""
    repo, registry = access.repository(clinic.state()), access.registry(clinic.state())
    version = repo.current().md5
    objects = {version, *repo.manifest(version).values()}
    kept = [store / md5[:2] / md5[2:] for store in repo.stores.values() for md5 in objects]
    serving = registry.client.get_logged_model(registry.champion().logged_model_id).artifact_location
    kept += [path for path in clinic.root.rglob("weights.safetensors") if path.is_relative_to(serving[7:])]
    assert len(kept) == 2 * len(objects) + 1
    kept += sorted((clinic.root / "data").rglob("*.parquet"))
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in kept}


def everything(clinic: Expunge) -> list[str]:
    """Names of all files, but for those of git, and of runs, versions and certificates, whose names are drawn."""
    drawn = (".git", ".dvc/tmp", ".expunge/mlflow", ".expunge/evidence", ".expunge/dvc-site-cache")
    names = [path.relative_to(clinic.root).as_posix() for path in clinic.root.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith(drawn))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["purge", "run"])
def test_a_purge_that_dies_at_any_entry_continues(tmp_path, prefect_api, whole):
    clinic = make_workspace(tmp_path / "workspace", tmp_path)
    before = shutil.copytree(clinic.state().workspace.dataset_dir, tmp_path / "before")
    for person in PEOPLE:
        clinic.ticket(person)
    assert run(clinic.root, where=DESTROY, when="before") == KILLED
    (batch,) = clinic.batches()
    leftover = clinic.root / ".expunge" / "prefect" / "storage" / "result"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("a result")
    purge = "" if whole else batch.batch_id

    kept, journal = checksums(clinic), clinic.state().purges
    planned = preview(clinic.state())
    assert [item.what for item in planned if item.kind == "stored results"]
    existing = everything(clinic)
    for number in range(1, len(planned) + 1):
        # destroyed and not marked; then marked, and the next one not begun
        for where in (DESTROY, MARK):
            assert run(clinic.root, where=where, when="after", purge=purge) == KILLED
            done = [entry for entry in journal.entries(batch.batch_id) if entry.state == "done"]
            assert len(done) == number - (where == DESTROY)
            assert checksums(clinic) == kept
            assert clinic("ledger", "verify") == 0
    entries = journal.entries(batch.batch_id)
    assert {(e.item.kind, e.item.what, e.item.where, e.item.bytes) for e in entries} == {
        (item.kind, item.what, item.where, item.bytes) for item in planned
    }
    destroyed = {item.what for item in planned if item.where == "workspace" and item.kind != "free pages"}
    gone = set(existing) - set(everything(clinic))
    objects = {f"{item.what[:2]}/{item.what[2:]}" for item in planned if item.kind == "data object"}
    assert gone
    for name in gone:  # what was planned is gone, and nothing else
        assert any(name == what or name.startswith(f"{what}/") for what in destroyed) or name[-33:] in objects

    assert clinic("run") == 0
    check_end_state(clinic, PEOPLE, before)
    (batch,) = clinic.batches()
    assert batch.data["purged_bytes"] == sum(item.bytes or 0 for item in planned) > 0
