"""A purge that fails in part, or waits for approval or for a quarantine's end, or has to leave objects to others."""

import errno
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from expunge.datasets.partitions import rows_of
from expunge.errors import InputError
from tasks.adapters import access, git
from tasks.adapters.versioning import Repository
from tasks.destruction import preview
from tasks.watch import left_to_nobody
from tests.flows.test_pipeline import policy
from tests.tasks.test_dvc_objects import checksums, dvc

FIRST, SECOND, THIRD, FOURTH = "person-00005-x", "person-00011-x", "person-00017-x", "person-00023-x"


def objects(clinic, batch_id):
    stores = access.repository(clinic.state()).stores
    items = [item for item in preview(clinic.state(), batch_id) if item.kind == "data object"]
    return [stores[item.where] / item.what[:2] / item.what[2:] for item in items]


def ran(clinic, capsys):
    """What `expunge run --json` says, by batch."""
    capsys.readouterr()
    assert clinic("run", "--json") == 0
    return {batch["batch_id"]: batch for batch in json.loads(capsys.readouterr().out)}


def test_a_purge_that_fails_in_part_has_failed_until_it_is_continued(clinic, monkeypatch, capsys):
    ticket, destroyed, unlink = clinic.ticket(FIRST), [], Path.unlink

    def immovable(path, *arguments, **named):
        if "dvc-remote" in path.parts:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        destroyed.append(path)
        unlink(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", immovable)
        assert clinic("run") == 1
    assert "could not be destroyed" in capsys.readouterr().err
    (batch,) = clinic.batches()
    assert (batch.stage, batch.failed_stage) == ("failed", "registered")
    states = {entry.item.where: entry.state for entry in clinic.state().purges.entries(batch.batch_id)}
    assert states["remote storage"] == "pending"
    assert states["cache"] == "done"
    assert any(".dvc" in path.parts for path in destroyed)
    assert clinic.state().tickets.get(ticket).state == "failed"

    assert clinic("run") == 0
    assert clinic.state().tickets.get(ticket).state == "closed"
    entries = clinic.state().purges.entries(batch.batch_id)
    assert {entry.state for entry in entries} == {"done"}
    assert clinic.batches()[0].data["purged_bytes"] == sum(entry.item.bytes or 0 for entry in entries)


def test_approval_and_quarantine_put_a_purge_off_and_nothing_else(clinic, capsys):
    policy(clinic, purge={"approval": "required"}, retention={"quarantine_days": 365})
    clinic.ticket(SECOND)
    said = ran(clinic, capsys)
    *_, first = clinic.batches()
    assert first.stage == "registered"
    assert f"expunge purge approve {first.batch_id}" in said[first.batch_id]["waiting"]
    superseded = objects(clinic, first.batch_id)
    assert superseded
    assert not left_to_nobody(clinic.state())
    assert (
        "approve" in ran(clinic, capsys)[first.batch_id]["waiting"]
    )  # again: it waits, nothing is destroyed
    assert all(path.is_file() for path in superseded)

    clinic.ticket(THIRD)  # a later batch goes on
    assert "approve" in ran(clinic, capsys)[clinic.batches()[-1].batch_id]["waiting"]
    *_, second = clinic.batches()
    assert second.batch_id != first.batch_id

    assert clinic("purge", "approve", first.batch_id, "--json") == 2  # nobody can be asked
    assert clinic("purge", "approve", "b-000000000000", "--yes") == 2
    capsys.readouterr()
    assert clinic("purge", "approve", first.batch_id, "--yes", "--json") == 0
    approval = json.loads(capsys.readouterr().out)
    assert clinic("purge", "approve", first.batch_id, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out) == approval

    said = ran(clinic, capsys)
    assert "quarantine" in said[first.batch_id]["waiting"]
    assert "approve" in said[second.batch_id]["waiting"]
    assert not any(path.exists() for path in superseded)
    state, registry = clinic.state(), access.registry(clinic.state())
    parent = registry.get(first.data["parent_version"])
    until = datetime.fromisoformat(parent.tags["quarantined.until"])
    assert until <= min(state.tickets.get(name).due_at for name in first.tickets)
    assert until - datetime.now(UTC) > timedelta(days=25)
    with pytest.raises(InputError, match="in quarantine"):
        registry.download(parent, clinic.root / "unused")
    assert not left_to_nobody(state)

    state.batches.record(first.batch_id, quarantined_until="2000-01-01T00:00:00+00:00")  # its time is over
    assert left_to_nobody(state)
    assert list(ran(clinic, capsys)) == [first.batch_id, second.batch_id]
    assert [batch.stage for batch in clinic.batches()[-2:]] == ["closed", "registered"]
    assert "weights.purged_at" in registry.get(first.data["parent_version"]).tags
    assert "weights.purged_at" not in registry.get(second.data["parent_version"]).tags

    policy(clinic, purge={"approval": "automatic"}, retention={"quarantine_days": 0})
    assert ran(clinic, capsys)[second.batch_id]["waiting"] is None
    assert {batch.stage for batch in clinic.batches()} == {"closed"}
    assert clinic("purge", "verify", "--subject", SECOND, "--subject", THIRD) == 0
    assert clinic("ledger", "verify") == 0


def rows_before(clinic, batch):
    """Copies of the rows that a batch removed: its partitions as they were just before."""
    repo = access.repository(clinic.state())
    objects = repo.manifest(batch.data["before"]["md5"])
    names = [objects[name] for name in batch.data["partitions"]]
    paths = [store / md5[:2] / md5[2:] for store in repo.stores.values() for md5 in names]
    return [path.is_file() for path in paths]


def test_a_quarantine_that_ends_takes_nothing_of_a_later_batch_along(clinic, capsys):
    """Two people of one partition: the first is half purged when the second is removed, and held."""
    policy(clinic, retention={"quarantine_days": 30})
    dataset, placement = clinic.state().workspace.dataset_dir, clinic.state().placement
    together = {}
    for person in [f"person-{number:05d}-x" for number in range(40, 80)]:
        together.setdefault(rows_of(dataset, [person], placement)[1], []).append(person)
    one, other = next(people for people in together.values() if len(people) > 1)[:2]
    clinic.ticket(one)
    assert "quarantine" in next(iter(ran(clinic, capsys).values()))["waiting"]
    *_, first = clinic.batches()
    held = clinic.ticket(other)
    second_id = clinic.state().batches.open_batch([held]).batch_id
    clinic.state().holds.begin(second_id, "removal")
    assert clinic("ticket", "hold", held, "--reason", "court order") == 0
    ran(clinic, capsys)
    *_, second = clinic.batches()
    assert (second.batch_id, second.stage) == (second_id, "registered")
    assert first.data["partitions"] == second.data["partitions"]
    assert all(rows_before(clinic, second))

    over = "2000-01-01T00:00:00+00:00"
    clinic.state().batches.record(first.batch_id, quarantined_until=over)
    assert not left_to_nobody(clinic.state())
    assert "does not go on" in ran(clinic, capsys)[first.batch_id]["waiting"]  # older weights saw the held
    assert all(rows_before(clinic, second))

    policy(clinic, purge={"approval": "required"})  # no hold any more, but nobody has approved the second
    clinic.state().batches.record(first.batch_id, purge_approved_at=over)
    assert clinic("ticket", "release", held) == 0
    ran(clinic, capsys)
    assert [batch.stage for batch in clinic.batches()[-2:]] == ["closed", "registered"]
    assert all(rows_before(clinic, second))
    policy(clinic, purge={"approval": "automatic"}, retention={"quarantine_days": 0})
    ran(clinic, capsys)
    assert clinic.batches()[-1].stage == "closed"
    assert not any(rows_before(clinic, second))
    assert clinic("purge", "verify", "--subject", one, "--subject", other) == 0


def test_what_a_second_dataset_needs_stays_in_the_shared_remote(clinic, tmp_path, capsys):
    second = tmp_path / "second"
    shutil.copytree(clinic.root / "data" / "dataset", second / "data" / "dataset")
    (second / "data" / "dataset" / "more.parquet").write_bytes(
        next((second / "data" / "dataset").iterdir()).read_bytes()
    )
    other = Repository(second, second / ".expunge")
    remote = clinic.root / ".expunge" / "dvc-remote"
    other.init(remote)
    other.track_dataset("a second dataset")
    git.commit(second, [".dvc/config", ".dvc/.gitignore"], "its remote")
    expected = checksums(second / "data" / "dataset")

    clinic.ticket(FOURTH)
    stored = sorted(remote.rglob("*"))
    assert clinic("run") == 1
    assert "purge.shared_remotes: true" in " ".join(capsys.readouterr().err.split())
    assert set(stored) <= set(remote.rglob("*"))  # nothing was destroyed
    assert clinic.batches()[-1].stage == "failed"

    policy(clinic, purge={"shared_remotes": True})
    assert clinic("run") == 0
    batch = clinic.batches()[-1]
    assert batch.stage == "closed"
    entry = clinic.state().ledger.entries(clinic.state().lineage)[-1]
    kept = [item for item in clinic.state().purges.kept() if item.kind == "shared object"]
    assert [one["what"] for one in entry.details["kept"]] == [item.what for item in kept]
    assert kept
    assert "another dataset needs" in " ".join(batch.data["scan_report"]["notes"])
    assert clinic("ledger", "verify") == 0
    assert clinic("purge", "verify", "--subject", FOURTH) == 0  # policy says so
    policy(clinic, purge={"shared_remotes": False})
    assert clinic("purge", "verify", "--subject", FOURTH) == 1  # the rows are there

    git.git(tmp_path, "clone", "--quiet", str(second), "fresh")
    dvc(tmp_path / "fresh", "remote", "modify", "--local", "storage", "url", str(remote))
    dvc(tmp_path / "fresh", "pull")
    assert checksums(tmp_path / "fresh" / "data" / "dataset") == expected
