import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from expunge.datasets.catalogue import load
from expunge.datasets.preprocessing import encode, fit, synthetic_example
from expunge.errors import DatasetError, PolicyError
from expunge.evidence.model_files import (
    MODEL_FILE,
    MODEL_FILES,
    WEIGHTS_FILE,
    file_digest,
    model_digest,
    read_weights,
)
from expunge.models.serving import SavedModel, load_model, save_model
from expunge.models.spec import ModelSpec
from expunge.models.training import project, train
from expunge.models.zoo import build
from expunge.settings import Params


def spec(name="linearized-mlp", in_features=30, **training):
    params = Params.model_validate(
        {
            "model": {"name": name, "hyperparameters": {"hidden": [5], "activation": "tanh"}},
            "training": {"epochs": 3, **training},
        }
    )
    return ModelSpec.from_params(params, in_features=in_features, classes=2)


@pytest.fixture(scope="module")
def patients():
    loaded = load("breast-cancer")
    rows = loaded.frame[loaded.frame["split"] == "train"]
    preprocessing = fit(rows, loaded.contract)
    encoded = encode(rows, preprocessing)
    return loaded, preprocessing, torch.from_numpy(encoded.features), torch.from_numpy(encoded.labels)


@pytest.mark.parametrize("name", ["linearized-mlp", "mlp"])
def test_training_is_repeatable_and_independent_of_the_global_seed(name, patients):
    _, _, features, labels = patients
    torch.manual_seed(1)
    one = train(spec(name), features, labels).weights
    torch.manual_seed(2)
    assert torch.equal(one, train(spec(name), features, labels).weights)


def test_initial_weights_depend_on_the_seed_alone():
    assert torch.equal(build(spec()).initial(), build(spec()).initial())
    assert not torch.equal(build(spec()).initial(), build(spec(seed=1)).initial())


def test_a_linearised_model_is_within_its_tolerance(patients):
    _, _, features, labels = patients
    trained = train(spec(gradient_tolerance=1e-9), features, labels)
    assert trained.gradient_norm <= 1e-9


def test_deep_models_stay_in_the_ball(patients):
    _, _, features, labels = patients
    weights = train(spec("mlp", norm_bound=1.5, learning_rate=0.05), features, labels).weights
    assert float(weights.norm()) <= 1.5 * (1 + 1e-12)


def test_projection_is_the_nearest_point():
    assert_close(project(torch.tensor([3.0, 4.0]), 1.0), torch.tensor([0.6, 0.8]))
    inside = torch.tensor([0.1, 0.2])
    assert torch.equal(project(inside, 1.0), inside)


def test_a_saved_model_predicts_as_before_and_holds_no_row(patients, tmp_path):
    loaded, preprocessing, features, labels = patients
    trained = train(spec(), features, labels)
    model = SavedModel(spec(), preprocessing, trained.weights, trained.origin)
    digest = save_model(model, tmp_path / "m")
    again = load_model(tmp_path / "m")
    test = loaded.frame[loaded.frame["split"] == "test"]
    assert_close(again.logits(test), model.logits(test), rtol=0, atol=0)
    assert model_digest(tmp_path / "m") == digest
    predicted = again.predict(test)
    assert (predicted["label"] == test["label"]).mean() > 0.9
    assert_close(
        torch.from_numpy(predicted[["p_malignant", "p_benign"]].to_numpy()).sum(1),
        torch.ones(len(test)).double(),
    )
    assert len(synthetic_example(preprocessing)) == 1
    content = json.loads((tmp_path / "m" / "model.json").read_text())
    assert set(content) == {"version", "nonce", "spec", "preprocessing", "parts"}  # nothing of the training


def test_the_same_model_saved_twice_has_other_digests_and_one_of_an_earlier_release_is_read(
    patients, tmp_path
):
    _, preprocessing, features, labels = patients
    trained = train(spec(), features, labels)
    model = SavedModel(spec(), preprocessing, trained.weights, trained.origin)
    assert save_model(model, tmp_path / "one") != save_model(model, tmp_path / "two")
    for name in MODEL_FILES:  # the signed statement names each file's digest
        assert file_digest(tmp_path / "one" / name) != file_digest(tmp_path / "two" / name)
    nonces = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert torch.equal(torch.from_numpy(np.concatenate(list(read_weights(folder)))), trained.weights)
        with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
            nonces |= {file.metadata()["nonce"], json.loads((folder / MODEL_FILE).read_text())["nonce"]}
    assert len(nonces) == 4
    content = json.loads((tmp_path / "one" / MODEL_FILE).read_text())
    del content["nonce"]
    (tmp_path / "one" / MODEL_FILE).write_text(json.dumps({**content, "version": 1, "training": {}}))
    save_file({"weights": model.weights, "origin": model.origin}, str(tmp_path / "one" / WEIGHTS_FILE))
    assert torch.equal(load_model(tmp_path / "one").weights, model.weights)


def test_one_changed_byte_changes_the_digest(patients, tmp_path):
    _, preprocessing, features, labels = patients
    trained = train(spec(), features, labels)
    model = SavedModel(spec(), preprocessing, trained.weights, trained.origin)
    before = save_model(model, tmp_path / "m")
    path = tmp_path / "m" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert model_digest(tmp_path / "m") != before


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(DatasetError, match="cannot read the model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "resnet18"}, "unknown model"),
        (
            {"name": "linearized-mlp", "hyperparameters": {"hidden": [4], "activation": "sin"}},
            "unknown activation",
        ),
        ({"name": "json:dumps", "hyperparameters": {}}, "cannot make the model"),
    ],
)
def test_models_that_cannot_be_made(model, message):
    params = Params.model_validate({"model": model})
    with pytest.raises(PolicyError, match=message):
        build(ModelSpec.from_params(params, in_features=2, classes=2))


def test_a_network_that_cannot_compute_on_the_data_is_refused_in_one_sentence(tmp_path):
    code = "from torch import nn\n\n\nclass Two(nn.Module):\n    def __init__(self, o):\n        super().__init__()\n"
    code += "        self.o = nn.Linear(3, o)\n\n"
    code += "    def forward(self, a{more}):\n        return self.o(a)[:, :{width}]\n\n\n"
    code += "def make(in_features, out_features):\n    return Two(out_features)\n"
    features, labels = torch.ones(4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    wrong = {"two": (", b", 2, "TypeError"), "narrow": ("", 1, r"outputs of shape \(2, 1\)")}
    for name, (more, width, message) in wrong.items():
        (tmp_path / f"{name}.py").write_text(code.format(more=more, width=width))
        for linearize in (True, False):
            params = Params.model_validate({"model": {"name": f"{name}:make", "linearize": linearize}})
            made = ModelSpec.from_params(params, in_features=3, classes=2)
            with pytest.raises(PolicyError, match=f"does not compute on the data.*{message}"):
                train(made, features, labels, search=tmp_path)
