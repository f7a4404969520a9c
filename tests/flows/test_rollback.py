"""Rollback to the parent before purge: the model goes back, data does not, and both draws are charged."""

import json
from contextlib import contextmanager

import pytest

from expunge.datasets.partitions import remove_subjects
from expunge.errors import RefusedError, VerificationError
from expunge.evidence.ledger_file import parse_ledger
from expunge.privacy.accountant import compose_m
from expunge.privacy.gaussian import gaussian_epsilon
from expunge.tickets.rollback import roll_back as record_rollback
from tasks.adapters import access, git
from tasks.adapters.versioning import DATASET_FILE
from tasks.certification import certify
from tasks.ledger import record_move
from tasks.validation import validate
from tasks.verification import check_alias, check_certificates
from tests.flows.test_pipeline import policy

FIRST, SECOND = "person-00005-x", "person-00011-x"


@pytest.fixture(scope="module")
def waiting(clinic):
    """A batch of two that serves as version 2, and is not purged because of a hold."""
    policy(clinic, gates={"max_accuracy_drop": 0.5})
    tickets = [clinic.ticket(FIRST), clinic.ticket(SECOND)]
    (batch_id,) = {clinic.state().batches.open_batch(tickets).batch_id}
    clinic.state().holds.begin(batch_id, "removal")
    assert clinic("ticket", "hold", tickets[0], "--reason", "a claim") == 0
    assert clinic("run") == 0
    clinic.held, clinic.other = tickets
    return clinic


def data_of(clinic):
    """Everything that may bring a row back: versions, manifests, the remote, the folder itself."""
    repo, root = access.repository(clinic.state()), clinic.root
    files = [*(root / ".expunge" / "dvc-remote").rglob("*"), *(root / "data").rglob("*")]
    return (
        repo.current().md5,
        {md5: repo.manifest(md5) for md5 in repo.history()},
        {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()},
    )


@contextmanager
def other_dataset(clinic):
    """Somebody stays away from the dataset by hand, for a while; yields its own pointer."""
    state, repo, pointer = clinic.state(), access.repository(clinic.state()), clinic.root / DATASET_FILE
    text = pointer.read_text()
    remove_subjects(state.workspace.dataset_dir, ["person-00017-x"], state.placement)
    repo.track_dataset("By hand")
    yield text
    pointer.write_text(text)
    repo.checkout()
    git.commit(clinic.root, [DATASET_FILE], "Back")


def served(clinic):
    return access.registry(clinic.state()).champion().version


def weights(clinic) -> bytes:
    return (clinic.root / "build" / "model" / "weights.safetensors").read_bytes()


def test_policy_forbids_it_by_default(waiting, capsys):
    before = waiting.batches()
    assert waiting("rollback", "1", "--yes") == 1
    assert "policy allows no rollback" in capsys.readouterr().err
    assert (waiting.batches(), served(waiting)) == (before, 2)
    policy(waiting, retention={"rollback": True})


@pytest.mark.parametrize(
    ("version", "code", "told"),
    [("2", 2, "serves already"), ("7", 2, "no such model version"), ("0", 2, "no such model version")],
)
def test_what_is_no_earlier_version_is_refused(waiting, capsys, version, code, told):
    assert waiting("rollback", version, "--yes") == code
    assert told in capsys.readouterr().err
    assert served(waiting) == 2


def test_nobody_is_asked_with_json(waiting, capsys):
    assert waiting("rollback", "1", "--json") == 2
    assert "--yes" in capsys.readouterr().err
    assert served(waiting) == 2


def test_a_dataset_that_has_changed_is_not_rolled_back_upon(waiting, capsys):
    with other_dataset(waiting):
        before = waiting.batches()
        assert waiting("rollback", "1", "--yes") == 1
        assert "the dataset has changed under batch" in capsys.readouterr().err
        assert (waiting.batches(), served(waiting)) == (before, 2)


def test_the_model_goes_back_and_the_data_does_not(waiting, capsys):
    curvature = waiting.state().workspace.curvature_dir
    assert list(curvature.iterdir())  # of the parent
    (certificate,) = waiting.certificates()
    assert waiting("certificate", "verify", certificate["certificate_id"]) == 0
    state, before, second = waiting.state(), data_of(waiting), weights(waiting)
    capsys.readouterr()
    assert waiting("rollback", "1", "--yes", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    (batch,) = waiting.batches()
    assert printed == {
        "version": 1,
        "batch_id": batch.batch_id,
        "stage": "removed",
        "tickets": list(batch.tickets),
    }
    assert data_of(waiting) == before
    assert (served(waiting), weights(waiting) != second) == (1, True)
    assert git.git(waiting.root, "status", "--porcelain", "--untracked-files=no") == ""
    assert [state.tickets.get(t).state for t in (waiting.held, waiting.other)] == ["on_hold", "removed"]
    reason = "version 2 was rolled back to 1; to be unlearned again"
    assert state.tickets.history(waiting.other)[-1]["reason"] == reason
    undone = access.registry(state).get(2)
    assert undone.tags["rolled_back"] == batch.data["rolled_back"][0]["at"]
    model = access.registry(state).client.get_registered_model(state.lineage)
    assert f"**Current: [version 1](#/models/{state.lineage}/versions/1).**" in model.description
    assert f"rolled back at {undone.tags['rolled_back']}" in model.description
    (certificate,) = waiting.certificates()
    assert not curvature.exists()
    assert waiting("certificate", "show", certificate["certificate_id"]) == 0
    assert "ROLLED BACK" in capsys.readouterr().out
    assert waiting("certificate", "verify", certificate["certificate_id"]) == 1
    found = "WRONG: undone: version 2 was rolled back; the version before it served again"
    assert found in capsys.readouterr().out
    assert waiting("certificate", "list") == 0
    assert f"{certificate['certificate_id']}: rolled back" in capsys.readouterr().out
    with pytest.raises(VerificationError, match="undone: version 2"):
        check_certificates()
    assert waiting("rollback", "1", "--yes") == 2  # it serves already


def test_nothing_is_released_from_a_dataset_that_was_changed_under_the_batch(waiting, capsys):
    with other_dataset(waiting) as own:
        (batch,) = waiting.batches()
        assert waiting("run") == 1
        assert "the dataset has changed under batch" in capsys.readouterr().err
        for stage in (validate, certify):
            with pytest.raises(RefusedError, match="the dataset has changed under batch"):
                stage(batch.batch_id)
        (waiting.root / DATASET_FILE).write_text(own)  # the pointer is right, the files are not
        assert waiting("run") == 1
        assert "other files on disk" in capsys.readouterr().err
        (after,) = waiting.batches()
        assert (after.draws, after.failed_stage, served(waiting)) == (batch.draws, "removed", 1)


def test_the_batch_is_unlearned_again_and_both_draws_are_charged(waiting):
    before = data_of(waiting)
    assert waiting("run") == 0  # the hold lasts: it stops before its purge again
    assert data_of(waiting) == before
    (batch,) = waiting.batches()
    first, second = waiting.certificates()
    assert (batch.stage, batch.draws, served(waiting)) == ("registered", 2, 3)
    assert (second["model"]["version"], second["model"]["parent_version"]) == (3, 1)
    assert second["dataset"] == first["dataset"]
    assert second["sequential"]["draws"] == 2
    m = [c["error_bound"]["value"] / c["sigma"] for c in (first, second)]
    assert second["sequential"]["composed_m"] >= compose_m(m) * (1 - 1e-12)
    assert second["epsilon"] >= gaussian_epsilon(second["gaussian_delta"], compose_m(m)) * (1 - 1e-6)
    assert second["epsilon"] > first["epsilon"]
    assert waiting("certificate", "verify", first["certificate_id"]) == 1  # it was undone
    assert waiting("certificate", "verify", second["certificate_id"]) == 0
    assert check_certificates() == 2  # replaced by the second: nothing is wrong any more
    assert waiting("ledger", "verify") == 0
    path = waiting.root / ".expunge" / "evidence" / second["certificate_id"] / "ledger.json"
    named = parse_ledger(json.loads(path.read_text())).entries[-1].details["rolled_back"]
    assert [(n["version"], n["certificate_id"]) for n in named] == [(2, first["certificate_id"])]
    assert waiting.state().tickets.get(waiting.other).certificate_id == second["certificate_id"]


def test_a_smaller_epsilon_would_understate_the_draw_that_was_rolled_back(waiting):
    """Another rollback, killed as soon as it is recorded; then policy asks for less than was spent: retrained."""
    state = waiting.state()
    (batch,) = waiting.batches()
    assert waiting("ledger", "verify") == 0
    record_rollback(state.database, batch.batch_id, "killed here")
    check_alias()
    undone = state.batches.get(batch.batch_id).data["rolled_back"][-1]
    move = {"batch": batch.batch_id, "certificate_id": undone["certificate_id"]}
    record_move(state, 3, 1, **move)  # or killed here: the move is written down, and not made
    check_alias()
    assert served(waiting) == 3
    policy(waiting, release={"epsilon": 0.045})
    assert waiting("run") == 1  # its people are removed: policy does not change under it unseen
    assert "another release.epsilon" in waiting.batches()[0].error
    assert waiting("policy", "accept", batch.batch_id, "--reason", "less is to be spent") == 0
    assert waiting("run") == 0
    (batch,) = waiting.batches()
    third = waiting.certificates()[-1]
    assert (third["guarantee"], third["model"]["version"], third["model"]["parent_version"]) == (
        "exact",
        4,
        1,
    )
    assert batch.draws == 2  # none was wasted on what could not be stated
    assert "does not compose with an earlier draw" in batch.data["refusals"][0]["reason"]
    assert access.registry(state).get(3).tags["rolled_back"]
    release, alias = state.ledger.entries(state.lineage)[-2:]
    assert release.kind == "retraining"
    assert "rolled_back" in release.details
    assert (alias.move.from_version, alias.move.to_version) == (1, 4)


def test_an_exact_training_is_not_undone(waiting, capsys):
    assert waiting("rollback", "1", "--yes") == 1
    assert "an exact training cannot be undone" in capsys.readouterr().err
    assert (served(waiting), waiting.batches()[-1].stage) == (4, "registered")


def test_after_the_purge_there_is_no_way_back(waiting, capsys):
    assert waiting("ticket", "release", waiting.held) == 0
    assert waiting("run") == 0
    registry = access.registry(waiting.state())
    assert all("weights.purged_at" in registry.get(n).tags for n in (1, 2, 3))
    assert len(list((waiting.root / ".expunge" / "mlflow").rglob("weights.safetensors"))) == 1
    for version in ("1", "3"):
        assert waiting("rollback", version, "--yes") == 1
        assert f"the weights of version {version} were purged" in capsys.readouterr().err
    assert served(waiting) == 4
    assert waiting("purge", "verify", "--subject", FIRST) == 0


def test_the_ledger_has_every_move_once(waiting):
    state = waiting.state()
    moves = [entry.move for entry in state.ledger.entries(state.lineage) if entry.kind == "alias"]
    assert [(move.from_version, move.to_version) for move in moves] == [
        (None, 1),
        *[(1, 2), (2, 1)],
        *[(1, 3), (3, 1)],
        (1, 4),
    ]
    assert waiting("ledger", "verify") == 0


def test_a_move_behind_the_ledgers_back_is_found_and_not_built_upon(waiting, capsys):
    state = waiting.state()
    registry = access.registry(state)
    assert waiting("ledger", "verify") == 0
    registry.promote(3)
    try:
        with pytest.raises(VerificationError, match="alias champion is at version 3, and the ledger's entry"):
            check_alias()
        waiting.ticket("person-00023-x")
        before = data_of(waiting)
        assert waiting("run") == 1
        assert "not the one that the ledger names" in " ".join(capsys.readouterr().err.split())
        assert data_of(waiting) == before
    finally:
        registry.promote(4)
    assert waiting("run") == 0
    assert waiting.batches()[-1].stage == "closed"
    assert check_alias() == 5
