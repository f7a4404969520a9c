"""Attacks as gates: what has not unlearned is caught, a sound release passes, and no score is told to the public."""

import json

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
from tests.conftest import Expunge

PEOPLE, LEAVE = 120, 8
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
    frame.to_csv(source / "rows.csv", index=False)
    (source / "contract.yaml").write_text(yaml.safe_dump(CONTRACT))
    assert invoke(["init", str(root), "--dataset", str(source)]) == 0
    (root / "own_model.py").write_text(LINEAR, encoding="utf-8")
    text = (root / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("name: linearized-mlp", "name: own_model:make")
    (root / "params.yaml").write_text(text.replace("{hidden: [32], activation: tanh}", "{}"))
    change(root, gates={"max_accuracy_drop": 1.0}, ledger={"accumulated_error": 1.0})
    expunge = Expunge(root)
    assert expunge("train") == 0
    return expunge


def leave(workspace, count=LEAVE):
    """Tickets of people that the model was trained on."""
    frame = read_dataset(workspace.root / "data" / "dataset")
    people = sorted(frame.loc[frame["split"] == "train", "subject_id"])[:count]
    for person in people:
        workspace.ticket(person)


def attacks_in(workspace, certificate):
    folder = workspace.root / ".expunge" / "evidence" / certificate["certificate_id"]
    return open_annex(
        (folder / "annex.sealed").read_bytes(), workspace.root / ".expunge" / "keys" / "auditor.key"
    )


def fake(self, problem):
    """Claims to have unlearned, and gives the parent's weights back."""
    return Unlearned(**{**vars(HONEST(self, problem)), "weights": problem.start})


def test_a_sound_release_passes(workspace):
    leave(workspace)
    assert workspace("run") == 0
    certificate = workspace.certificates()[-1]
    assert certificate["guarantee"] == "convex"
    print(json.dumps(certificate["validation"], indent=1))
    print(
        json.dumps(
            {k: v for k, v in attacks_in(workspace, certificate)["attacks"].items() if k != "report"},
            indent=1,
        )
    )


def test_a_fake_is_caught(workspace, monkeypatch):
    monkeypatch.setattr(Convex, "unlearn", fake)
    leave(workspace)
    assert workspace("run") == 0
    certificate = workspace.certificates()[-1]
    print(json.dumps(certificate["validation"], indent=1), workspace.batches()[-1].data["refusals"])
    print(
        json.dumps(
            {k: v for k, v in attacks_in(workspace, certificate)["attacks"].items() if k != "report"},
            indent=1,
        )
    )
    assert certificate["guarantee"] == "exact"
