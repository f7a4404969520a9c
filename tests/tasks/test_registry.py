"""The registry on a SQLite store and on a real MLflow server: same behaviour."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from expunge.datasets.catalogue import load
from expunge.datasets.preprocessing import fit, synthetic_example
from expunge.errors import ExpungeError, InputError, ServiceUnavailableError
from expunge.evidence.model_files import model_digest
from expunge.models.serving import SavedModel, save_model
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build
from expunge.settings import Params
from tasks.adapters.mlflow_artifacts import artifact_locations, stream_artifacts
from tasks.adapters.mlflow_runs import DatasetRef, VersionSpec
from tasks.adapters.registry import Registry


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(home, port):
    """A real tracking server on loopback, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/db.sqlite",
         "--artifacts-destination", str(home / "artifacts"), "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    return process


def kill(process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home, port = tmp_path_factory.mktemp("mlflow"), free_port()
    process = start(home, port)
    yield f"http://127.0.0.1:{port}", home / "artifacts"
    kill(process)


@pytest.fixture(params=["sqlite", "server"])
def registry(request, tmp_path):
    if request.param == "sqlite":
        made = Registry(f"sqlite:///{tmp_path}/db.sqlite", tmp_path / "artifacts", "expunge-test")
        made.files = tmp_path / "artifacts"
        return made
    url, files = request.getfixturevalue("server")
    made = Registry(url, tmp_path / "unused", f"expunge-{tmp_path.name}")
    made.files = files
    return made


def spec_of(tmp_path, batch="b-1"):
    loaded = load("breast-cancer")
    preprocessing = fit(loaded.frame, loaded.contract)
    params = Params.model_validate({"model": {"hyperparameters": {"hidden": [2]}}})
    spec = ModelSpec.from_params(params, in_features=30, classes=2)
    size = build(spec).size
    model = SavedModel(
        spec, preprocessing, torch.zeros(size).double(), build(spec).initial(), {"seconds": 1.0}
    )
    folder = tmp_path / "model"
    digest = save_model(model, folder)
    note = tmp_path / "note.txt"
    note.write_text("evidence")
    example = synthetic_example(preprocessing)
    made = VersionSpec(
        model_dir=folder,
        example=example,
        output=model.predict(example),
        batch=batch,
        run_name="test",
        tags={"epsilon": "0.05"},
        metrics={"accuracy": 0.5},
        params={"l2": 1e-3},
        after=DatasetRef("0123456789abcdef0123456789abcdef.dir", "f" * 40),
        records=569,
        artifacts={"certificate.json": note},
    )
    return made, digest


def test_a_version_from_registration_to_purge(registry, tmp_path):
    spec, digest = spec_of(tmp_path)
    assert registry.champion() is None
    assert registry.next_version() == 1
    version = registry.register(spec)
    assert registry.register(spec) == version
    assert registry.next_version() == 2
    registry.promote(version.version)
    assert registry.champion() == version
    assert version.tags["epsilon"] == "0.05"
    assert registry.metrics(version)["accuracy"] == registry.published_accuracy(version.version) == 0.5
    registry.client.log_metric(version.run_id, "accuracy", 7.0)
    with pytest.raises(InputError, match="not known"):
        registry.published_accuracy(version.version)
    names = {item.path for item in registry.client.list_artifacts(version.run_id)}
    assert "certificate.json" in names
    (data,) = registry.client.get_run(version.run_id).inputs.dataset_inputs
    assert spec.after.md5 in data.dataset.source
    assert model_digest(registry.download(version, tmp_path / "down")) == digest

    registry.purge_weights(version.version)
    registry.purge_weights(version.version)
    assert not list(registry.files.rglob("weights.safetensors"))
    purged = registry.get(version.version)
    assert "weights.purged_at" in purged.tags
    assert registry.client.get_run(version.run_id).info.run_id == version.run_id
    with pytest.raises(InputError, match="purged"):
        registry.download(purged, tmp_path / "down")


def test_every_artifact_is_streamed_also_those_of_deleted_runs(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts what has no other place
    registry.register(spec_of(tmp_path)[0])
    for experiment in ("x", "y"):
        for name in ("a", "b"):
            run = registry.client.create_run(
                registry.client.create_experiment(f"{tmp_path.name}-{experiment}-{name}")
            )
            registry.client.log_text(run.info.run_id, f"about {experiment}{name}", f"deep/in/{name}.txt")
        registry.client.delete_run(run.info.run_id)
    registry.client.delete_experiment(run.info.experiment_id)
    found = []
    for where, stream in stream_artifacts(artifact_locations(registry.client), tmp_path / "scratch"):
        assert not list((tmp_path / "scratch").rglob("*")), where  # no name: nothing is left after a kill
        found.append(stream.read())
    assert {b"about xa", b"about xb", b"about ya", b"about yb"} <= set(found)
    weights = next(registry.files.rglob("weights.safetensors")).read_bytes()
    assert found.count(weights) == 1


def test_two_workspaces_in_one_process_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    one = Registry(f"sqlite:///{tmp_path}/1/db", tmp_path / "1" / "a", "expunge-x")
    other = Registry(f"sqlite:///{tmp_path}/2/db", tmp_path / "2" / "a", "expunge-x")
    spec, _ = spec_of(tmp_path)
    assert other.champion() is None
    one.register(spec)
    assert other.next_version() == 1
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not list((tmp_path / "2").rglob("weights.safetensors"))


def test_no_such_version(registry):
    with pytest.raises(InputError, match="no such model version"):
        registry.get(99)


def test_what_mlflow_refuses_is_no_outage(registry):
    with pytest.raises(ExpungeError, match="MLflow did not do") as caught:
        registry.promote(99)
    assert type(caught.value) is ExpungeError  # a sweep would repeat a ServiceUnavailableError unasked


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceUnavailableError, match="MLFLOW_TRACKING_URI"):
        Registry("http://127.0.0.1:1", tmp_path, "x").champion()


def test_a_server_that_dies_is_no_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    home, port = tmp_path / "server", free_port()
    home.mkdir()
    process = start(home, port)
    try:
        registry = Registry(f"http://127.0.0.1:{port}", tmp_path / "unused", "expunge-x")
        spec, _ = spec_of(tmp_path)
        version = registry.register(spec)
        registry.promote(version.version)
        kill(process)
        with pytest.raises(ServiceUnavailableError, match="MLflow"):  # not: there is no model
            registry.champion()
        with pytest.raises(ServiceUnavailableError, match="MLflow"):  # not: its weights are gone already
            registry.purge_weights(version.version)
        process = start(home, port)
        assert registry.champion() == version
        assert list(home.rglob("weights.safetensors"))
        registry.purge_weights(version.version)
        assert not list(home.rglob("weights.safetensors"))
    finally:
        kill(process)
