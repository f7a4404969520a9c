"""Data that change daily: rows come in, the model is trained again, people leave; one ledger tells of it all."""

import json

import pandas as pd
import pytest

from expunge.datasets.partitions import read_dataset
from expunge.evidence.certificate import parse_certificate
from expunge.evidence.scope import NOBODY
from expunge.evidence.verify import verify_certificate
from tasks.adapters import access
from tests.conftest import CONTRACT, clinic_rows, make_workspace
from tests.flows.killer import KILLED, run

PEOPLE = 80
LEFT, BOB = "person-00005-x", "person-00011-x"


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, prefect_api):
    """Somebody has left, with noise; then three people come, and further rows of those who are there."""
    tmp = tmp_path_factory.mktemp("again")
    made = make_workspace(tmp / "workspace", tmp, own_model=False, people=PEOPLE)
    made.ticket(LEFT)
    assert made("run") == 0
    folder = tmp / "daily"
    folder.mkdir()
    (folder / "contract.yaml").write_text(CONTRACT)
    rows = clinic_rows(PEOPLE + 3)
    further = rows[rows.person == BOB].assign(age=44.5)
    pd.concat([rows, further]).to_csv(folder / "v.csv", index=False)
    assert made("data", "import", str(folder), "--append") == 0
    return made


@pytest.fixture(scope="module")
def trained(clinic):
    """Trained again: killed twice on the way, and repeated."""
    command = ["train", "--again"]
    for where in ("expunge.evidence.store:LedgerStore.append", "tasks.adapters.registry:Registry.promote"):
        assert run(clinic.root, where=where, when="after", command=command) == KILLED
    assert clinic("train", "--again") == 0
    return clinic


def test_it_is_an_exact_release_of_the_same_ledger_whose_account_starts_anew(trained):
    state = trained.state()
    entries = state.ledger.entries(state.lineage)
    releases = [entry for entry in entries if entry.kind in ("opening", "release", "retraining")]
    assert [entry.kind for entry in releases] == ["opening", "release", "retraining"]
    assert releases[1].step == 1
    last = releases[2]
    assert (last.step, last.accumulated_error, last.epsilon, last.records_removed) == (0, 0, 0, 0)
    repo, registry = access.repository(state), access.registry(state)
    assert last.dataset_md5 == repo.current().md5
    assert registry.champion().version == 3
    frame = read_dataset(state.workspace.dataset_dir)
    certificate = trained.certificates()[-1]
    assert certificate["retain"]["records"] == int((frame["split"] == "train").sum())
    assert {f"person-{number:05d}-x" for number in range(PEOPLE, PEOPLE + 3)} <= set(frame["subject_id"])
    assert LEFT not in set(frame["subject_id"])
    assert trained("ledger", "verify") == 0
    assert {batch.stage for batch in state.batches.every()} == {"closed"}
    assert registry.weights_size(2) is None  # superseded, and purged


def test_its_certificate_says_first_that_nobody_was_removed(trained):
    certificate = trained.certificates()[-1]
    assert certificate["forget"] == {"records": 0, "subjects": 0}
    assert certificate["guarantee"] == "exact"
    assert certificate["scope"][0] == NOBODY
    assert certificate["tickets"] == []
    assert trained("certificate", "verify", certificate["certificate_id"]) == 0
    page = (
        trained.state().workspace.evidence_dir / certificate["certificate_id"] / "certificate.html"
    ).read_text()
    assert "Nobody was removed" in page
    for forged in (
        {"scope": certificate["scope"][1:]},
        {"guarantee": "unconditional"},
        {"forget": {"records": 2, "subjects": 0}},
    ):
        changed = parse_certificate({**certificate, **forged})
        assert any("nobody" in finding for finding in verify_certificate(changed).findings)


def test_who_leaves_then_leaves_as_before(trained, capsys):
    trained.ticket(BOB)
    capsys.readouterr()
    assert trained("run", "--json") == 0
    (batch,) = json.loads(capsys.readouterr().out)
    assert batch["records"] > 0
    assert batch["guarantee"] != "exact"
    assert trained.certificates()[-1]["sequential"]["step"] == 1


def test_an_unfinished_batch_comes_first_and_policy_must_admit_it(trained, capsys):
    state = trained.state()
    person = "person-00023-x"
    trained.ticket(person)
    state.batches.open_batch([ticket.ticket_id for ticket in state.tickets.due_for_batch()])
    capsys.readouterr()
    assert trained("train", "--again") == 1
    assert "unfinished" in capsys.readouterr().err
    assert not [batch for batch in state.batches.unfinished() if batch.trains]
    policy = trained.root / "policy.yaml"
    text = policy.read_text()
    policy.write_text(text.replace("[exact, unconditional, convex]", "[convex]"))
    assert trained("train", "--again") == 2
    assert "exact among admit.classes" in capsys.readouterr().err
    policy.write_text(text)
