"""The shape of the repository."""

import importlib.metadata
from pathlib import Path

import yaml

from expunge.settings import Params, Policy, template

ROOT = Path(__file__).parents[1]


def test_import_mlflow_is_the_library():
    import mlflow

    assert "site-packages" in mlflow.__file__
    assert not list((ROOT / "mlflow").rglob("*.py"))


def test_lock_pins_torch_and_what_breaks_prefect():
    lock = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    )
    assert lock["torch"] == "2.13.0"
    assert importlib.metadata.version("prefect") == lock["prefect"]
    assert tuple(map(int, lock["fastapi"].split(".")[:2])) < (0, 151)


def test_templates_are_valid_and_state_the_defaults():
    assert Policy.model_validate(yaml.safe_load(template("policy.yaml"))) == Policy()
    written = Params.model_validate(yaml.safe_load(template("params.yaml")))
    assert written.training == Params().training
    assert (ROOT / "policy.yaml").read_text() == template("policy.yaml")


def test_no_machine_paths():
    import subprocess

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert tracked
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".lock") and path.is_file():
            assert "/".join(("", "work", "")) not in path.read_text(encoding="utf-8"), name
