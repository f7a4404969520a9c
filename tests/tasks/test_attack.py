"""Attacks on a small release, without a workspace: which gates there are, what they say, and what stays sealed."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from expunge.datasets.contract import DatasetContract
from expunge.datasets.preprocessing import encode, fit
from expunge.evidence.canonical import canonical_bytes
from expunge.models.serving import SavedModel
from expunge.models.spec import ModelSpec
from expunge.models.training import train
from expunge.settings import Params, Policy
from tasks import attack as module
from tasks.attack import MEMBERSHIP_GATE, RETAINED_GATE, SERVED_GATE, SHADOW_GATE, attack

PEOPLE, LEAVE, TRAIN = 100, 10, 70
CONTRACT = DatasetContract.model_validate(
    {
        "name": "codes",
        "subject": "person",
        "label": "outcome",
        "classes": ["ill", "well"],
        "columns": [
            {"name": "code", "kind": "categorical", "categories": [f"c{n}" for n in range(PEOPLE)]},
        ],
    }
)
SPEC = ModelSpec.from_params(
    Params.model_validate({"model": {"name": "softmax", "linearize": True, "hyperparameters": {}}}),
    in_features=PEOPLE,
    classes=2,
)


def model_of(frame):
    preprocessing = fit(frame, CONTRACT)
    encoded = encode(frame, preprocessing)
    trained = train(SPEC, torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels))
    return SavedModel(SPEC, preprocessing, trained.weights, trained.origin, {})


@pytest.fixture(scope="module")
def case():
    """Everybody has a code of their own, outcomes are coins: a model knows whom it saw, and no more."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "record_id": range(PEOPLE),
            "subject_id": [f"person-{n}" for n in range(PEOPLE)],
            "code": [f"c{n}" for n in range(PEOPLE)],
            "label": np.where(rng.random(PEOPLE) < 0.5, "ill", "well"),
            "split": np.where(np.arange(PEOPLE) < TRAIN, "train", "test"),
        }
    )
    gone, stays = frame.iloc[:LEAVE], frame.iloc[LEAVE:]
    train_rows = frame[frame["split"] == "train"]
    return SimpleNamespace(
        gone=gone, stays=stays, parent=model_of(train_rows), retrained=model_of(train_rows.iloc[LEAVE:])
    )


def attacked(
    monkeypatch, case, released, *, guarantee="convex", gone=None, stays=None, epsilon=0.05, **attacks
):
    monkeypatch.setattr(module, "_forget_set", lambda state, batch: case.gone if gone is None else gone)
    state = SimpleNamespace(
        policy=Policy.model_validate({"attacks": attacks}),
        pseudonymiser=SimpleNamespace(of=lambda name: f"p-{name}"),
    )
    release = {"guarantee": guarantee, "mechanism": "convex", "epsilon": epsilon, "delta": 1e-6}
    batch = SimpleNamespace(batch_id="b-1", tickets=("t",) * LEAVE, data={"release": release})
    done = attack(state, batch, case.stays if stays is None else stays, released, case.parent)
    canonical_bytes(done.sealed)  # no infinity, no NaN: it can be sealed
    public = json.dumps(done.gates)
    for person in done.sealed.get("people", []):
        assert repr(person["mean"]) not in public
    return done


def test_a_retrained_model_passes_every_gate_and_the_parent_none(monkeypatch, case):
    shadows = {"shadows": {"count": 4}}
    sound = attacked(monkeypatch, case, case.retrained, **shadows)
    assert [gate["name"] for gate in sound.gates] == [MEMBERSHIP_GATE, SERVED_GATE, SHADOW_GATE]
    assert all(gate["passed"] for gate in sound.gates)
    assert not sound.contradicted
    assert sound.sealed["parent"]["auc"] > 0.99
    fake = attacked(monkeypatch, case, case.parent, **shadows)
    assert not any(gate["passed"] for gate in fake.gates)
    assert fake.contradicted
    assert [gate["limit"] for gate in fake.gates] == [gate["limit"] for gate in sound.gates]
    assert "could not fail" not in fake.gates[0]["limit"]
    assert fake.sealed["level"] == pytest.approx(1e-3 / 3)


def test_a_large_certified_epsilon_is_not_contradicted(monkeypatch, case):
    fake = attacked(monkeypatch, case, case.parent, epsilon=60.0)
    assert not any(gate["passed"] for gate in fake.gates)
    assert not fake.contradicted


def test_no_attack_stops_a_retrained_model(monkeypatch, case):
    done = attacked(monkeypatch, case, case.parent, guarantee="exact")
    assert done.gates == []
    assert not done.contradicted
    assert all(found["alarm"] for found in done.sealed["gates"].values())


def test_no_gate_is_named_where_no_attack_was_made(monkeypatch, case):
    """Nobody of them was trained on: a gate that is called passed would claim an attack that nobody made."""
    nobody = attacked(monkeypatch, case, case.retrained, gone=case.gone.iloc[:0])
    assert nobody.gates == []
    assert nobody.sealed["attacked"] is False


def test_a_gate_that_could_not_fail_says_so_by_who_was_trained_on(monkeypatch, case):
    """Ten people ask and one of them was trained on: ten could have failed, one cannot."""
    one = case.gone.iloc[:1]
    rest = case.gone.iloc[1:].assign(split="test")
    done = attacked(monkeypatch, case, case.parent, gone=pd.concat([one, rest]))
    for gate in done.gates:
        assert "1 who leave against" in gate["limit"]
        assert "could not fail with so few" in gate["limit"]


def test_too_few_to_attack_and_too_few_to_fail(monkeypatch, case):
    test = case.stays[case.stays["split"] == "test"]
    few = pd.concat([case.stays[case.stays["split"] == "train"], test.iloc[:3]])
    assert attacked(monkeypatch, case, case.retrained, stays=few).gates == []
    one = attacked(monkeypatch, case, case.parent, gone=case.gone.iloc[:1])
    assert all(gate["passed"] for gate in one.gates)  # one against thirty reaches no p-value below 1/31
    assert attacked(monkeypatch, case, case.parent, population={"enabled": False}).gates == []


def test_a_release_that_is_unusually_unsure_of_them_is_caught(monkeypatch, case):
    """Weights of their codes turned around: wrong where the parent was right, which tells them as well."""
    flipped = case.gone.assign(label=np.where(case.gone["label"] == "ill", "well", "ill"))
    rest = case.stays[case.stays["split"] == "train"]
    over = attacked(monkeypatch, case, model_of(pd.concat([flipped, rest])))
    assert over.sealed["gates"][MEMBERSHIP_GATE]["auc"] < 0.1
    assert not any(gate["passed"] for gate in over.gates)
    assert over.contradicted


def test_a_contradiction_below_the_margin_stops_the_release(monkeypatch, case):
    """A rank test that cannot be, and a difference that policy says does not matter: no alarm, and no release."""
    wide = {"population": {"margin": 0.4999}}
    mixed = pd.concat(
        [case.gone.iloc[:9], case.stays.iloc[-1:].assign(subject_id="person-0b", split="train")]
    )
    done = attacked(monkeypatch, case, case.parent, gone=mixed, stays=case.stays.iloc[:-1], **wide)
    found = done.sealed["gates"][MEMBERSHIP_GATE]
    assert not found["alarm"]
    assert found["contradicts"]
    assert done.contradicted
    assert not any(gate["passed"] for gate in done.gates)


def test_a_retrained_model_certifies_no_epsilon_to_contradict(monkeypatch, case):
    done = attacked(monkeypatch, case, case.parent, guarantee="exact")
    assert all(
        bound["certified"] is None and not bound["contradicts"] for bound in done.sealed["report"]["epsilon"]
    )


def test_people_with_rows_in_both_splits_are_not_compared(monkeypatch, case):
    """Split by row, nobody who was never trained on is like those who were: no gate, and a reason for the auditor."""
    by_row = pd.concat([case.stays, case.stays.iloc[:1].assign(split="test")])
    of_gone = pd.concat([case.gone, case.gone.iloc[:1].assign(split="test")])
    for changes in ({"stays": by_row}, {"gone": of_gone}):
        done = attacked(monkeypatch, case, case.parent, **changes)
        assert done.gates == []
        assert not done.contradicted
        assert "both splits" in done.sealed["why"]


def test_people_who_stay_are_a_gate_where_nobody_who_leaves_was_trained_on(monkeypatch, case):
    limit = {"retained": {"max_auc": 0.8}}
    nobody = attacked(monkeypatch, case, case.retrained, gone=case.gone.iloc[:0], **limit)
    assert nobody.gates == attacked(monkeypatch, case, case.retrained, **limit).gates[-1:]
    assert not nobody.gates[-1]["passed"]


def test_people_who_stay_are_a_gate_only_where_policy_says(monkeypatch, case):
    (gate,) = [
        gate
        for gate in attacked(monkeypatch, case, case.retrained, retained={"max_auc": 0.8}).gates
        if gate["name"] == RETAINED_GATE
    ]
    assert not gate["passed"]


def test_only_so_many_rows_are_looked_at(monkeypatch, case):
    rows = module._sample(pd.concat([case.stays] * 3, ignore_index=True), 100)
    assert 90 <= len(rows) <= 100
    assert (rows["subject_id"].value_counts() == 3).all()  # people come whole


def test_one_person_with_very_many_rows_leaves_room_for_the_others(monkeypatch, case):
    for crowd in range(5):  # wherever in the draw they come
        many = pd.concat([case.stays, *[case.stays.iloc[crowd : crowd + 1]] * 200], ignore_index=True)
        rows = module._sample(many, 60)
        assert len(rows) == 60
        assert many["subject_id"].iloc[crowd] not in set(rows["subject_id"])
