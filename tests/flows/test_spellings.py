"""A batch in which a search finds people: it says what and whose, others go on, and one command is the way out."""

from pathlib import Path

import pytest
import yaml

from cli.main import invoke
from expunge.datasets.partitions import read_dataset
from expunge.tickets.batches import BatchStage
from tests.conftest import Expunge
from tests.datasets.test_people import dump, email

ONE, OTHER = "user2@example.org", "USER3@EXAMPLE.ORG"
PARAMS = """\
version: 1
model: {name: softmax, hyperparameters: {}}
training: {l2: 1.0e-3, gradient_tolerance: 5.0e-8, kept_rank: 0}
"""


@pytest.fixture
def expunge(tmp_path: Path, prefect_api: str) -> Expunge:
    """A trained workspace of an earlier release: ids as they came, and a contract that says nothing about them."""
    root = tmp_path / "workspace"
    subject = {"column": "person", "normalise": []}
    assert invoke(["init", str(root), "--dataset", str(dump(tmp_path / "dump", email, subject, 60))]) == 0
    path = root / "data" / "contract.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "subject": "person"}))
    (root / "params.yaml").write_text(PARAMS)
    expunge = Expunge(root)
    assert expunge("train") == 0
    return expunge


def test_rows_that_an_earlier_release_left_are_removed_by_tickets_of_their_own(
    expunge: Expunge, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "tasks.removal.require_all_spellings", lambda *_: None
        )  # earlier releases asked nothing
        expunge.ticket(ONE)
        capfd.readouterr()
        assert expunge("run") == 1
    said = capfd.readouterr()
    first = expunge.batches()[0]
    assert (first.stage, first.failed_stage) == (BatchStage.FAILED, BatchStage.REGISTERED)
    for text in ("under other spellings", "column subject_id", f"ticket {first.tickets[0]}", "file-rest"):
        assert text in str(first.error)
    assert "Traceback" not in said.out + said.err
    assert "user2@" not in (said.out + said.err).lower()

    assert expunge("ticket", "file-rest", first.batch_id) == 0
    assert expunge("run") == 0
    assert [batch.stage for batch in expunge.batches()] == [BatchStage.CLOSED] * 2
    left = set(read_dataset(expunge.root / "data" / "dataset")["subject_id"])
    assert not {one for one in left if one.strip().lower() == ONE}
    assert expunge("purge", "verify", "--subject", ONE) == 0


def test_a_file_that_names_people_stops_its_batch_alone(expunge: Expunge) -> None:
    path = expunge.root / "data" / "contract.yaml"
    path.write_text(
        path.read_text().replace("subject: person", "subject: {column: person, normalise: [trim, email]}")
    )
    requests = expunge.root / "t.csv"
    requests.write_text(f"subject\n{ONE}\n")
    assert expunge("ticket", "import", str(requests)) == 0
    assert expunge("run") == 1
    (held,) = expunge.batches()
    assert (held.stage, held.failed_stage) == (BatchStage.FAILED, BatchStage.PLANNED)
    assert "t.csv" in str(held.error)
    expunge.ticket(OTHER)
    assert expunge("run") == 1
    by_stage = {batch.batch_id: batch.stage for batch in expunge.batches()}
    assert by_stage.pop(held.batch_id) is BatchStage.FAILED
    assert list(by_stage.values()) == [BatchStage.CLOSED]
    requests.unlink()
    assert expunge("run") == 0
    assert {batch.stage for batch in expunge.batches()} == {BatchStage.CLOSED}
    assert expunge("purge", "verify") == 0
