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
from expunge.errors import ExpungeError, InputError, ResidueError, ServiceUnavailableError, WorkspaceError
from expunge.evidence.model_files import model_digest
from expunge.models.serving import SavedModel, save_model
from expunge.models.spec import ModelSpec
from expunge.models.zoo import build
from expunge.settings import Params
from tasks.adapters import mlflow_artifacts
from tasks.adapters.artifact_folders import DESTINATION, folder_of
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
def registry(request, tmp_path, monkeypatch):
    monkeypatch.delenv(DESTINATION, raising=False)
    if request.param == "sqlite":
        made = Registry(f"sqlite:///{tmp_path}/db.sqlite", tmp_path / "artifacts", "expunge-test")
        made.files = tmp_path / "artifacts"
        return made
    url, files = request.getfixturevalue("server")
    monkeypatch.setenv(DESTINATION, str(files))
    made = Registry(url, tmp_path / "unused", f"expunge-{tmp_path.name}")
    made.files = files
    return made


def spec_of(tmp_path, batch="b-1"):
    loaded = load("breast-cancer")
    preprocessing = fit(loaded.frame, loaded.contract)
    params = Params.model_validate({"model": {"hyperparameters": {"hidden": [2]}}})
    spec = ModelSpec.from_params(params, in_features=30, classes=2)
    size = build(spec).size
    model = SavedModel(spec, preprocessing, torch.zeros(size).double(), build(spec).initial())
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
    monkeypatch.setenv(DESTINATION, str(home / "artifacts"))
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


def test_another_workspace_s_model_of_the_same_key_stays(registry, tmp_path):
    """Every workspace's first training is registered under one key, and they may share a server."""
    theirs = registry.register(spec_of(tmp_path)[0])
    ours = Registry(registry._uri, registry.files, f"{registry.name}-2")
    assert ours.register(spec_of(tmp_path)[0]).run_id != theirs.run_id
    assert (registry.download(theirs, tmp_path / "down") / "weights.safetensors").is_file()


def test_a_server_whose_folder_is_not_known_is_refused_before_anything_is_changed(
    server, tmp_path, monkeypatch
):
    url, files = server
    monkeypatch.delenv(DESTINATION, raising=False)
    blind = Registry(url, tmp_path / "unused", f"expunge-{tmp_path.name}")
    with pytest.raises(WorkspaceError, match="does not say where it keeps artifacts"):
        blind.require_artifacts_seen()
    version = blind.register(spec_of(tmp_path)[0])
    blind.promote(version.version)
    with pytest.raises(WorkspaceError, match=DESTINATION):
        blind.purge_weights(version.version)
    (tmp_path / "another" / "1").mkdir(parents=True)
    monkeypatch.setenv(DESTINATION, str(tmp_path / "another"))  # a folder, and not the server's
    for refused in (blind.require_artifacts_seen, lambda: blind.purge_weights(version.version)):
        with pytest.raises(WorkspaceError, match="is not where MLflow keeps these artifacts"):
            refused()
    weights = blind.client.get_logged_model(version.logged_model_id).artifact_location.partition(":/")[2]
    assert list((files / weights).rglob("weights.safetensors"))
    monkeypatch.setenv(DESTINATION, str(files))
    assert blind.require_artifacts_seen() is True
    left = files / weights / "left over"
    monkeypatch.setattr(mlflow_artifacts, "_store", Forgetful.of(mlflow_artifacts._store, left))
    with pytest.raises(ResidueError, match="files that MLflow does not list"):
        blind.purge_weights(version.version)


class Forgetful:
    """A store that lists nothing of what is left after a deletion, as a bucket with versions does."""

    def __init__(self, store, left):
        self.store, self.left, self.deleted = store, left, False

    @classmethod
    def of(cls, opened, left):
        made = {}
        return lambda location: made.setdefault(location, cls(opened(location), left))

    def list_artifacts(self, path=None):
        return [] if self.deleted else self.store.list_artifacts(path)

    def delete_artifacts(self):
        self.store.delete_artifacts()
        self.deleted = True
        self.left.parent.mkdir(parents=True, exist_ok=True)
        self.left.write_text("an earlier version")


def test_the_operator_s_word_for_a_server_s_folder(server, tmp_path, monkeypatch):
    url, _ = server
    monkeypatch.delenv(DESTINATION, raising=False)
    trusted = Registry(url, tmp_path / "unused", f"expunge-{tmp_path.name}", trusted=True)
    version = trusted.register(spec_of(tmp_path)[0])
    assert trusted.require_artifacts_seen() is False  # and every certificate says so
    trusted.purge_weights(version.version)
    assert "weights.purged_at" in trusted.get(version.version).tags


@pytest.mark.parametrize(
    "scheme", ["s3", "gs", "wasbs", "abfss", "hdfs", "dbfs", "http", "https", "ftp", "sftp"]
)
def test_no_weights_go_where_no_listing_shows_what_is_left(scheme, tmp_path, monkeypatch):
    """The attack: the bucket lists nothing any more, and keeps every version."""
    bucket = {"weights": "of the people", "listed": True}

    class Bucket:
        def list_artifacts(self, path=None):
            return ["weights"] if bucket["listed"] else []

        def delete_artifacts(self):
            bucket["listed"] = False

    monkeypatch.setattr(mlflow_artifacts, "_store", lambda location: Bucket())
    for trusted in (False, True):
        with pytest.raises(WorkspaceError, match="listing cannot show what is still there"):
            mlflow_artifacts.destroy_artifacts(f"{scheme}://bucket/1/models/m-1/artifacts", trusted=trusted)
    assert bucket["listed"]


def test_an_experiment_in_a_bucket_stops_training_and_runs(tmp_path, monkeypatch):
    monkeypatch.delenv(DESTINATION, raising=False)
    registry = Registry(f"sqlite:///{tmp_path}/db.sqlite", tmp_path / "artifacts", "expunge-test")
    assert registry.require_artifacts_seen() is True
    made = registry.client.create_experiment("theirs", artifact_location="s3://user:secret@bucket/theirs")
    registry.client.delete_experiment(made)
    with pytest.raises(WorkspaceError, match="s3://bucket/theirs") as caught:
        registry.require_artifacts_seen()
    assert "secret" not in str(caught.value)


def test_weights_of_another_machine_are_not_called_gone(tmp_path):
    """A folder that is not here was destroyed, or was never here: its store tells which."""
    gone = tmp_path / "store" / "models" / "m-1" / "artifacts"
    with pytest.raises(WorkspaceError, match="is not where MLflow keeps"):
        mlflow_artifacts.destroy_artifacts(gone.as_uri())
    (tmp_path / "store").mkdir()
    mlflow_artifacts.destroy_artifacts(gone.as_uri())  # of a purge that was killed


@pytest.mark.parametrize(
    ("location", "destination", "expected"),
    [
        ("file:///srv/a%20b/1", None, "/srv/a b/1"),
        ("/srv/a%20b/1", None, "/srv/a%20b/1"),
        ("file://localhost/srv/1", None, "/srv/1"),
        ("mlflow-artifacts:/1/models/m-1/artifacts", "/srv", "/srv/1/models/m-1/artifacts"),
        ("mlflow-artifacts://host:5000/1", "file:///srv/x", "/srv/x/1"),
        ("file://elsewhere/srv/1", None, None),
        ("mlflow-artifacts:/1", None, None),
        ("mlflow-artifacts:/1", "s3://bucket", None),
        ("mlflow-artifacts:/../../etc", "/srv", None),
        ("mlflow-artifacts:/%2e%2e/etc", "/srv", None),
    ],
)
def test_the_folder_of_an_address(location, destination, expected, monkeypatch):
    monkeypatch.delenv(DESTINATION, raising=False)
    if destination:
        monkeypatch.setenv(DESTINATION, destination)
    if expected is None:
        with pytest.raises(WorkspaceError):
            folder_of(location)
    else:
        assert str(folder_of(location)) == expected
