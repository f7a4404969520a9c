"""Shared fixtures: a real Prefect server, and workspaces made through the command line."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.main import invoke

CONTRACT = """\
version: 1
name: clinic
subject: person
label: outcome
classes: [ill, well]
split: {test_fraction: 0.25, seed: 1}
columns:
  - {name: age}
  - {name: dose, transform: log1p}
  - {name: ward, kind: categorical}
"""
MODEL = '''\
"""A network of one's own."""

from torch import nn


def make(in_features, out_features, *, width=6):
    """Two layers."""
    return nn.Sequential(nn.Linear(in_features, width), nn.Tanh(), nn.Linear(width, out_features))
'''
RARE_WARD_PERSON = "person-rare-7777"


def clinic_rows(people: int = 80, seed: int = 0) -> pd.DataFrame:
    """People with one to six visits each; one of them alone was in the ward `rare`."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(people):
        ill = number % 2
        for _ in range(1 + number % 6):
            rows.append(
                {
                    "person": f"person-{number:05d}-x",
                    "age": 40 + 15 * ill + rng.normal(0, 6),
                    "dose": float(rng.integers(0, 20)),
                    "ward": ["north", "south"][int(rng.integers(2))],
                    "outcome": ["well", "ill"][ill],
                }
            )
    rows.append({"person": RARE_WARD_PERSON, "age": 50.0, "dose": 3.0, "ward": "rare", "outcome": "ill"})
    return pd.DataFrame(rows)


def make_clinic(folder: Path, names: Mapping[str, str] | None = None, people: int = 80) -> Path:
    """A folder of one's own data; some of its people may be called otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    clinic_rows(people).replace({"person": names or {}}).to_csv(folder / "visits.csv", index=False)
    (folder / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    return folder


class Expunge:
    """The command line on one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *arguments: str) -> int:
        return invoke([*arguments, "--workspace", str(self.root)])

    def state(self):
        from expunge.state import open_state

        return open_state(self.root)

    def ticket(self, subject: str) -> str:
        return self.state().tickets.submit(subject).ticket.ticket_id

    def batches(self):
        return self.state().batches.every()

    def certificates(self) -> list[dict]:
        found = [json.loads(p.read_text()) for p in self.root.glob(".expunge/evidence/c-*/certificate.json")]
        return sorted(found, key=lambda c: c["model"]["version"])


@pytest.fixture(autouse=True)
def _no_ambient_workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands make their workspace that of the process: it must not outlive a test."""
    monkeypatch.delenv("EXPUNGE_WORKSPACE", raising=False)
    yield
    os.environ.pop("EXPUNGE_WORKSPACE", None)


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for all tests."""
    from tasks.adapters.prefect_server import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        # A test module may have imported Prefect, and with it the settings of that moment.
        secret = os.environ["PREFECT_API_AUTH_STRING"]
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: secret}):
            yield url


def make_workspace(
    root: Path,
    tmp: Path,
    *,
    own_model: bool = True,
    names: Mapping[str, str] | None = None,
    people: int = 80,
) -> Expunge:
    """A trained workspace on one's own data and model."""
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp / "clinic", names, people))]) == 0
    if own_model:
        (root / "clinic_model.py").write_text(MODEL, encoding="utf-8")
        text = (root / "params.yaml").read_text(encoding="utf-8")
        text = text.replace(
            "name: linearized-mlp",
            "name: clinic_model:make\n  public: true\n  source: written for these tests\n  declared_on: '2026-01-31'",
        )
        text = text.replace("{hidden: [32], activation: tanh}", "{width: 6}")
        (root / "params.yaml").write_text(text, encoding="utf-8")
    expunge = Expunge(root)
    assert expunge("train") == 0
    return expunge


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Expunge:
    """A trained workspace that the tests of one module share."""
    tmp = tmp_path_factory.mktemp("clinic")
    return make_workspace(tmp / "workspace", tmp)
