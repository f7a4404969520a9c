"""Attacks as gates: what has not unlearned is caught, a sound release passes, and no score is told to the public."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from cli.main import invoke
from expunge.datasets.partitions import read_dataset
from expunge.evidence.annex import open_annex
from expunge.mechanisms.contract import Unlearned
from expunge.mechanisms.convex import Convex
from tasks.adapters import git
from tasks.adapters.prefect_server import _drain
from tasks.attack import MEMBERSHIP_GATE, SERVED_GATE
from tasks.incidents import CONTRADICTED
from tasks.screening import ROWS
from tests.conftest import Expunge
from tests.flows.killer import KILLED, run
from tests.leaks import of_folder, of_git, where

PEOPLE, LEAVE = 120, 8
MANY_ROWS = "person-00091-x"
CODES = [f"c{number:03d}" for number in range(PEOPLE)]
CONTRACT = {
    "version": 1,
    "name": "codes",
    "subject": "person",
    "label": "outcome",
    "classes": ["ill", "well"],
    "split": {"test_fraction": 0.25, "seed": 1},
    "columns": [{"name": "age"}, {"name": "code", "kind": "categorical", "categories": CODES}],
}
LINEAR = '''\
"""A linear layer."""

from torch import nn


def make(in_features, out_features):
    """Softmax regression."""
    return nn.Linear(in_features, out_features)
'''
HONEST = Convex.unlearn


def change(root, **changes):
    path = root / "policy.yaml"
    content = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        content[name] = {**content[name], **value}
    path.write_text(yaml.safe_dump(content))
    git.commit(root, ["policy.yaml"], "Change policy")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect_api):
    """A model that knows its people by heart: outcomes are coins, and each has a code that nobody else has."""
    tmp = tmp_path_factory.mktemp("by-heart")
    source, root = tmp / "source", tmp / "workspace"
    source.mkdir()
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "person": [f"person-{number:05d}-x" for number in range(PEOPLE)],
            "age": rng.normal(40, 10, PEOPLE),
            "code": rng.permutation(CODES),
            "outcome": np.where(rng.random(PEOPLE) < 0.5, "ill", "well"),
        }
    )
    many = frame[frame["person"] == MANY_ROWS]
    pd.concat([frame, many, many]).to_csv(source / "rows.csv", index=False)
    (source / "contract.yaml").write_text(yaml.safe_dump(CONTRACT))
    assert invoke(["init", str(root), "--dataset", str(source)]) == 0
    (root / "own_model.py").write_text(LINEAR, encoding="utf-8")
    text = (root / "params.yaml").read_text(encoding="utf-8")
    text = text.replace(
        "name: linearized-mlp",
        "name: own_model:make\n  public: true\n  source: written for these tests\n  declared_on: '2026-01-31'",
    )
    (root / "params.yaml").write_text(text.replace("{hidden: [32], activation: tanh}", "{}"))
    change(root, gates={"max_accuracy_drop": 1.0}, ledger={"accumulated_error": 1.0})
    expunge = Expunge(root)
    assert expunge("train") == 0
    return expunge


def leave(workspace, count=LEAVE):
    """Tickets of people that the model was trained on."""
    frame = read_dataset(workspace.root / "data" / "dataset")
    known = set(frame.loc[frame["split"] == "train", "subject_id"]) - {MANY_ROWS}
    people = sorted(known)[:count]
    for person in people:
        workspace.ticket(person)
    return people


def key_of(workspace):
    return workspace.root / ".expunge" / "keys" / "auditor.key"


def annex_of(workspace, certificate):
    folder = workspace.root / ".expunge" / "evidence" / certificate["certificate_id"]
    return open_annex((folder / "annex.sealed").read_bytes(), key_of(workspace))


def fake(self, problem):
    """Claims to have unlearned, and gives the parent's weights back."""
    return Unlearned(**{**vars(HONEST(self, problem)), "weights": problem.start})


def certificates_by_batch(workspace):
    return {certificate["batch"]: certificate for certificate in workspace.certificates()}


def newest(workspace):
    batch = workspace.batches()[-1]
    assert batch.stage == "closed"
    return batch, certificates_by_batch(workspace)[batch.batch_id]


def told(workspace, capfd, *words):
    """What a command prints as JSON."""
    capfd.readouterr()
    assert workspace(*words, "--json") == 0
    return json.loads(capfd.readouterr().out)


def secrets_of(attacks):
    """Scores with so many digits that they are found nowhere by chance."""
    scores = [person["mean"] for person in attacks["people"]]
    scores += [found["p_value"] for found in attacks["gates"].values()]
    return {repr(score) for score in scores if len(repr(score)) > 14}


def test_a_sound_release_passes_and_no_score_is_public(workspace, capfd):
    leave(workspace)
    assert workspace("run") == 0
    printed = "".join(capfd.readouterr())
    batch, certificate = newest(workspace)
    assert certificate["guarantee"] == "convex"
    gates = {gate["name"]: gate for gate in certificate["validation"]["gates"]}
    assert {MEMBERSHIP_GATE, SERVED_GATE} <= set(gates)
    assert all(gate["passed"] for gate in gates.values())
    attacks = annex_of(workspace, certificate)["attacks"]
    assert attacks["parent"]["auc"] > 0.95  # the attack is strong: it knew them in the parent
    for found in attacks["gates"].values():
        assert not found["alarm"]
        assert found["people"] == LEAVE
    assert {person["person"] for person in attacks["people"]} == set(certificate["tickets"])
    assert len(secrets_of(attacks)) >= LEAVE - 2
    _drain()
    time.sleep(3)  # Prefect's events come in batches
    places = {
        "output": printed.encode(),
        **of_folder(Path(os.environ["PREFECT_HOME"])),
        **of_folder(workspace.root, skip=(".expunge/dvc-remote", ".dvc/cache", "data/dataset")),
        **of_git(workspace.root),
    }
    assert where(certificate["certificate_id"], places)
    for score in secrets_of(attacks):
        assert where(score, places) == []
    name, key = certificate["certificate_id"], ("--annex-key", str(key_of(workspace)))
    assert told(workspace, capfd, "certificate", "annex", name, *key)["attacks"] == attacks
    assert workspace("certificate", "annex", name, *key) == 0
    assert "the parent, for" in capfd.readouterr().out  # the rest is on the next line of the cell
    assert workspace("certificate", "show", name) == 0
    assert "That an attack fails proves nothing" in capfd.readouterr().out
    verified = told(workspace, capfd, "certificate", "verify", name, *key)
    assert "annex: the gates of the certificate are those that the attacks let pass" in verified["checked"]
    assert verified["verified"]
    page = workspace.root / ".expunge" / "evidence" / name / "certificate.html"
    assert "this attack, which asks the model about these people" in page.read_text(encoding="utf-8")
    assert batch.data["attempts"] == {}


def test_a_fake_is_caught_and_its_mechanism_suspect(workspace, monkeypatch, capfd):
    with monkeypatch.context() as patched:
        patched.setattr(Convex, "unlearn", fake)
        leave(workspace)
        assert workspace("run") == 0
    batch, certificate = newest(workspace)
    assert certificate["guarantee"] == "exact"
    assert batch.draws == 1  # the fake's draw stays charged
    assert MEMBERSHIP_GATE not in {gate["name"] for gate in certificate["validation"]["gates"]}
    (note,) = batch.data["refusals"]
    assert note["mechanism"] == "convex"
    assert MEMBERSHIP_GATE in note["reason"]
    assert CONTRADICTED in note["reason"]
    annex = annex_of(workspace, certificate)
    (caught,) = annex["discarded"]
    assert all(found["alarm"] for found in caught["attacks"]["gates"].values())
    assert caught["attacks"]["report"]["epsilon"][0]["contradicts"]
    assert not annex["attacks"]["enforced"]
    assert not any(found["alarm"] for found in annex["attacks"]["gates"].values())
    state = workspace.state()
    (incident,) = [entry for entry in state.ledger.entries(state.lineage) if entry.kind == "incident"]
    assert (incident.version, incident.batch, incident.incident.mechanism) == (3, batch.batch_id, "convex")
    assert set(incident.details) == {"event", "mechanism", "reason", "draws", "clears"}
    assert workspace("ledger", "verify") == 0
    assert workspace("certificate", "verify", certificate["certificate_id"]) == 0
    (suspect,) = [one for one in told(workspace, capfd, "mechanism", "list") if one["suspect"]]
    assert (suspect["mechanism"], suspect["batch"]) == ("convex", batch.batch_id)
    plan = told(workspace, capfd, "plan")
    assert "convex" not in plan["order"]
    assert any("suspect" in one["refusal"] for one in plan["mechanisms"] if one["mechanism"] == "convex")


def test_an_officer_clears_it_with_a_reason(workspace, capfd):
    assert workspace("mechanism", "clear", "retrain", "--reason", "none") == 2
    assert workspace("mechanism", "clear", "no-such", "--reason", "none") == 1
    (person,) = leave(workspace, 1)
    assert workspace("mechanism", "clear", "convex", "--reason", f"{person} asked") == 2
    entry = told(workspace, capfd, "mechanism", "clear", "convex", "--reason", "weights were swapped by hand")
    assert entry["details"]["event"] == "cleared"
    assert workspace("mechanism", "clear", "convex", "--reason", "again") == 2
    assert "convex" in told(workspace, capfd, "plan")["order"]
    assert workspace("ledger", "verify") == 0


def test_the_commands_of_the_documentation(workspace):
    text = (Path(__file__).parents[2] / "docs" / "attack-gates.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"<!-- tested: (\S+) -->\n```\w+\n(.*?)```", text, flags=re.DOTALL))
    assert set(blocks) == {"mechanism", "annex"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks["mechanism"] + blocks["annex"]],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "EXPUNGE_WORKSPACE": str(workspace.root),
            "CERTIFICATE": workspace.certificates()[0]["certificate_id"],
            "ANNEX_KEY": str(key_of(workspace)),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "output-perturbation" in done.stdout
    assert "membership attack as served" in done.stdout


def test_killed_in_the_middle_of_the_attack_it_ends_the_same(workspace):
    leave(workspace, LEAVE - 1)
    assert run(workspace.root, where="tasks.attack:membership") == KILLED
    assert (
        run(workspace.root, where="tasks.validation:replace_file") == KILLED
    )  # the annex is there, the stage not
    assert workspace("run") == 0
    batch, certificate = newest(workspace)
    assert certificate["guarantee"] == "convex"
    assert batch.draws == certificate["sequential"]["draws"] == 1
    assert annex_of(workspace, certificate)["attacks"]["attacked"]
    assert "discarded" not in annex_of(workspace, certificate)
    assert batch.data["scan_report"]["clean"]
    assert not list(workspace.root.glob(".expunge/scratch/*"))
    assert not list(workspace.root.glob(".expunge/releases/*"))
    assert not list(workspace.root.rglob("*.tmp"))
    assert workspace("ledger", "verify") == 0


def test_a_guard_sends_the_batch_to_retraining(workspace):
    change(workspace.root, attacks={"guards": {"max_rows_per_person": 2}})
    workspace.ticket(MANY_ROWS)
    assert workspace("run") == 0
    batch, certificate = newest(workspace)
    assert certificate["guarantee"] == "exact"
    assert batch.data["guards"] == [ROWS]
    assert batch.draws == 0
    assert {"mechanism": "convex", "reason": "a guard struck"} in batch.data["refusals"]


def test_too_few_people_wait_and_a_batch_of_them_is_refused_before_a_row_is_removed(workspace):
    change(workspace.root, attacks={"difference": {"minimum_people": 2}})
    before, batches = len(read_dataset(workspace.root / "data" / "dataset")), len(workspace.batches())
    leave(workspace, 1)
    assert workspace("run") == 0
    assert len(workspace.batches()) == batches
    state = workspace.state()
    state.batches.open_batch(
        [ticket.ticket_id for ticket in state.tickets.due_for_batch()]
    )  # of an earlier release
    assert workspace("run") == 1
    assert "too few people" in workspace.batches()[-1].error
    assert len(read_dataset(workspace.root / "data" / "dataset")) == before
