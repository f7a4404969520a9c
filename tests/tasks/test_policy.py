"""The policy of a batch: pinned, stated in the ledger, and the same until its certificate."""

from pathlib import Path

import pytest
import yaml

from cli.main import invoke
from expunge.errors import InputError, RefusedError
from expunge.evidence.canonical import digest
from expunge.evidence.ledger import check_ledger, policy_of
from expunge.settings import Policy
from expunge.state import open_state
from expunge.tickets.batches import BatchStage
from expunge.tickets.holds import REMOVAL
from tasks.certification import certify
from tasks.ledger import append
from tasks.policy import accept, pin, record_policy, require_policy
from tasks.removal import remove
from tasks.screening import screen
from tasks.unlearning import unlearn
from tasks.validation import validate
from tests import workspaces

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    made = workspaces.make(tmp_path)
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(made))
    append(open_state(made), kind="opening")
    return made


def change(root, **sections):
    path = root / "policy.yaml"
    content = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}
    path.write_text(yaml.safe_dump(content))
    return open_state(root)


def batch_of(state, person=workspaces.ANN):
    return state.batches.open_batch([state.tickets.submit(person).ticket.ticket_id])


def entries(state):
    return state.ledger.entries(state.lineage)


def policies(state):
    return [entry.policy for entry in entries(state) if entry.kind == "policy"]


def begin(root):
    """A batch whose people have begun to leave, under the first policy."""
    state = open_state(root)
    batch = pin(state, batch_of(state))
    state.holds.begin(batch.batch_id, REMOVAL)
    return state.batches.get(batch.batch_id)


def test_sigma_is_not_chosen_under_a_batch(root):
    """The attack: people are removed, and the noise is chosen then."""
    batch = begin(root)
    changed = change(root, release={"sigma": 1e-4})
    with pytest.raises(RefusedError, match=r"policy.yaml was changed under batch .*another release.sigma"):
        pin(changed, batch)
    with pytest.raises(RefusedError, match="expunge policy accept"):
        require_policy(changed, batch)
    for name, stage in (
        (remove, "planned"),
        (unlearn, "removed"),
        (validate, "unlearned"),
        (certify, "validated"),
    ):
        while changed.batches.get(batch.batch_id).stage != stage:
            order = list(BatchStage)
            now = changed.batches.get(batch.batch_id).stage
            changed.batches.advance(batch.batch_id, order[order.index(now) + 1], release={"draws": 0})
        arguments = (batch.batch_id, "convex") if name is unlearn else (batch.batch_id,)
        with pytest.raises(RefusedError, match=r"policy\.yaml was changed under batch"):
            name.fn(*arguments)
    assert workspaces.ANN in changed.tickets.subject_ids(batch.batch_id)
    assert len(policies(changed)) == 1
    back = change(root, release={"sigma": 0.01})
    assert require_policy(back, batch).data["policy"] == batch.data["policy"]


def test_a_guard_is_not_lifted_while_people_are_screened(root):
    state = open_state(root)
    batch = pin(state, batch_of(state))
    changed = change(root, attacks={"guards": {"max_rows_per_person": None, "max_gradient_factor": None}})
    with pytest.raises(RefusedError, match=r"another attacks.guards.max_gradient_factor"):
        screen.fn(batch.batch_id)
    assert pin(changed, batch).data["policy"] != batch.data["policy"]  # planned anew: nothing was removed


def test_before_the_removal_a_batch_is_planned_under_the_new_policy(root):
    state = open_state(root)
    first = pin(state, batch_of(state))
    assert pin(state, first).data["policy"] == first.data["policy"]
    changed = change(root, release={"sigma": 0.02})
    again = pin(changed, first)
    assert again.data["policy"]["digest"] == digest(changed.policy.guarantee_content())
    old, new = policies(changed)
    assert (old.old, old.replaces) == (None, None)
    assert (new.old, new.new) == (old.new, again.data["policy"]["digest"])
    assert new.content["release"]["sigma"] == 0.02
    assert new.requests_open
    assert check_ledger(entries(changed)) == []


def test_a_policy_that_comes_back_is_stated_again(root):
    state = open_state(root)
    record_policy(state)
    assert record_policy(state) is None
    for sigma in (0.02, 0.01, 0.02, 0.01):
        assert record_policy(change(root, release={"sigma": sigma})) is not None
    stated = policies(state)
    assert [change.content["release"]["sigma"] for change in stated] == [0.01, 0.02, 0.01, 0.02, 0.01]
    assert not any(change.requests_open for change in stated)
    assert check_ledger(entries(state)) == []


def test_what_no_guarantee_depends_on_stops_no_batch(root):
    batch = begin(root)
    changed = change(
        root,
        alarms={"webhook": "https://example.org"},
        batch={"minimum_size": 7},
        purge={"approval": "required"},
        retention={"quarantine_days": 3},
        suppression={"retention_days": 9},
    )
    assert pin(changed, batch).data["policy"] == batch.data["policy"]
    assert record_policy(changed) is None
    with pytest.raises(RefusedError, match=r"purge\.artifact_server"):
        require_policy(change(root, purge={"artifact_server": "trusted"}), batch)


def test_every_section_of_policy_is_in_the_digest_or_named_as_operational():
    """A section that somebody adds is in the digest until it is named here."""
    operational = {
        "batch",
        "retention",
        "alarms",
        "suppression",
        "evidence",
        "backups",
        "regimes",
        "organisation",
    }
    assert set(Policy().guarantee_content()) == set(Policy.model_fields) - operational
    assert set(Policy().guarantee_content()["purge"]) == {"artifact_server"}


def test_an_officer_accepts_a_change_in_the_open(root):
    batch = begin(root)
    state = open_state(root)
    state.batches.record(batch.batch_id, order=["convex"])
    state.batches.fail(batch.batch_id, "policy.yaml was changed")
    with pytest.raises(InputError, match="no change of policy to accept"):
        accept(state, batch.batch_id, "why not")
    assert invoke(["policy", "accept", batch.batch_id, "--reason", workspaces.ANN]) == 2
    changed = change(root, release={"sigma": 0.02})
    assert invoke(["policy", "accept", batch.batch_id, "--reason", "the board said so"]) == 0
    now = changed.batches.get(batch.batch_id)
    assert (now.stage, now.data["order"]) == ("planned", [])
    assert now.data["policy"]["content"]["release"]["sigma"] == 0.02
    assert require_policy(changed, now).data["policy"] == now.data["policy"]
    told = policy_of(entries(changed))
    assert (told.batch, told.policy.accepted) == (batch.batch_id, "the board said so")
    assert check_ledger(entries(changed)) == []


def test_a_release_that_was_made_is_made_anew_under_an_accepted_policy(root):
    batch = begin(root)
    state = open_state(root)
    state.batches.advance(batch.batch_id, BatchStage.REMOVED)
    state.batches.advance(batch.batch_id, BatchStage.UNLEARNED, mechanism="convex")
    place = state.workspace.releases_dir / batch.batch_id
    place.mkdir(parents=True)
    changed = change(root, release={"sigma": 0.02})
    accept(changed, batch.batch_id, "the board said so")
    assert changed.batches.get(batch.batch_id).stage == "removed"
    assert not place.exists()
    changed.batches.advance(batch.batch_id, BatchStage.UNLEARNED, mechanism="convex")
    changed.batches.advance(batch.batch_id, BatchStage.VALIDATED)
    with pytest.raises(RefusedError, match="validated under the policy that is pinned"):
        accept(change(root, release={"sigma": 0.03}), batch.batch_id, "again")


def test_a_batch_of_an_earlier_release_goes_on(root):
    state = open_state(root)
    batch = batch_of(state)
    state.holds.begin(batch.batch_id, REMOVAL)
    batch = pin(state, state.batches.get(batch.batch_id))  # nothing was pinned on it: it is now
    assert batch.data["policy"]["content"] == state.policy.guarantee_content()
    for stage in list(BatchStage)[1:6]:
        if stage is BatchStage.FAILED:
            break
        state.batches.advance(batch.batch_id, stage)
    certified = state.batches.get(batch.batch_id)
    assert pin(change(root, release={"sigma": 9.0}), certified) == certified  # its certificate is issued


def test_no_step_of_a_batch_reads_the_objective_from_params():
    """What is certified comes from the parent model's own description, whatever params.yaml says by then."""
    readers = {
        path.name
        for folder in ("tasks", "flows", "expunge/mechanisms")
        for path in (ROOT / folder).rglob("*.py")
        if any(name in path.read_text() for name in ("params.training", "load_params", "from_params"))
    }
    assert readers == {"training.py", "workspace.py"}  # and `init`, which looks whether a file is in its way
