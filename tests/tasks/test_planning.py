"""The plan knows whether the champion was trained on the dataset that lies there."""

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd

from cli.main import invoke
from expunge.datasets.partitions import partition_files
from expunge.state import open_state
from tasks.adapters import git
from tasks.ingest import import_dump
from tasks.planning import champion_context, plan, plan_for
from tests.conftest import Expunge, make_clinic

ASSUMED = ("hessian_lipschitz: null", "hessian_lipschitz: 0"), ("gradient_bound: null", "gradient_bound: 0")


def newton_is_planned(root: Path) -> bool:
    made, context = plan_for(open_state(root))
    assert "retrain" in made.order
    assert ("newton" in made.order) == context.same_data
    return context.same_data


def test_a_dataset_that_changed_is_noticed(prefect_api: str, tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    params = (root / "params.yaml").read_text().replace("name: linearized-mlp", "name: mlp")
    (root / "params.yaml").write_text(params.replace("epochs: 40", "epochs: 2"))
    assert Expunge(root)("train") == 0
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(root))
    text = (root / "policy.yaml").read_text().replace("[exact,", "[conditional, exact,")
    for old, new in ASSUMED:
        text = text.replace(old, new)
    (root / "policy.yaml").write_text(text)
    assert newton_is_planned(root)

    path = next(path for path in partition_files(root / "data" / "dataset") if len(pd.read_parquet(path)) > 1)
    original = path.read_bytes()
    path.unlink()
    pd.read_parquet(io.BytesIO(original)).iloc[1:].to_parquet(path, index=False)
    assert not newton_is_planned(root)  # by hand, and not even committed
    subprocess.run(
        [sys.executable, "-m", "dvc", "add", "-q", "data/dataset"],
        cwd=root,
        check=True,
        env=git.clean_environment(),
    )
    assert not newton_is_planned(root)
    git.commit(root, ["data/dataset.dvc"], "by hand")
    assert not newton_is_planned(root)
    git.git(root, "revert", "--no-edit", "HEAD")
    path.unlink()
    path.write_bytes(original)
    assert newton_is_planned(root)

    import_dump(open_state(root), str(make_clinic(tmp_path / "grown", people=83)))
    assert not newton_is_planned(root)

    state = open_state(root)
    batch = state.batches.open_batch([state.tickets.submit("person-00001-x").ticket.ticket_id])
    assert "newton" not in plan.fn(batch.batch_id)
    assert state.batches.get(batch.batch_id).data["same_data"] is False
    # what a removal found is kept for resuming: half removed, the files say nothing about it
    begun = state.batches.record(batch.batch_id, same_data=True, before={"md5": "x", "git_revision": "x"})
    assert champion_context(state, begun)[0].same_data
