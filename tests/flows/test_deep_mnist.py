"""What `expunge plan` says of a deep network on MNIST, and of its linearisation. Slow: minutes."""

import json
import os
from pathlib import Path

import pytest
import yaml

from cli.main import invoke
from tests.conftest import Expunge

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EXPUNGE_DATA") or ROOT.parent / "shared" / "data") / "mnist"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not DATA.is_dir(), reason="MNIST is not at hand; set EXPUNGE_DATA"),
]


def planned(root, model, training, capsys):
    assert invoke(["init", str(root), "--dataset", "mnist", "--source", str(DATA)]) == 0
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["model"] = model
    params["training"].update(training)
    path.write_text(yaml.safe_dump(params))
    mnist = Expunge(root)
    assert mnist("train") == 0
    mnist.ticket("17")
    capsys.readouterr()
    assert mnist("plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    return plan, {row["mechanism"]: row for row in plan["mechanisms"]}


def test_the_plan_is_honest_about_a_deep_network(tmp_path, prefect_api, capsys):
    model = {"name": "mlp", "hyperparameters": {"hidden": [32, 32], "activation": "relu"}}
    plan, rows = planned(tmp_path / "deep", model, {"epochs": 3, "batch_size": 128}, capsys)
    assert (plan["choice"], plan["records"]) == ("retrain", 1)
    assert rows["newton"]["epsilon"] == pytest.approx(8.0e6, rel=0.01)
    assert "the ball binds" in rows["newton"]["refusal"]
    assert rows["newton"]["error_bound"] == 40.0
    retraining = rows["retrain"]["seconds"]
    for name in ("output-perturbation", "noisy-finetune"):
        assert rows[name]["guarantee"] == "unconditional"
        assert rows[name]["seconds"] >= retraining  # recovery is a training: it saves nothing here
        assert "from noise" in rows[name]["utility"]
    assert "would certify epsilon 0.05" in rows["convex"]["remedy"]


def test_the_linearised_network_is_not_vacuous(tmp_path, prefect_api, capsys):
    model = {"name": "linearized-mlp", "hyperparameters": {"hidden": [16], "activation": "tanh"}}
    plan, rows = planned(tmp_path / "linear", model, {"l2": 1e-2, "gradient_tolerance": 5e-7}, capsys)
    assert plan["choice"] == "convex"
    assert rows["convex"]["epsilon"] == 0.05
    assert rows["convex"]["seconds"] < rows["retrain"]["seconds"]
