"""Legal holds that come while a flow is at work: removal and purge stop, nothing that is needed is destroyed."""

import base64
import json
from datetime import datetime, timedelta

import pytest
import yaml

from cli.main import invoke
from expunge.evidence.canonical import canonical_bytes
from flows import erase as flow
from tasks.adapters import access, git
from tasks.adapters.registry import PURGED_TAG
from tasks.watch import left_to_nobody
from tests.flows.test_pipeline import policy


@pytest.fixture(scope="module", autouse=True)
def _policy(clinic):
    """A gate that a test set of this size can pass; and a backup."""
    policy(clinic, gates={"max_accuracy_drop": 0.5})
    path = clinic.root / "policy.yaml"
    backup = {"name": "nightly", "holds": "dataset", "expires_days": 30}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "backups": [backup]}))
    git.commit(clinic.root, ["policy.yaml"], "Declare a backup")


@pytest.fixture
def holding(clinic, monkeypatch):
    """Make the flow's next stage of a name begin with a ticket put on hold."""

    def before(stage: str, ticket: str) -> None:
        original = getattr(flow, stage)

        def held(batch_id):
            if clinic.state().tickets.get(ticket).state != "on_hold":
                assert clinic("ticket", "hold", ticket, "--reason", "a claim in court") == 0
            return original(batch_id)

        held.__name__ = stage
        monkeypatch.setattr(flow, stage, held)

    yield before
    monkeypatch.undo()


def left(clinic, batch) -> int:
    """Objects in cache and remote that hold the batch's partitions as they were."""
    repo = access.repository(clinic.state())
    now = repo.manifest(repo.current().md5)
    stale = {
        md5
        for version in repo.history()
        for name, md5 in repo.manifest(version).items()
        if name in batch.data["partitions"] and md5 not in now.values()
    }
    stores = (clinic.root / ".dvc" / "cache", clinic.root / ".expunge" / "dvc-remote")
    there = {path.parent.name + path.name for store in stores for path in store.rglob("files/md5/??/*")}
    return len(stale & there)


def purged(clinic) -> list[int]:
    registry = access.registry(clinic.state())
    return [n for n in range(1, registry.next_version()) if PURGED_TAG in registry.get(n).tags]


def test_a_hold_after_removal_stops_every_purge_until_it_is_released(clinic, holding, monkeypatch, capsys):
    state = clinic.state()
    held, other = clinic.ticket("person-00005-x"), clinic.ticket("person-00011-x")
    holding("certify", held)
    assert clinic("run") == 0
    monkeypatch.undo()
    (batch,) = clinic.batches()
    assert (
        f"{batch.batch_id}: registered, waits: purge does not begin while ticket {held}"
        in capsys.readouterr().out
    )
    assert [state.tickets.get(t).state for t in (held, other)] == ["on_hold", "registered"]
    assert access.registry(state).champion().version == 2  # the model has unlearned both
    assert (purged(clinic), left(clinic, batch) > 0) == ([], True)
    assert not left_to_nobody(state)  # no worker asks for a sweep again and again
    assert clinic("run", "--json") == 0
    (reported,) = json.loads(capsys.readouterr().out)
    assert (reported["batch_id"], reported["error"]) == (batch.batch_id, None)
    assert held in reported["waiting"]
    assert clinic.batches() == [batch]

    third = clinic.ticket("person-00017-x")
    assert clinic("run") == 0
    assert state.tickets.get(third).state == "registered"  # its superseded weights saw the held person too
    assert (purged(clinic), left(clinic, batch) > 0) == ([], True)

    due = state.tickets.get(held).due_at
    capsys.readouterr()
    assert clinic("ticket", "receipt", other) == 2
    assert "a closed ticket, got registered" in capsys.readouterr().err
    assert clinic("ticket", "release", held) == 0
    assert state.tickets.get(held).due_at > due
    assert left_to_nobody(state)
    assert clinic("run") == 0
    assert [state.tickets.get(t).state for t in (held, other, third)] == ["closed"] * 3
    assert (purged(clinic), left(clinic, batch)) == ([1, 2], 0)
    assert clinic("purge", "verify", "--subject", "person-00005-x") == 0
    assert [clinic("certificate", "verify", c["certificate_id"]) for c in clinic.certificates()] == [0, 0]


def test_the_receipt_of_a_closed_ticket(clinic, tmp_path, capsys):
    state, page = clinic.state(), tmp_path / "receipt.html"
    batch, ledger = clinic.batches()[0], clinic.state().ledger.entries(clinic.state().lineage)
    (ticket, *_) = batch.tickets
    capsys.readouterr()
    assert clinic("ticket", "receipt", ticket, "--json", "--html", str(page)) == 0
    printed = capsys.readouterr().out
    receipt = json.loads(printed)
    (purge,) = [entry for entry in ledger if entry.kind == "purge" and entry.batch == batch.batch_id]
    assert (receipt["purged"]["at"], receipt["purged"]["ledger_entry"]) == (purge.issued_at, purge.sequence)
    assert receipt["certificate_id"] == batch.data["certificate_id"]
    assert receipt["pseudonym"] == state.tickets.get(ticket).pseudonym
    assert receipt["scan"]["clean"]
    assert sum(item["files"] for item in receipt["scan"]["searched"]) > 10
    forgotten = datetime.fromisoformat(purge.issued_at) + timedelta(days=30)
    assert receipt["backups"] == [
        {"name": "nightly", "holds": "dataset", "expired_by": forgotten.date().isoformat()}
    ]
    moments = [receipt[name] for name in ("received_at", "removed_at", "closed_at")]
    assert moments == sorted(moments)
    assert ticket in page.read_text()
    assert "person-0" not in printed + page.read_text()
    assert clinic("ticket", "receipt", ticket) == 0
    assert "Not covered" in capsys.readouterr().out
    assert clinic("ticket", "receipt", ticket, "--html", str(tmp_path / "no" / "x.html")) == 2


def test_a_signed_receipt_is_verified_alone(clinic, tmp_path, capsys):
    ticket, signed, public = (
        clinic.batches()[0].tickets[0],
        tmp_path / "signed.json",
        tmp_path / "public.json",
    )
    assert clinic("keys", "rotate", "--overlap-days", "0") == 0  # after the ticket closed
    assert clinic("ticket", "receipt", ticket, "--signed", str(signed), "--pdf", str(tmp_path / "r.pdf")) == 0
    assert clinic("keys", "export-public", str(public)) == 0
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    assert invoke(["ticket", "verify-receipt", str(signed), "--key", str(public), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["verified"], printed["receipt"]["ticket_id"]) == (True, ticket)
    envelope = json.loads(signed.read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["predicate"]["receipt"]["closed_at"] = "2020-01-01T00:00:00+00:00"
    envelope["payload"] = base64.b64encode(canonical_bytes(payload)).decode()
    signed.write_text(json.dumps(envelope))
    assert invoke(["ticket", "verify-receipt", str(signed), "--key", str(public)]) == 1
    assert "signature does not match" in " ".join(capsys.readouterr().out.split())
    for spoiled in ("[]", "x"):
        signed.write_text(spoiled)
        assert invoke(["ticket", "verify-receipt", str(signed), "--key", str(public)]) in (1, 2)


def test_a_hold_before_removal_leaves_the_data_as_it_is_and_others_go_on(
    clinic, holding, monkeypatch, capsys
):
    state = clinic.state()
    before = access.repository(state).current()
    held = clinic.ticket("person-00023-x")
    holding("remove", held)
    assert clinic("run") == 0
    monkeypatch.undo()
    waiting = clinic.batches()[-1]
    assert f"{waiting.batch_id}: planned, waits: removal does not begin" in capsys.readouterr().out
    assert access.repository(state).current() == before
    assert not left_to_nobody(state)
    overtaking = clinic.ticket("person-00029-x")
    assert clinic("run") == 0
    assert [state.tickets.get(t).state for t in (held, overtaking)] == ["on_hold", "closed"]
    assert clinic("ticket", "release", held) == 0
    assert clinic("run") == 0
    assert state.tickets.get(held).state == "closed"
    assert clinic.batches()[-2].data["parent_version"] == access.registry(state).champion().version - 1
    assert [clinic("certificate", "verify", c["certificate_id"]) for c in clinic.certificates()] == [0] * 4


def test_a_hold_among_several_takes_its_ticket_out_of_the_batch(clinic, holding, monkeypatch):
    state = clinic.state()
    held, other = clinic.ticket("person-00035-x"), clinic.ticket("person-00041-x")
    holding("remove", held)
    assert clinic("run") == 0
    monkeypatch.undo()
    assert [state.tickets.get(t).state for t in (held, other)] == ["on_hold", "closed"]
    batch, certificate = clinic.batches()[-1], clinic.certificates()[-1]
    assert (batch.tickets, certificate["forget"]["subjects"]) == ((other,), 1)
    assert access.repository(state).current().md5 == certificate["dataset"]["after"]["md5"]
    assert clinic("ticket", "release", held) == 0
    assert clinic("run") == 0
    assert state.tickets.get(held).state == "closed"
