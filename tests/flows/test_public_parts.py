"""A network of one's own with a frozen backbone, from training to evidence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cli.main import invoke
from expunge.evidence.model_files import files_of
from expunge.evidence.public_parts import INITIAL
from tests.conftest import Expunge, make_clinic

NETWORK = """\
from pathlib import Path

import torch
from torch import nn

from squash import squash


class Squash(nn.Module):
    def forward(self, x):
        return squash(x)


def make(in_features, out_features):
    backbone = nn.Linear(in_features, 4)
    file = Path(__file__).parent / "backbone.pt"
    if file.exists():  # a saved model brings its tensors along
        backbone.weight.data = torch.load(file)
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    return nn.Sequential(backbone, Squash(), nn.Linear(4, out_features))
"""
UNDECLARED = "name: net:make\n"
DECLARED = UNDECLARED + "  public: true\n  source: a public hub\n  declared_on: '2026-01-31'\n"
PARTS = ["code/net.py", "code/squash.py", "frozen.safetensors"]
SERVE = """\
import sys, mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/expunge-clinic@champion")
rows = pandas.DataFrame([{"age": 50.0, "dose": 3.0, "ward": "north"}])
print("served", repr(float(model.predict(rows)["p_ill"][0])))
"""


def write_backbone(root: Path, seed: int) -> None:
    torch.save(torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)), root / "backbone.pt")


def declare(root: Path, old: str, new: str) -> None:
    path = root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def served(root: Path, elsewhere: Path) -> float:
    """By MLflow alone, in another process and folder."""
    uri = f"sqlite:///{root / '.expunge' / 'mlflow' / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", SERVE, uri], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split("served ")[1])


@pytest.fixture(scope="module")
def own(tmp_path_factory, prefect_api):
    """A workspace that was trained on a network of one's own, which nobody has declared to be public yet."""
    tmp = tmp_path_factory.mktemp("own")
    root = tmp / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp / "clinic"))]) == 0
    (root / "net.py").write_text(NETWORK)
    (root / "squash.py").write_text("def squash(x):\n    return x.tanh()\n")
    write_backbone(root, 1)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("name: linearized-mlp\n", UNDECLARED)
    text = text.replace("{hidden: [32], activation: tanh}", "{}")
    (root / "params.yaml").write_text(text, encoding="utf-8")
    return Expunge(root)


def test_from_an_undeclared_network_to_evidence(own, tmp_path, capsys):
    root = own.root
    assert own("train") == 2
    assert "nobody declared that net:make is public" in " ".join(capsys.readouterr().err.split())
    assert not (root / "build" / "model").exists()
    declare(root, UNDECLARED, DECLARED)
    assert own("train") == 0
    first = served(root, tmp_path)
    write_backbone(root, 2)  # after registration: nothing that serves changes
    assert served(root, tmp_path) == first

    declare(root, DECLARED, UNDECLARED)
    own.ticket("person-00003-x")
    capsys.readouterr()
    for command in ("plan", "run"):
        assert own(command) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "nobody declared that net:make is public" in told
        assert 'declared_on: "DATE"' in told
    declare(root, UNDECLARED, DECLARED)

    (root / "squash.py").write_text("def squash(x):\n    return x.relu()\n")
    assert own("run") == 2
    assert "squash.py is not the code that the model was made with" in " ".join(
        capsys.readouterr().err.split()
    )
    (root / "squash.py").write_text("def squash(x):\n    return x.tanh()\n")

    assert own("run") == 0
    (certificate,) = own.certificates()
    parts = {part["name"]: part for part in certificate["public_parts"]}
    assert list(parts) == [*PARTS, INITIAL]
    assert {(part["source"], part["declared_on"]) for part in parts.values()} == {
        ("a public hub", "2026-01-31")
    }
    for name, part in parts.items():
        lines = [line for line in certificate["assumptions"] if name.removeprefix("code/") in line]
        assert [line for line in lines if part["digest"] in line and "a public hub" in line]
    model = root / "build" / "model"
    assert files_of(model) == [*PARTS, "model.json", "weights.safetensors"]
    # the backbone is the one that was trained on, whatever lies in its file by now
    assert abs(served(root, tmp_path) - first) < 0.2

    evidence = root / ".expunge" / "evidence" / certificate["certificate_id"]
    keys = tmp_path / "keys.json"
    assert own("keys", "export-public", str(keys)) == 0
    arguments = ["certificate", "verify", str(evidence), "--key", str(keys), "--model", str(model)]
    capsys.readouterr()
    assert invoke([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    (model / "frozen.safetensors").write_bytes(b"other")
    assert invoke(arguments) == 1
    assert "frozen.safetensors is not the file that was signed" in " ".join(capsys.readouterr().out.split())


def test_a_network_that_holds_rows_is_not_trained(tmp_path, capfd):
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    (root / "rbf.py").write_text(
        "import json\nfrom pathlib import Path\n\nimport torch\nfrom torch import nn\n\n\n"
        "class Rbf(nn.Module):\n    def __init__(self, rows):\n        super().__init__()\n"
        "        self.landmarks = nn.Parameter(rows, requires_grad=False)\n\n"
        "    def forward(self, x):\n        return torch.exp(-torch.cdist(x, self.landmarks).square())\n\n\n"
        "def make(in_features, out_features):\n"
        "    from expunge.datasets.partitions import read_dataset\n"
        "    from expunge.datasets.preprocessing import Preprocessing, encode_features\n\n"
        "    root = Path(__file__).parent\n"
        "    content = json.loads((root / 'build' / 'preprocessing.json').read_text())\n"
        "    rows = read_dataset(root / 'data' / 'dataset').head(9)\n"
        "    rows = torch.tensor(encode_features(rows, Preprocessing.from_json(content)))\n"
        "    return nn.Sequential(Rbf(rows), nn.Linear(len(rows), out_features))\n"
    )
    text = (root / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("name: linearized-mlp\n", DECLARED.replace("net:make", "rbf:make"))
    text = text.replace("{hidden: [32], activation: tanh}", "{}")
    (root / "params.yaml").write_text(text, encoding="utf-8")
    expunge = Expunge(root)
    assert expunge("stage", "prepare") == 0
    assert expunge("stage", "train") == 1
    told = " ".join(capfd.readouterr().err.split())
    assert "the model holds rows of the dataset in parts that unlearning does not change" in told
    assert "0.landmarks" in told
    assert not (root / "build" / "model").exists()
