"""Every store of a workspace is searched: those outside its folder too, and none is passed over."""

import io
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.main import invoke
from expunge.errors import WorkspaceError
from expunge.residue.scan import Target
from expunge.state import State, open_state
from tasks.adapters import access, git
from tasks.residue import scan_workspace
from tasks.training import reproduce
from tests.conftest import make_clinic

PERSON = "person-00042-x"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    assert invoke(["init", str(folder / "w"), "--dataset", str(make_clinic(folder / "clinic"))]) == 0
    return folder / "w"


@pytest.fixture
def state(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    for name in (
        "EXPUNGE_DATABASE_URL",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_BACKEND_STORE_URI",
        "PREFECT_API_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    config = root / ".dvc" / "config"
    before = config.read_text()
    yield open_state(root)
    config.write_text(before)


def search(state: State, **arguments: bool) -> set[tuple[str, str]]:
    report = scan_workspace(state, Target(frozenset({"nobody-of-the-clinic", PERSON + "0"})), **arguments)
    return {(hit["where"], hit["kind"]) for hit in report.hits}


def remote(state: State, name: str, url: object) -> None:
    with (state.workspace.root / ".dvc" / "config").open("a") as config:
        config.write(f"""['remote "{name}"']\n    url = {url}\n""")


def planted(path: Path, text: str = "about nobody-of-the-clinic") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_workspace_without_the_person_is_clean(state: State) -> None:
    assert search(state) == set()


def test_every_dvc_remote(state: State, tmp_path: Path) -> None:
    planted(tmp_path / "backup" / "files" / "md5" / "ab" / "cd")
    remote(state, "backup", tmp_path / "backup")
    assert search(state) == {("DVC remote backup/files/md5/ab/cd", "subject-id")}


@pytest.mark.parametrize("url", ["/nowhere/at/all", "http://127.0.0.1:1/objects"])
def test_a_remote_that_is_not_there_is_not_clean(state: State, url: str) -> None:
    remote(state, "backup", url)
    assert search(state) == {("DVC remote backup", "unreadable")}


def test_artifacts_that_lie_elsewhere(state: State, tmp_path: Path) -> None:
    client = access.registry(state).client
    elsewhere = tmp_path / "a share"
    run = client.create_run(client.create_experiment("elsewhere", artifact_location=elsewhere.as_uri()))
    client.log_text(run.info.run_id, "about nobody-of-the-clinic", "note.txt")
    assert search(state) == {(f"MLflow artifacts 0/{run.info.run_id}/artifacts/note.txt", "subject-id")}
    shutil.rmtree(elsewhere)


def test_a_bucket_is_not_clean_whatever_it_lists(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    client = access.registry(state).client
    made = client.create_experiment("theirs", artifact_location="s3://bucket/theirs")
    ((where, kind),) = search(state)
    assert kind == "unreadable"
    assert where.startswith("MLflow artifacts in store")
    assert where.endswith("(s3)")
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(state.workspace.root))
    with pytest.raises(WorkspaceError, match="listing cannot show what is still there"):
        reproduce.fn()
    assert not (state.workspace.root / "dvc.lock").exists()
    client.delete_experiment(made)
    assert len(search(state)) == 1
    database = state.workspace.state / "mlflow" / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM experiments WHERE name = 'theirs'")
    connection.close()


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("EXPUNGE_DATABASE_URL", "tickets database"),
        ("MLFLOW_BACKEND_STORE_URI", "MLflow database"),
        ("PREFECT_API_DATABASE_CONNECTION_URL", "Prefect database"),
    ],
)
def test_databases_outside_the_workspace(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    access.registry(state).client  # noqa: B018  MLflow's tables in a database that is not the planted one
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("INSERT INTO t VALUES ('about nobody-of-the-clinic')")
    connection.close()
    driver = "sqlite+aiosqlite" if name == "Prefect database" else "sqlite"
    monkeypatch.setenv(variable, f"{driver}:///{tmp_path / 'x.db'}")
    assert {where for where, _ in search(state)} == {name, f"{name} table t"}
    if name != "MLflow database":  # without which there is no list of its artifacts
        monkeypatch.setenv(variable, "postgresql://x:secret@127.0.0.1:1/nowhere")
        assert search(state) == {(name, "unreadable")}
    if name == "tickets database":
        assert search(state, with_tickets=False) == set()


def test_a_database_behind_a_server_is_named(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    report = scan_workspace(state, Target())
    assert any("PREFECT_API_DATABASE_CONNECTION_URL" in note for note in report.notes)


def test_git_objects_larger_than_what_is_held_in_memory(state: State) -> None:
    content = np.random.default_rng(0).bytes(6 << 20)
    big = state.workspace.root / "big"
    big.write_bytes(content)
    name = git.git(state.workspace.root, "hash-object", "-w", "big")
    big.unlink()
    found = {where: stream.read() for where, stream in git.objects(state.workspace.root)}
    assert found[f"git blob {name}"] == content


def test_the_history_of_a_repository_in_the_workspace(state: State) -> None:
    inner = state.workspace.root / "inner"
    git.git(planted(inner / "a").parent, "init", "--quiet")
    name = git.git(inner, "hash-object", "-w", "a")
    (inner / "a").unlink()
    assert search(state) == {(f"inner/.git git blob {name}", "subject-id")}
    shutil.rmtree(inner)


def test_the_column_of_people_as_the_dataset_s_source_calls_it(state: State) -> None:
    (column,) = state.contract.subject_columns
    export = state.workspace.root / "export"
    pd.DataFrame({column: ["x7"]}).to_parquet(export)
    report = scan_workspace(state, Target(frozenset({"x7"})))  # too short to be found in any other column
    assert [(hit["where"], hit["kind"]) for hit in report.hits] == [("export", "subject-id")]
    export.unlink()


def test_a_removed_row_in_a_git_object(state: State) -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"subject_id": ["nobody-of-the-clinic"]}).to_parquet(buffer)
    table = state.workspace.root / "table"
    table.write_bytes(buffer.getvalue())
    name = git.git(state.workspace.root, "hash-object", "-w", "table")
    table.unlink()
    assert search(state) == {(f"git blob {name}", "subject-id")}
