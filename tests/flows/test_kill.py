"""SIGKILL at every step of one batch and at a hundred random instants, each continued by `expunge run`."""

import json
import random
import shutil
import time

import pyarrow.parquet as pq
import pytest

from expunge.datasets.partitions import remove_subjects
from expunge.evidence.ledger_file import parse_ledger
from expunge.evidence.verify_ledger import verify_ledger
from tasks.adapters import access, git
from tasks.verification import check_alias, check_ledger
from tests.conftest import Expunge, make_workspace
from tests.flows.killer import KILLED, run

ADVANCE = "expunge.tickets.batches:BatchStore.advance"
STAGES = [
    ("expunge.datasets.partitions:os.replace", "before"),  # a partition is written and not in place
    (ADVANCE, "before"),  # version committed, stage not recorded
    (ADVANCE, "after"),  # removed
    ("expunge.tickets.batches:BatchStore.append_draw", "after"),  # draw counted, release lost
    ("tasks.unlearning:save_model", "after"),  # half a release in a scratch folder
    (ADVANCE, "after"),  # unlearned
    (ADVANCE, "after"),  # validated
    ("expunge.evidence.store:LedgerStore.append", "after"),  # ledger entry chained, stage not recorded
    ("tasks.certification:write_signed", "before"),  # signed and recorded, not among the evidence yet
    (ADVANCE, "after"),  # certified
    ("mlflow:log_params", "after"),  # an MLflow run left running
    ("mlflow:MlflowClient.create_model_version", "after"),  # a version without the alias
    ("tasks.adapters.registry:Registry.promote", "before"),  # its move is in the ledger, and was not made
    (ADVANCE, "after"),  # registered
    ("tasks.ledger:publish_purge", "before"),  # in the ledger, not beside the certificate yet
    (ADVANCE, "after"),  # purged
    (ADVANCE, "before"),  # ids erased, the batch not closed
]
BETWEEN = [
    ("tasks.adapters.versioning:Repository.track_dataset", "before"),  # rows removed, no version yet
    ("dvc.repo:Repo.push", "before"),  # a version in the cache, not in the remote
    ("tasks.adapters.git:commit", "before"),  # pushed, not committed
    ("tasks.adapters.registry:Registry.download", "after"),  # the parent's weights in a scratch folder
    ("tasks.unlearning:_write", "after"),  # release on disk, stage not recorded
    ("tasks.validation:validate_dataset", "after"),
    ("mlflow:MlflowClient.create_model_version", "before"),  # weights logged, no version
    ("tasks.adapters.registry:Registry.promote", "after"),  # alias moved, stage not recorded
    ("tasks.adapters.registry:Registry.purge_weights", "before"),  # data purged, weights not
    ("tasks.purge:scan_workspace", "before"),
    ("tasks.curvature:rebuild_kept", "before"),  # purged, no curvature kept yet
    ("expunge.tickets.batches:BatchStore.close", "before"),
]
RANDOM_KILLS, SEED = 100, 20240800920
PEOPLE = 240  # some of those batches end before the kill: there must be rows left at the end


def draws_of(workspace: Expunge) -> dict[str, int]:
    return {batch.batch_id: batch.draws for batch in workspace.batches()}


def lift_limits(workspace: Expunge) -> None:
    """More batches than the ledger's default limits admit, on fewer and fewer test rows."""
    policy = workspace.root / "policy.yaml"
    text = policy.read_text(encoding="utf-8")
    for given, wide in [
        ("max_accuracy_drop: 0.02", "max_accuracy_drop: 1.0"),
        ("accumulated_error: 0.01", "accumulated_error: 1.0"),
        ("releases: 100", "releases: 1000"),
    ]:
        assert given in text
        text = text.replace(given, wide)
    policy.write_text(text, encoding="utf-8")
    git.commit(workspace.root, ["policy.yaml"], "Lift the limits")


def check_end_state(clinic: Expunge, people: list[str], before) -> None:
    """What an undisturbed run of the same batches leaves, and nothing else."""
    state, batches = clinic.state(), clinic.batches()
    assert {batch.stage for batch in batches} == {"closed"}
    assert {ticket.state for ticket in state.tickets.select()} == {"closed"}
    assert sum(len(batch.tickets) for batch in batches) == len(people)

    kept = {path.name: path.read_bytes() for path in before.glob("*.parquet")}
    remove_subjects(before, people)
    now = {path.name: path for path in state.workspace.dataset_dir.iterdir()}
    assert set(now) == {path.name for path in before.glob("*.parquet")}
    for path in before.glob("*.parquet"):
        assert pq.read_table(now[path.name]).equals(pq.read_table(path))
        if path.read_bytes() == kept[path.name]:  # nobody left it: not a byte is written anew, nonce included
            assert now[path.name].read_bytes() == kept[path.name]
    repo = access.repository(state)
    assert repo.is_tracked_clean()
    assert git.git(clinic.root, "status", "--porcelain") == ""

    entries = state.ledger.entries(state.lineage)
    assert [entry.kind for entry in entries] == [
        *["opening", "policy", "alias"],
        *["release", "alias", "purge"] * len(batches),
    ]
    assert clinic("ledger", "verify") == 0
    registry = access.registry(state)
    assert registry.champion().version == 1 + len(batches)
    assert registry.next_version() == 2 + len(batches)
    assert [registry.find(batch.batch_id).version for batch in batches] == list(range(2, 2 + len(batches)))
    runs = registry.client.search_runs([registry.client.get_experiment_by_name("expunge").experiment_id])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}

    for certificate, batch in zip(clinic.certificates(), batches, strict=True):
        assert certificate["batch"] == batch.batch_id
        # every draw that may have seen the records is charged, those of killed processes too
        assert certificate["sequential"]["draws"] == batch.draws
        assert certificate["sequential"]["composed_m"] == pytest.approx(
            certificate["error_bound"]["value"] / certificate["sigma"] * batch.draws**0.5
        )
        assert clinic("certificate", "verify", certificate["certificate_id"]) == 0
        beside = clinic.root / ".expunge" / "evidence" / certificate["certificate_id"] / "ledger.json"
        ledger = parse_ledger(json.loads(beside.read_text()))
        assert verify_ledger(ledger, keys=state.signing.keyring()).consistent
        assert (ledger.entries[-1].kind, ledger.entries[-1].batch) == ("purge", batch.batch_id)
    moves = [entry.move for entry in entries if entry.kind == "alias"]
    expected = [(None, 1), *((n, n + 1) for n in range(1, 1 + len(batches)))]
    assert [(move.from_version, move.to_version) for move in moves] == expected
    assert check_ledger.fn() == len(entries)
    assert check_alias.fn() == 1 + len(batches)
    assert clinic("purge", "verify", *(word for person in people for word in ("--subject", person))) == 0

    # the champion's weights, in the registry and where the stages put them; the parents', abandoned runs' are gone
    weights = {path.relative_to(clinic.root).parts[:2] for path in clinic.root.rglob("weights.safetensors")}
    assert weights == {(".expunge", "mlflow"), ("build", "model")}
    assert len(list(clinic.root.rglob("weights.safetensors"))) == 2
    assert not list(clinic.root.glob(".expunge/releases/*"))
    assert not list(clinic.root.glob(".expunge/scratch/*"))
    assert not list(clinic.root.rglob("*.tmp"))
    assert len(list(clinic.root.glob(".expunge/curvature/*"))) == 1


@pytest.mark.parametrize(
    ("kills", "lost_draws"),
    [
        pytest.param(STAGES, 2, id="stages"),  # before anything was written, half written
        pytest.param(BETWEEN, 1, id="between", marks=pytest.mark.slow),  # written, not recorded
    ],
)
def test_a_batch_that_dies_at_any_step_continues(tmp_path, prefect_api, kills, lost_draws):
    clinic = make_workspace(tmp_path / "workspace", tmp_path)
    before = shutil.copytree(clinic.state().workspace.dataset_dir, tmp_path / "before")
    people = ["person-00011-x", "person-00017-x"]
    for person in people:
        clinic.ticket(person)
    for where, when in kills:
        assert run(clinic.root, where=where, when=when) == KILLED, (where, when)
        assert clinic("ledger", "verify") == 0
        if where.endswith(":write_signed"):  # a newer key could not vouch for what is dated before it
            assert clinic("keys", "rotate") == 1
    assert clinic("run") == 0
    check_end_state(clinic, people, before)
    assert list(draws_of(clinic).values()) == [1 + lost_draws]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_hundred_random_kills(tmp_path, prefect_api, record_property):
    clinic = make_workspace(tmp_path / "workspace", tmp_path, people=PEOPLE)
    before = shutil.copytree(clinic.state().workspace.dataset_dir, tmp_path / "before")
    lift_limits(clinic)
    everyone = [f"person-{number:05d}-x" for number in range(PEOPLE)]
    chance = random.Random(SEED)
    chance.shuffle(everyone)
    people = [everyone.pop()]
    clinic.ticket(people[0])
    began = time.monotonic()
    assert run(clinic.root) == 0
    undisturbed = time.monotonic() - began

    killed, stages = 0, []
    while killed < RANDOM_KILLS:
        if not clinic.state().batches.unfinished():
            people.append(everyone.pop())
            clinic.ticket(people[-1])
        ended = run(clinic.root, seconds=chance.uniform(0, undisturbed))
        assert ended in (0, KILLED)
        killed += ended == KILLED
        stages.append(str(clinic.batches()[-1].stage))
        assert clinic("ledger", "verify") == 0
    assert clinic("run") == 0
    check_end_state(clinic, people, before)
    record_property("kills", killed)
    record_property("batches", len(people))
    record_property("stages", {stage: stages.count(stage) for stage in sorted(set(stages))})
    record_property("lost_draws", sum(draws_of(clinic).values()) - len(people))
    assert len(set(stages)) >= 6  # the kills were spread over the batch
