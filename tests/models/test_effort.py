"""What a training took: an un-noised function of everybody in it, so it is in no file that a release carries."""

import json
import math
from dataclasses import replace

import pytest
import torch

from expunge.datasets.catalogue import load
from expunge.datasets.preprocessing import encode, fit
from expunge.models.effort import Effort, effort_in_files, effort_path, load_effort, save_effort
from expunge.models.serving import SavedModel, load_model, save_model
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.settings import Params

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def softmax():
    loaded = load("breast-cancer", None)
    rows = loaded.frame[loaded.frame["split"] == "train"]
    params = Params.model_validate({"model": {"name": "softmax", "hyperparameters": {}}})
    return rows, loaded.contract, ModelSpec.from_params(params, in_features=30, classes=2)


def took(rows, contract, spec):
    """A training of these rows, with its preprocessing."""
    preprocessing = fit(rows, contract)
    encoded = encode(rows, preprocessing)
    trained = train(spec, torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels))
    return trained, preprocessing


def test_the_products_of_a_training_tell_whom_it_saw_and_are_in_no_released_file(softmax, tmp_path):
    """The attack: what the released files say of the parent's training is compared with trainings of candidates."""
    rows, contract, spec = softmax
    numeric = [column.name for column in contract.columns]
    with_person, _ = took(rows, contract, spec)
    counts = set()
    for leaves in range(12):  # somebody whose presence the count tells: there are many
        trained, preprocessing = took(rows.drop(rows.index[leaves]), contract, spec)
        counts.add(trained.products)
        moved = rows.copy()
        moved.loc[moved.index[leaves], numeric[0]] *= 1.01
        counts.add(took(moved, contract, spec)[0].products)
    assert counts - {with_person.products}, "the count tells nothing here: the attack is vacuous"
    retrained, preprocessing = took(rows.iloc[1:], contract, spec)
    model = SavedModel(spec, preprocessing, retrained.weights, retrained.origin)
    save_model(model, tmp_path / "m")
    told = json.loads((tmp_path / "m" / "model.json").read_text())
    assert sorted(told) == ["nonce", "parts", "preprocessing", "spec", "version"]
    assert told["version"] == 2
    assert not {"products", "seconds", "records", "training"} & set(_names(told))


def _names(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def test_files_of_version_1_are_read_for_ever_and_their_block_is_not_written_again(softmax, tmp_path):
    rows, contract, spec = softmax
    preprocessing = fit(rows, contract)
    weights = torch.zeros(62, dtype=torch.float64)
    save_model(SavedModel(spec, preprocessing, weights, weights.clone()), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    old = json.loads(path.read_text()) | {
        "version": 1,
        "training": {"seconds": 1.5, "products": 79, "records": 455},
    }
    path.write_text(json.dumps(old))
    assert effort_in_files(tmp_path / "m") == Effort(1.5, 79)
    save_model(load_model(tmp_path / "m"), tmp_path / "again")
    assert "79" not in (tmp_path / "again" / "model.json").read_text().split()
    assert effort_in_files(tmp_path / "again") is None


def test_an_effort_is_kept_by_the_digest_of_its_model(tmp_path):
    assert load_effort(tmp_path / "e", DIGEST) is None
    path = save_effort(tmp_path / "e", DIGEST, Effort(2.0, 9))
    assert path == effort_path(tmp_path / "e", DIGEST)
    assert load_effort(tmp_path / "e", DIGEST) == Effort(2.0, 9)
    assert load_effort(tmp_path / "e", "sha256:" + "cd" * 32) is None
    for damaged in ("", "[]", "{}", '{"seconds": null, "products": 1}'):
        path.write_text(damaged)
        assert load_effort(tmp_path / "e", DIGEST) is None


def test_a_plan_in_trainings_has_the_order_of_a_plan_in_seconds(softmax):
    from expunge.mechanisms.contract import Context
    from expunge.mechanisms.planner import make_plan
    from expunge.settings import Policy

    _, _, spec = softmax
    for linearize in (True, False):
        timed = Context(
            replace(spec, linearize=linearize), Policy(), 62, 7.5, training_products=79, records=455
        )
        untimed = replace(timed, training_seconds=1.0, training_products=0)
        assert timed.timed
        assert not untimed.timed
        ours, theirs = make_plan(timed), make_plan(untimed)
        assert ours.order == theirs.order
        for one, other in zip(ours.assessments, theirs.assessments, strict=True):
            assert math.isclose(one.seconds, 7.5 * other.seconds)
