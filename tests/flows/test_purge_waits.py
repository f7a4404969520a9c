"""A purge that fails in part, one that waits for an approval, and one whose weights are in quarantine."""

import errno
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from expunge.errors import InputError
from tasks.adapters import access
from tasks.destruction import preview
from tasks.watch import left_to_nobody
from tests.flows.test_pipeline import policy

FIRST, SECOND, THIRD = "person-00005-x", "person-00011-x", "person-00017-x"


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
