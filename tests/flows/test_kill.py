"""SIGKILL at every step of one batch, each time continued by `expunge run`: same end state, nothing lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_workspace

CHECKOUT = Path(__file__).resolve().parents[2]
KILLS = [
    ("tasks.adapters.versioning:Repository.track_dataset", "before"),  # rows removed, no version yet
    ("tasks.adapters.versioning:Repository.track_dataset", "after"),  # version pushed, stage not recorded
    ("expunge.tickets.batches:BatchStore.append_draw", "after"),  # draw counted, release lost
    ("tasks.unlearning:_write", "after"),  # release on disk, stage not recorded
    ("tasks.validation:validate_dataset", "after"),
    ("expunge.evidence.store:LedgerStore.append", "after"),  # ledger entry chained, stage not recorded
    ("mlflow:MlflowClient.create_model_version", "before"),  # weights logged, no version
    ("tasks.adapters.registry:Registry.promote", "after"),  # alias moved, stage not recorded
    ("tasks.adapters.registry:Registry.purge_weights", "before"),  # data purged, weights not
    ("tasks.purge:scan_workspace", "before"),
    ("tasks.curvature:rebuild_kept", "before"),  # purged, no curvature kept yet
    ("expunge.tickets.batches:BatchStore.close", "before"),
]


def test_a_batch_that_dies_at_any_step_continues(tmp_path, prefect_api):
    clinic = make_workspace(tmp_path / "workspace", tmp_path)
    clinic.ticket("person-00011-x")
    clinic.ticket("person-00017-x")
    for where, when in KILLS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.flows.killer", where, when, str(clinic.root)],
            cwd=CHECKOUT,
            env={**os.environ, "PREFECT_API_URL": prefect_api},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, (where, when, done.stderr[-2000:])
        assert clinic("ledger", "verify") == 0
    assert clinic("run") == 0

    (batch,) = clinic.batches()
    assert batch.stage == "closed"
    (certificate,) = clinic.certificates()
    # two draws were lost with their processes: one before the release was on disk, one before it was recorded
    assert certificate["sequential"]["draws"] == batch.draws == 3
    assert certificate["sequential"]["composed_m"] == pytest.approx(
        certificate["error_bound"]["value"] / certificate["sigma"] * 3**0.5
    )
    assert clinic("certificate", "verify", certificate["certificate_id"]) == 0
    assert clinic("ledger", "verify") == 0
    assert clinic("purge", "verify", "--subject", "person-00011-x", "--subject", "person-00017-x") == 0
    from tasks.adapters import access

    registry = access.registry(clinic.state())
    assert registry.champion().version == 2
    assert registry.next_version() == 3
    assert {t.state for t in clinic.state().tickets.select()} == {"closed"}
    weights = list((clinic.root / ".expunge" / "mlflow").rglob("weights.safetensors"))
    assert len(weights) == 1  # the champion's; the parent's and the abandoned run's are gone
    assert not list(clinic.root.glob(".expunge/releases/*"))
    assert len(list(clinic.root.glob(".expunge/curvature/*.safetensors"))) == 1  # the champion's
