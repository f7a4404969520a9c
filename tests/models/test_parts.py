"""Code, frozen tensors and initial weights of a network of one's own: saved, digested, used, and nobody's rows."""

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from expunge.datasets.contract import read_contract
from expunge.datasets.preprocessing import encode_features, fit
from expunge.errors import CertificateRefusedError, DatasetError, PolicyError, WorkspaceError
from expunge.evidence.model_files import files_of, model_digest
from expunge.models.own_code import numbers_of, read_sources
from expunge.models.parts import Parts
from expunge.models.serving import SavedModel, _load_pyfunc, load_model, save_model, source_for
from expunge.models.spec import ModelSpec, require_declared
from expunge.models.zoo import build, build_module, parts_of
from expunge.residue.model_parts import refuse_rows
from expunge.settings import ModelParams, Params
from tests.conftest import CONTRACT, clinic_rows

BACKBONE = '''\
"""A head on a backbone that lies in a file."""

from pathlib import Path

import torch
from torch import nn

from layers.scaled import Scaled


def make(in_features, out_features):
    backbone = nn.Linear(in_features, 4)
    saved = Path(__file__).parent / "backbone.pt"
    if saved.exists():
        backbone.load_state_dict(torch.load(saved))
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    return nn.Sequential(backbone, Scaled(), nn.Linear(4, out_features))
'''
SCALED = """\
import math

from torch import nn

from . import numbers_here as n


class Scaled(nn.Module):
    def forward(self, x):
        import late

        return math.tau * late.SCALE * n.FACTOR * x.tanh()
"""


@pytest.fixture(scope="module")
def clinic():
    """Rows as a dataset has them, with contract and preprocessing."""
    rows = clinic_rows().rename(columns={"outcome": "label", "person": "subject_id"})
    rows["record_id"], rows["split"] = [f"r{number}" for number in range(len(rows))], "train"
    return rows


@pytest.fixture
def contract(tmp_path):
    (tmp_path / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    return read_contract(tmp_path / "contract.yaml")


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "workspace"
    (folder / "layers").mkdir(parents=True)
    (folder / "backbone_model.py").write_text(BACKBONE)
    (folder / "layers" / "__init__.py").write_text("")
    (folder / "layers" / "scaled.py").write_text(SCALED)
    (folder / "layers" / "numbers_here.py").write_text("FACTOR = 0.5\n")
    (folder / "late.py").write_text("SCALE = 2\n")
    (folder / "unrelated.py").write_text("raise SystemExit\n")
    write_backbone(folder, 1)
    return folder


def write_backbone(folder: Path, seed: int, width: int = 4) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"weight": torch.randn(width, 5, generator=generator), "bias": torch.zeros(width)}
    torch.save(tensors, folder / "backbone.pt")


def spec(name: str, in_features: int = 5, **hyperparameters) -> ModelSpec:
    params = Params.model_validate({"model": {"name": name, "hyperparameters": hyperparameters}})
    return ModelSpec.from_params(params, in_features=in_features, classes=2)


def saved(workspace: Path, contract, clinic, name: str = "backbone_model:make") -> tuple[Path, SavedModel]:
    """A model with some weights, saved."""
    preprocessing = fit(clinic, contract)
    made = spec(name)
    parts = parts_of(made, workspace)
    network = build(made, parts)
    weights = torch.linspace(-1, 1, network.size, dtype=torch.float64)
    model = SavedModel(made, preprocessing, weights, network.initial(), parts)
    save_model(model, workspace / "build" / "model")
    return workspace / "build" / "model", model


def test_code_with_its_local_imports_and_frozen_tensors_are_files_of_the_model(workspace, contract, clinic):
    folder, _ = saved(workspace, contract, clinic)
    code = [
        "backbone_model.py",
        "late.py",
        "layers/__init__.py",
        "layers/numbers_here.py",
        "layers/scaled.py",
    ]
    expected = [f"code/{name}" for name in code] + ["frozen.safetensors", "model.json", "weights.safetensors"]
    assert files_of(folder) == expected
    for name in code:
        assert (folder / "code" / name).read_bytes() == (workspace / name).read_bytes()
    assert set(json.loads((folder / "model.json").read_text())["parts"]) == set(expected[:-2])


def test_a_changed_backbone_changes_no_served_logit(workspace, contract, clinic):
    folder, model = saved(workspace, contract, clinic)
    before, digest = model.logits(clinic), model_digest(folder)
    write_backbone(workspace, 2)
    assert_close(load_model(folder, workspace).logits(clinic), before, rtol=0, atol=0)
    assert_close(_load_pyfunc(str(folder)).logits(clinic), before, rtol=0, atol=0)
    assert model_digest(folder) == digest
    # what the factory makes now is another model, and another digest
    assert saved(workspace, contract, clinic)[1].logits(clinic).sub(before).abs().max() > 0.1
    assert model_digest(folder) != digest


def test_a_backbone_of_another_shape_is_told(workspace, contract, clinic):
    folder, _ = saved(workspace, contract, clinic)
    (workspace / "backbone_model.py").write_text(BACKBONE.replace("4", "3"))
    with pytest.raises(WorkspaceError, match=r"backbone_model\.py is not the code"):
        load_model(folder, workspace)
    parts = load_model(folder).search
    other = Parts(read_sources("backbone_model", workspace), parts.frozen, parts.origin, workspace)
    write_backbone(workspace, 1, width=3)
    with pytest.raises(
        PolicyError, match=r"another network than the one in frozen.safetensors.*\(4, 5\).*\(3, 5\)"
    ):
        build_module(spec("backbone_model:make"), other)


@pytest.mark.parametrize("name", ["frozen.safetensors", "code/late.py", "code/layers/scaled.py"])
def test_tampered_parts_change_the_digest_and_are_not_loaded(name, workspace, contract, clinic):
    folder, _ = saved(workspace, contract, clinic)
    digest = model_digest(folder)
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert model_digest(folder) != digest
    with pytest.raises(DatasetError, match=f"{name} is not the file that was saved"):
        load_model(folder)
    (folder / name).unlink()
    assert model_digest(folder) != digest
    with pytest.raises(DatasetError, match="got no such file"):
        load_model(folder)


def test_code_beside_the_saved_code_is_not_loaded(workspace, contract, clinic):
    folder, _ = saved(workspace, contract, clinic)
    digest = model_digest(folder)
    (folder / "code" / "math.py").write_text("tau = 0\n")
    assert model_digest(folder) != digest
    with pytest.raises(DatasetError, match=r"code/math\.py is not the file that was saved"):
        load_model(folder)


@pytest.mark.parametrize("name", ["late.py", "layers/scaled.py"])
def test_the_pipeline_refuses_other_code_and_serving_runs_the_saved_one(
    name, workspace, contract, clinic, monkeypatch
):
    folder, model = saved(workspace, contract, clinic)
    before = model.logits(clinic)
    (workspace / name).write_text("SCALE = 5\n")
    with pytest.raises(WorkspaceError, match=f"{name} is not the code that the model was made with"):
        load_model(folder, workspace)
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.chdir(workspace)
    assert_close(_load_pyfunc(str(folder)).logits(clinic), before, rtol=0, atol=0)
    assert "late" not in sys.modules
    assert "backbone_model" not in sys.modules


def test_the_same_name_in_two_workspaces_is_two_models(tmp_path):
    made = {}
    for name, value in (("one", "1.0"), ("two", "2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(
            "from torch import nn\n\n\ndef make(in_features, out_features):\n"
            f"    layer = nn.Linear(in_features, out_features)\n    nn.init.constant_(layer.weight, {value})\n"
            "    return layer\n"
        )
        made[name] = build(spec("net:make", 3), tmp_path / name).initial()[0].item()
    assert made == {"one": 1.0, "two": 2.0}


def test_parts_are_made_anew_for_other_widths_alone(workspace, contract, clinic):
    folder, _ = saved(workspace, contract, clinic)
    parent = load_model(folder, workspace)
    write_backbone(workspace, 3)
    assert source_for(parent, parent.spec) is parent.search
    anew = source_for(parent, spec("backbone_model:make", 6))
    assert anew.code == parent.search.code
    assert not anew.whole
    assert_close(
        build_module(parent.spec, parent.search)[0].weight, parent.search.frozen["0.weight"], rtol=0, atol=0
    )


def test_features_of_the_head_are_saved_and_used(contract, clinic, tmp_path):
    made = spec("head", width=7)
    network = build(made)
    weights = torch.linspace(-1, 1, network.size, dtype=torch.float64)
    model = SavedModel(made, fit(clinic, contract), weights, network.initial())
    save_model(model, tmp_path / "m")
    assert files_of(tmp_path / "m") == ["frozen.safetensors", "model.json", "weights.safetensors"]
    again = load_model(tmp_path / "m")
    assert_close(again.logits(clinic), model.logits(clinic), rtol=0, atol=0)
    assert_close(again.search.frozen["0.weight"], build_module(made)[0].weight, rtol=0, atol=0)
    moved = Parts(frozen={**again.search.frozen, "0.weight": torch.zeros(7, 5)}, origin=again.origin)
    assert not build_module(made, moved)[0].weight.any()


def test_a_module_that_no_digest_could_name_is_refused(contract, clinic, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\nimport größe\n\n\ndef make(in_features, out_features):\n"
        "    return nn.Linear(in_features, größe.ONE * out_features)\n"
    )
    (tmp_path / "größe.py").write_text("ONE = 1\n")
    with pytest.raises(DatasetError, match=r"größe\.py cannot be saved with the model"):
        saved(tmp_path, contract, clinic, "net:make")


def test_a_model_of_version_1_is_read(workspace, contract, clinic):
    """Its code was not saved: the workspace's is what there is."""
    folder, model = saved(workspace, contract, clinic)
    content = json.loads((folder / "model.json").read_text())
    del content["parts"]
    (folder / "model.json").write_text(json.dumps({**content, "version": 1}))
    (folder / "frozen.safetensors").unlink()
    again = load_model(folder, workspace)
    assert again.search == workspace
    assert_close(again.logits(clinic), model.logits(clinic), rtol=0, atol=0)


RBF = """\
{above}
import torch
from torch import nn


class Distances(nn.Module):
    def __init__(self, landmarks):
        super().__init__()
        {hold}

    def forward(self, x):
        return torch.exp(-torch.cdist(x, self.landmarks.to(x)).square())


def make(in_features, out_features, *, landmarks=None):
    landmarks = torch.tensor({landmarks}, dtype=torch.{dtype})
    return nn.Sequential(Distances(landmarks), nn.Linear(len(landmarks), out_features))
"""
FROZEN = "self.landmarks = nn.Parameter(landmarks, requires_grad=False)"


def landmarks(name: str, contract, clinic):
    """Some rows of the dataset as a model sees them, or as they are."""
    preprocessing = fit(clinic, contract)
    rows = encode_features(clinic.iloc[3:6], preprocessing)
    return preprocessing, (rows.astype(np.float32) if name == "float32" else rows)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ({"landmarks": "read()"}, "0.landmarks"),
        ({"landmarks": "read()", "dtype": "float32"}, "0.landmarks"),
        (
            {"landmarks": "read().T.copy()", "hold": FROZEN.replace("(landmarks,", "(landmarks.T,")},
            "0.landmarks",
        ),
        ({"landmarks": "read()", "hold": "self.landmarks = nn.Parameter(landmarks)"}, "initial weights"),
        ({"landmarks": "{rows}"}, "rbf.py"),
        ({"landmarks": "landmarks"}, "0.landmarks, model.hyperparameters of params.yaml"),
    ],
    ids=["frozen", "single", "transposed", "trainable", "code", "hyperparameters"],
)
def test_a_layer_that_holds_training_rows_is_refused(case, told, contract, clinic, tmp_path):
    preprocessing, rows = landmarks(case.get("dtype", ""), contract, clinic)
    np.save(tmp_path / "rows.npy", rows)
    case = {"hold": FROZEN, "dtype": "float64", **case}
    case["landmarks"] = case["landmarks"].replace("{rows}", repr(rows.tolist()))
    above = f"import numpy as np\n\ndef read():\n    return np.load({str(tmp_path / 'rows.npy')!r})\n\n"
    (tmp_path / "rbf.py").write_text(RBF.format(above=above, **case))
    given = {"landmarks": rows.tolist()} if case["landmarks"] == "landmarks" else {}
    made = spec("rbf:make", **given)
    parts = parts_of(made, tmp_path)
    with pytest.raises(CertificateRefusedError, match=f"holds rows of the dataset.*{told}"):
        refuse_rows(parts, made.hyperparameters, clinic, contract, preprocessing)


def test_half_precision_is_no_fault(contract, clinic):
    preprocessing, rows = landmarks("", contract, clinic)
    frozen = {"a": torch.tensor(rows).bfloat16(), "b": torch.tensor(rows).half(), "c": torch.tensor(3)}
    refuse_rows(Parts({"net.py": b""}, frozen), {}, clinic, contract, preprocessing)


def test_a_layer_of_nobodys_points_is_not_refused(contract, clinic, tmp_path):
    preprocessing, rows = landmarks("", contract, clinic)
    (tmp_path / "rbf.py").write_text(
        RBF.format(above="", hold=FROZEN, dtype="float64", landmarks=repr((rows + 1e-9).tolist()))
    )
    made = spec("rbf:make")
    refuse_rows(parts_of(made, tmp_path), {}, clinic, contract, preprocessing)


def test_rows_as_they_are_in_the_dataset(tmp_path):
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 6)), columns=list("abcdef"))
    columns = "".join(f"  - {{name: {name}}}\n" for name in wide)
    text = f"version: 1\nname: wide\nlabel: label\nclasses: [x, y]\ncolumns:\n{columns}"
    (tmp_path / "wide.yaml").write_text(text)
    made = read_contract(tmp_path / "wide.yaml")
    code = {"net.py": f"ROWS = {wide.iloc[4].tolist()!r}\n".encode()}
    with pytest.raises(CertificateRefusedError, match=r"net\.py"):
        refuse_rows(Parts(code), {}, wide, made, fit(wide, made))


@pytest.mark.parametrize(
    ("hold", "told"),
    [
        ("self.landmarks = landmarks", "0.landmarks"),
        ("self.landmarks = landmarks.numpy(); self.__dict__['landmarks'] = landmarks", "landmarks"),
        (
            "kept = [landmarks]; self.many = kept; self.landmarks = nn.Parameter(landmarks * 0, False)",
            "many.0",
        ),
        (
            "self.hidden = [nn.Linear(5, 3)]; self.landmarks = nn.Parameter(landmarks * 0, False)",
            "hidden.0._parameters.weight",
        ),
        (
            "self.read = lambda: landmarks; self.landmarks = nn.Parameter(landmarks * 0, False)",
            "read.closure",
        ),
        ("global KEPT; KEPT = landmarks; self.landmarks = nn.Parameter(landmarks * 0, False)", "rbf.KEPT"),
        ("type(self).landmarks = landmarks", "rbf.Distances.landmarks"),
    ],
)
def test_tensors_that_the_network_does_not_declare_are_refused(hold, told, tmp_path):
    (tmp_path / "rbf.py").write_text(
        RBF.format(above="", hold=hold, dtype="float64", landmarks=[[0.5] * 5, [1.5] * 5])
    )
    with pytest.raises(CertificateRefusedError, match=f"does not declare.*{told}"):
        build(spec("rbf:make"), tmp_path)


def test_numbers_in_code_are_read_in_order():
    assert numbers_of(b"x = [1, -2.5,\n 3e2]\ny = {'a': -4}\nz = True, 'five', None") == [
        1.0,
        -2.5,
        300.0,
        -4.0,
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def other(): pass\n", "AttributeError"),
        ("def make(in_features): pass\n", "TypeError"),
        ("def make(:\n", "SyntaxError"),
        ("import importlib\nimportlib.import_module('beside')\n", "ModuleNotFoundError"),
        ("def make(in_features, out_features):\n    return open('absent.pt')\n", "FileNotFoundError"),
        ("def make(in_features, out_features):\n    raise RuntimeError('size mismatch')\n", "size mismatch"),
    ],
)
def test_code_that_makes_no_network_is_one_clear_error(content, told, tmp_path):
    (tmp_path / "net.py").write_text(content)
    (tmp_path / "beside.py").write_text("")
    with pytest.raises(PolicyError, match=f"cannot make the model net:make.*{told}"):
        build(spec("net:make"), tmp_path)


def test_own_code_wants_a_declaration():
    declared = {"name": "net:make", "public": True, "source": "made up here", "declared_on": "2026-01-31"}
    require_declared("net:make", ModelParams.model_validate(declared))
    require_declared("head", ModelParams())
    for model in (
        ModelParams(name="net:make"),
        ModelParams.model_validate({**declared, "name": "other:make"}),
    ):
        with pytest.raises(
            PolicyError, match=r'nobody declared that net:make is public.*declared_on: "DATE"'
        ):
            require_declared("net:make", model)
    later = ModelParams.model_validate({**declared, "declared_on": "2999-01-31"})
    with pytest.raises(PolicyError, match="lies in the future"):
        require_declared("net:make", later)


@pytest.mark.parametrize(
    "model",
    [
        {"public": True},
        {"public": True, "source": "here"},
        {"public": True, "source": " ", "declared_on": "2026-01-31"},
        {"public": True, "source": "two\nlines", "declared_on": "2026-01-31"},
        {"source": "here"},
        {"public": True, "source": "here", "declared_on": "yesterday"},
        {"public": True, "source": "here", "declared_on": date(2026, 1, 31)},  # DVC could not keep it
    ],
)
def test_half_a_declaration_is_not_valid(model):
    with pytest.raises(ValueError, match=r"model|source|declared_on"):
        Params.model_validate({"model": model})
