"""The acceptance run on real patients: UCI Diabetes 130, people with many rows. Slow: about four minutes."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cli.main import invoke
from expunge.datasets.partitions import read_dataset
from tests.conftest import Expunge

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EXPUNGE_DATA") or ROOT.parent / "shared" / "data")
ZIP = DATA / "diabetes130" / "dataset_diabetes.zip"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not ZIP.is_file(), reason="dataset_diabetes.zip is not at hand; set EXPUNGE_DATA"),
]


def test_a_patient_with_many_rows_is_unlearned(tmp_path, prefect_api, capsys):
    clinic = Expunge(tmp_path / "workspace")
    assert invoke(["init", str(clinic.root), "--dataset", "diabetes130", "--source", str(ZIP)]) == 0
    assert clinic("train") == 0
    frame = read_dataset(clinic.root / "data" / "dataset")
    counts = frame[frame["split"] == "train"]["subject_id"].value_counts()
    patient = str(counts.index[0])
    assert counts.iloc[0] >= 10
    clinic.ticket(patient)
    capsys.readouterr()
    assert clinic("run", "--json") == 0
    (batch,) = json.loads(capsys.readouterr().out)
    assert batch["guarantee"] == "convex"
    assert batch["epsilon"] <= 0.1
    assert batch["parent_accuracy"] - batch["metrics"]["accuracy"] <= 0.005
    folders = [clinic.root / "data", clinic.root / ".dvc" / "cache", clinic.root / ".expunge" / "dvc-remote"]
    tables = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.read_bytes()[:4] == b"PAR1"
    ]
    assert len(tables) >= 100
    for path in tables:
        assert patient not in set(pq.read_table(path, columns=["subject_id"])["subject_id"].to_pylist())
    assert clinic("certificate", "verify", batch["certificate_id"]) == 0
    assert clinic("purge", "verify", "--subject", patient) == 0
