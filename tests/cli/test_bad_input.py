"""Bad input for every command: one clear line, the right exit code, and nothing changed."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cli.main import invoke
from tests.conftest import Expunge, make_clinic


def snapshot(root: Path) -> dict[str, str]:
    """Every file that a command must not have changed."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "site-cache" not in str(path) and ".dvc/tmp" not in str(path)
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace that is not trained yet."""
    tmp = tmp_path_factory.mktemp("bad")
    assert invoke(["init", str(tmp / "w"), "--dataset", str(make_clinic(tmp / "clinic"))]) == 0
    expunge = Expunge(tmp / "w")
    expunge.open_ticket = expunge.ticket("person-00001-x")
    from tasks.adapters import access

    access.registry(expunge.state()).champion()  # makes MLflow's database
    return expunge


BAD = {
    "ticket submit, unknown subject": (["ticket", "submit", "--subject", "nobody"], 2, "nobody of that id"),
    "ticket submit, empty subject": (["ticket", "submit", "--subject", ""], 2, "cannot be a subject id"),
    "ticket submit, regime": (
        ["ticket", "submit", "--subject", "person-00002-x", "--regime", "x"],
        2,
        "gdpr, ccpa, uk-gdpr, lgpd",
    ),
    "ticket submit, no subject": (["ticket", "submit"], 2, "--subject"),
    "ticket import, no file": (["ticket", "import", "absent.csv"], 2, "cannot be read"),
    "ticket list, due": (["ticket", "list", "--due", "soon"], 2, "such as 7d"),
    "ticket list, state": (["ticket", "list", "--state", "gone"], 2, "unknown state"),
    "ticket show, unknown": (["ticket", "show", "t-0"], 2, "no such ticket"),
    "ticket hold, unknown": (["ticket", "hold", "t-0", "--reason", "x"], 2, "no such ticket"),
    "ticket hold, no reason": (["ticket", "hold", "TICKET", "--reason", " "], 2, "a reason is needed"),
    "ticket receipt, unknown": (["ticket", "receipt", "t-0"], 2, "no such ticket"),
    "ticket receipt, not closed": (["ticket", "receipt", "TICKET"], 2, "a closed ticket, got verified"),
    "ticket release, not held": (["ticket", "release", "TICKET"], 2, "not on hold"),
    "ticket withdraw, no reason": (["ticket", "withdraw", "TICKET", "--reason", ""], 2, "a reason is needed"),
    "ticket reject, unknown": (["ticket", "reject", "t-0", "--reason", "x"], 2, "no such ticket"),
    "plan, not trained": (["plan"], 2, "run `expunge train`"),
    "plan, unknown ticket": (["plan", "--ticket", "t-0"], 2, "no such ticket"),
    "run, not trained": (["run"], 2, "run `expunge train`"),
    "run, every": (["run", "--every", "0"], 2, "--every"),
    "certificate show, unknown": (["certificate", "show", "c-0"], 2, "no such certificate"),
    "certificate verify, unknown": (["certificate", "verify", "c-0"], 2, "no such certificate"),
    "certificate verify, other path": (["certificate", "verify", "../x"], 2, "no such certificate"),
    "certificate verify, no JSON": (["certificate", "verify", "POLICY"], 2, "not JSON"),
    "certificate export, unknown": (
        ["certificate", "export", "c-0", "--html", "x.html"],
        2,
        "no such certificate",
    ),
    "certificate export, nowhere": (["certificate", "export", "c-0"], 2, "--html FILE"),
    "ledger verify, empty": (["ledger", "verify"], 1, "empty"),
    "ledger verify, no file": (["ledger", "verify", "absent.json"], 2, "cannot be read"),
    "coverage add, kind": (["coverage", "add", "--kind", "x", "--name", "n"], 2, "cannot be declared"),
    "coverage add, no origin": (
        ["coverage", "add", "--kind", "export", "--name", "n"],
        2,
        "one of --from-version",
    ),
    "coverage resolve, nothing said": (["coverage", "resolve", "a-0"], 2, "--exception REASON"),
    "coverage resolve, unknown": (["coverage", "resolve", "a-0", "--exception", "x"], 2, "no such artefact"),
    "stage, unknown": (["stage", "deploy"], 2, "unknown stage"),
    "unknown command": (["erase"], 2, "erase"),
    "unknown option": (["plan", "--fast"], 2, "--fast"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, workspace, capsys):
    arguments, code, message = BAD[name]
    known = {"TICKET": workspace.open_ticket, "POLICY": str(workspace.root / "policy.yaml")}
    before = snapshot(workspace.root)
    assert workspace(*(known.get(a, a) for a in arguments)) == code
    printed = capsys.readouterr()
    assert message in " ".join(printed.err.split())
    assert printed.err.count("error:") == 1
    assert "Traceback" not in printed.err
    assert snapshot(workspace.root) == before


def test_json_errors_are_one_document(workspace, capsys):
    assert workspace("ticket", "show", "t-0", "--json") == 2
    content = json.loads(capsys.readouterr().out)
    assert content["exit_code"] == 2
    assert "no such ticket" in content["error"]


def test_malformed_csv_reports_every_bad_line_and_imports_none(workspace, tmp_path, capsys):
    file = tmp_path / "requests.csv"
    file.write_text(
        "subject,regime\nperson-00004-x,gdpr\n,gdpr\nnobody-here,gdpr\nperson-00006-x,moon\nperson-00004-x,\n"
    )
    before = snapshot(workspace.root)
    assert workspace("ticket", "import", str(file)) == 2
    err = capsys.readouterr().err
    for part in (
        "line 3: no subject",
        "line 4: nobody",
        "line 5: unknown regime",
        "line 6: the same subject as line 2",
    ):
        assert part in " ".join(err.split())
    assert "person-00004-x" not in err
    assert snapshot(workspace.root) == before


def test_double_submission_is_harmless(workspace, capsys):
    for _ in range(2):
        assert (
            workspace("ticket", "submit", "--subject", "person-00009-x", "--idempotency-key", "k9", "--json")
            == 0
        )
    out = capsys.readouterr().out
    first, second = (json.loads("{" + part) for part in out.split("{")[1:])
    assert first == second
    before = snapshot(workspace.root)
    assert workspace("ticket", "submit", "--subject", "person-00010-x", "--idempotency-key", "k9") == 2
    assert "another request" in capsys.readouterr().err
    assert workspace("ticket", "submit", "--subject", "person-00009-x") == 0
    assert "there already" in capsys.readouterr().out
    assert snapshot(workspace.root) == before


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("policy.yaml", {"release": {"sigma": -1}}, "release.sigma"),
        ("policy.yaml", {"invented": 1}, "invented"),
        ("params.yaml", {"training": {"l2": 0}}, "training.l2"),
        ("params.yaml", None, "not YAML"),
    ],
)
def test_settings_with_faults(workspace, file, change, message, capsys):
    path = workspace.root / file
    good = path.read_text()
    path.write_text("a: [" if change is None else yaml.safe_dump({**yaml.safe_load(good), **change}))
    try:
        assert workspace("plan") == 2
    finally:
        path.write_text(good)
    assert message in capsys.readouterr().err


def test_no_workspace(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (
        ["plan"],
        ["run"],
        ["train"],
        ["ticket", "list"],
        ["ledger", "show"],
        ["purge", "preview"],
    ):
        assert invoke(command) == 2
        assert "expunge init" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


INIT = {
    "unknown dataset": (["--dataset", "iris"], "unknown dataset"),
    "source for a bundled set": (["--dataset", "digits", "--source", "."], "bundled"),
    "source that is not there": (["--dataset", "adult", "--source", "absent"], "not there"),
    "wrong file": (["--dataset", "diabetes130", "--source", "POLICY"], "cannot read"),
    "folder without contract": (["--dataset", "EMPTY"], "no contract"),
    "folder with faults": (["--dataset", "FAULTY"], "column dose is missing"),
}


@pytest.mark.parametrize("name", INIT)
def test_init_makes_nothing_by_halves(name, workspace, tmp_path, capsys):
    faulty, empty = make_clinic(tmp_path / "faulty"), tmp_path / "empty"
    empty.mkdir()
    text = (faulty / "visits.csv").read_text().replace("dose", "drug")
    (faulty / "visits.csv").write_text(text.replace("ill", "sick", 1))
    known = {"POLICY": str(workspace.root / "policy.yaml"), "EMPTY": str(empty), "FAULTY": str(faulty)}
    arguments, message = INIT[name]
    target = tmp_path / "new"
    assert invoke(["init", str(target), *(known.get(a, a) for a in arguments)]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert message in err
    if name == "folder with faults":
        assert "rows outside classes" in err  # every fault is listed
    assert not target.exists()


def test_init_leaves_a_folder_in_use_alone(workspace, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    assert invoke(["init", str(tmp_path), "--dataset", "digits"]) == 2
    assert "in use" in capsys.readouterr().err
    before = snapshot(workspace.root)
    assert invoke(["init", str(workspace.root), "--dataset", "digits"]) == 2
    assert "workspace already" in capsys.readouterr().err
    assert snapshot(workspace.root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


DECLARED = {"public": True, "source": "nowhere", "declared_on": "2026-01-31"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "resnet"}, "unknown model"),
        ({"name": "absent_module:make"}, "nobody declared that absent_module:make is public"),
        ({"name": "absent_module:make", **DECLARED}, "cannot make the model"),
        ({"name": "linearized-mlp", "hyperparameters": {"hidden": []}}, "invalid hidden"),
        ({"name": "linearized-mlp", "hyperparameters": {"depth": 3}}, "hyperparameters"),
    ],
)
def test_train_with_a_wrong_model(workspace, model, message, capsys):
    """The stage that dvc.yaml calls says what is wrong; nothing is trained."""
    path = workspace.root / "params.yaml"
    good = path.read_text()
    path.write_text(yaml.safe_dump({**yaml.safe_load(good), "model": model}))
    try:
        assert workspace("stage", "prepare") == 0
        assert workspace("stage", "train") == 2
    finally:
        path.write_text(good)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (workspace.root / "build" / "model").exists()


def test_a_device_that_is_not_here(workspace, monkeypatch, capsys):
    assert workspace("stage", "prepare") == 0
    monkeypatch.setenv("EXPUNGE_DEVICE", "cuda:99")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    before = snapshot(workspace.root)
    here = ["--workspace", str(workspace.root)]
    for command in (["stage", "train", *here], ["up", *here], ["worker", "gpu"]):
        assert invoke(command) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "EXPUNGE_DEVICE names no device of this machine" in error
        assert "got cuda:99" in error
    assert snapshot(workspace.root) == before
    assert workspace("doctor") == 3
    assert "cuda:99" in capsys.readouterr().out


def test_unreachable_services_exit_3(workspace, monkeypatch, capsys):
    monkeypatch.setenv("EXPUNGE_DATABASE_URL", "postgresql+psycopg://x:secret@127.0.0.1:1/none")
    assert workspace("ticket", "list") == 3
    err = capsys.readouterr().err
    assert "cannot be reached" in err
    assert "secret" not in err
    monkeypatch.delenv("EXPUNGE_DATABASE_URL")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert workspace("train") == 3
    assert "Prefect server does not answer" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert workspace("plan") == 3
    assert "MLflow cannot be reached" in " ".join(capsys.readouterr().err.split())


def test_doctor_names_what_is_wrong(workspace, capsys):
    key = workspace.root / ".expunge" / "keys" / "auditor.key"
    key.chmod(0o644)
    try:
        assert workspace("doctor", "--json") == 3
    finally:
        key.chmod(0o600)
    text = capsys.readouterr().out
    checks = {c["check"]: c["ok"] for c in json.loads(text)["checks"]}
    assert checks["keys are private"] is False
    assert checks["git"] is True
    assert workspace("doctor") == 0


def test_steering_a_ticket(workspace, capsys):
    ticket = workspace.ticket("person-00012-x")
    assert workspace("ticket", "hold", ticket, "--reason", "legal") == 0
    assert workspace("ticket", "release", ticket) == 0
    assert workspace("ticket", "withdraw", ticket, "--reason", "asked to") == 0
    assert workspace("ticket", "hold", ticket, "--reason", "late") == 2
    capsys.readouterr()
    assert workspace("ticket", "show", ticket, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "withdrawn"
    assert [event["to"] for event in shown["history"]][-3:] == ["on_hold", "verified", "withdrawn"]
    assert {"ticket_id", "state", "received_at", "due_at", "pseudonym", "batch_id"} <= set(shown)
    assert "person-00012-x" not in json.dumps(shown)


def test_a_demo_that_cannot_start_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert invoke(["demo", "--dataset", "iris"]) == 2
    assert "unknown dataset" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_is_quick():
    """Best of three: an import of a heavy library would cost seconds."""
    binary = Path(sys.executable).parent / "expunge"
    code = (
        "import sys, cli.main; print([m for m in ('torch', 'prefect', 'mlflow', 'dvc') if m in sys.modules])"
    )
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == "[]"
    began = time.monotonic()
    assert "demo" in subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    print(f"--help took {time.monotonic() - began:.2f} s")


def _git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_init_leaves_a_repository_with_its_own_settings_alone(tmp_path, monkeypatch, capsys):
    root = tmp_path / "repo"
    root.mkdir()
    _git(root, "init", "-q")
    (root / "params.yaml").write_text("lr: 0.1\n")
    _git(root, "add", "-A")
    _git(root, "commit", "-qm", "ours")
    before = snapshot(root), _git(root, "log", "--format=%H")
    clinic = str(make_clinic(tmp_path / "clinic"))
    assert invoke(["init", str(root), "--dataset", clinic]) == 2
    assert "params.yaml" in capsys.readouterr().err
    assert (snapshot(root), _git(root, "log", "--format=%H")) == before
    # whatever fails after the commits: none is left, and nothing of ours
    _git(root, "rm", "-q", "params.yaml")
    _git(root, "commit", "-qm", "gone")
    log = _git(root, "log", "--format=%H")

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("tasks.workspace.record_dataset", fail)
    with pytest.raises(RuntimeError):
        invoke(["init", str(root), "--dataset", clinic])
    assert _git(root, "log", "--format=%H") == log
    assert _git(root, "status", "--porcelain") == ""


def test_init_says_what_to_do_after_a_kill_and_where_nothing_can_be_written(tmp_path, capsys):
    clinic = str(make_clinic(tmp_path / "clinic"))
    (tmp_path / "w" / ".expunge").mkdir(parents=True)
    (tmp_path / "w" / ".expunge" / "init.json").write_text('{"fresh": true, "head": ""}')
    assert invoke(["init", str(tmp_path / "w"), "--dataset", clinic]) == 2
    assert "remove the folder" in " ".join(capsys.readouterr().err.split())
    assert invoke(["init", "/proc/ws", "--dataset", clinic]) == 2
    assert "cannot be written" in " ".join(capsys.readouterr().err.split())


REFUSED_MODEL = """
import torch
def make(in_features, out_features):
    hidden = torch.nn.Linear(in_features, 4)
    return torch.nn.Sequential(hidden, {layer}, torch.nn.Linear(4, out_features))
"""
REFUSED_LAYERS = {
    "BatchNorm1d(4)": "buffers",
    "BatchNorm1d(4, track_running_stats=False)": "other records",
    "Dropout(0.1)": "dropout",
}


def test_what_a_stage_refuses_is_said_once(tmp_path, prefect_api, capfd):
    root = tmp_path / "workspace"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(tmp_path / "clinic"))]) == 0
    model = "model: {name: 'own:make', public: true, source: a test, declared_on: '2026-01-31', hyperparameters: {}}"
    params = root / "params.yaml"
    capfd.readouterr()
    params.write_text(f"version: 1\n{model}\n")
    assert invoke(["train", "--workspace", str(root)]) == 2
    assert "no training" in capfd.readouterr().err
    params.write_text(f"version: 1\n{model}\ntraining: {{}}\n")
    for layer, told in REFUSED_LAYERS.items():
        (root / "own.py").write_text(REFUSED_MODEL.format(layer=f"torch.nn.{layer}"))
        assert invoke(["train", "--workspace", str(root)]) == 2
        said = [line for line in capfd.readouterr().err.splitlines() if "error" in line.lower()]
        assert len(said) == 1
        assert told in said[0]
