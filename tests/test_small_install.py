"""The verifier alone: what it imports, what it needs, and what it says where more is needed."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "certificate-v1-signed-convex"
VERIFY = [
    "certificate", "verify", str(GOLDEN), "--key", str(GOLDEN / "auditor" / "trusted-keys.json"),
    "--annex-key", str(GOLDEN / "auditor" / "annex.key"), "--model", str(GOLDEN / "model"),
]  # fmt: skip
# Runs the command where nothing can be imported but Python itself, this project and the verifier's own packages.
ALONE = textwrap.dedent("""
    import json, socket, sys
    allowed, arguments = json.loads(sys.argv[1]), sys.argv[2:]

    class Absent:
        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
                raise ModuleNotFoundError(f"No module named {top!r}", name=top)

    def refuse(*_):
        raise OSError("the network was used")

    sys.meta_path.insert(0, Absent())
    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
    from cli.main import invoke
    code = invoke(arguments)
    heavy = ("torch", "prefect", "mlflow", "dvc", "great_expectations", "sqlalchemy", "pandas", "sklearn", "fastapi")
    assert not set(heavy) & set(sys.modules)
    sys.exit(code)
""")


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def modules() -> list[str]:
    """Top-level modules of the packages in the verifier's lock."""
    mine = {canonical(name) for name in locked("requirements-verifier.lock")}
    found = importlib.metadata.packages_distributions()
    named = [module for module, packages in found.items() if mine & {canonical(p) for p in packages}]
    return [*named, "cli", "expunge", "flows", "tasks"]


def alone(*arguments: str, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, json.dumps(modules()), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_lock_is_closed_exact_and_a_part_of_the_whole():
    whole, part = locked("requirements.lock"), locked("requirements-verifier.lock")
    assert part.items() <= whole.items()
    base = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted, seen = [Requirement(line) for line in base], set()
    while wanted:
        requirement = wanted.pop()
        name = canonical(requirement.name)
        if name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(name)
            wanted += [Requirement(line) for line in importlib.metadata.requires(name) or []]
    assert seen == {canonical(name) for name in part}


def test_evidence_is_verified_without_anything_else_and_without_network():
    done = alone(*VERIFY, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verified"]
    assert any(line.startswith("signature by key") for line in answer["checked"])
    assert "annex: the realised error is within the bound" in answer["checked"]
    assert any("pip install model-signing" in line for line in answer["missing"])
    assert answer["taken"] == [
        "certificate.json", "certificate.dsse.json", "ledger.json", "annex.sealed", "public-keys.json", "model.sig",
    ]  # fmt: skip


def test_a_ledger_is_verified_and_help_is_given_alone():
    key = str(GOLDEN / "auditor" / "trusted-keys.json")
    done = alone("ledger", "verify", str(GOLDEN / "ledger.json"), "--key", key, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"]
    done = alone("--help")
    assert done.returncode == 0, done.stderr
    assert "certificate" in done.stdout


def test_evidence_that_does_not_hold_is_one_document_and_exit_code_1(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "e")
    text = (tmp_path / "e" / "certificate.json").read_text().replace('"records": 6', '"records": 5')
    (tmp_path / "e" / "certificate.json").write_text(text)
    done = alone("certificate", "verify", str(tmp_path / "e"), "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["verified"] is False
    assert any("forget.records" in finding for finding in answer["findings"])
    assert done.stderr.count("error:") == 1
    done = alone("ledger", "verify", str(tmp_path / "e" / "ledger.json"), "--witness", str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("error:")) == (2, 1)


@pytest.mark.parametrize(
    "command",
    ["ticket list", "run", "plan", "doctor", "serve", "up", "status", "demo", "train", "init somewhere", "purge verify",
     "certificate verify c-0123456789abcdef", "certificate list", "ledger show", "ledger verify", "keys init",
     "token list", "coverage list", "suppression list"],
)  # fmt: skip
def test_commands_that_need_more_say_so_in_one_line(command, tmp_path):
    done = alone(*command.replace("somewhere", str(tmp_path / "w")).split())
    assert done.returncode == 2, done.stderr
    assert "this command needs the full installation: pip install 'expunge[full]'" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()


def test_the_documented_commands_verify(tmp_path):
    """Those of docs/verifying.md, in the small installation's environment, on evidence as it is handed over."""
    text = (ROOT / "docs" / "verifying.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- tested: verify -->\n```bash\n(.*?)```", text, flags=re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) >= 4
    shutil.copytree(
        GOLDEN, tmp_path / "evidence", ignore=shutil.ignore_patterns("auditor", "model", "README.md")
    )
    shutil.copytree(GOLDEN / "model", tmp_path / "model")
    for name in ("trusted-keys.json", "annex.key"):
        shutil.copyfile(GOLDEN / "auditor" / name, tmp_path / name)
    shutil.copyfile(GOLDEN / "ledger.json", tmp_path / "witness.json")
    for program, *arguments in commands:
        assert program == "expunge"
        done = alone(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["verified"] if "--json" in arguments else "VERIFIED" in done.stdout


def test_every_answer_that_the_docs_explain_is_given_by_the_code():
    text = (ROOT / "docs" / "verifying.md").read_text(encoding="utf-8")
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "expunge" / "evidence").glob("*.py")
    )
    answers = re.findall(r"^\| `(?:WRONG|missing): (.+?)` \|", text, flags=re.MULTILINE)
    assert len(answers) >= 14
    for answer in answers:
        parts = [
            part
            for part in re.split(r"\.\.\.|\bN\b|FILE|^ledger: |^signature: (?=a|no)|witness 1", answer)
            if len(part.strip(" :")) > 2
        ]
        assert parts or answer.startswith(("ledger: entry", "ledger: witness", "annex"))
        for part in parts:
            assert part.strip(" :") in code, answer


@pytest.mark.slow
def test_a_fresh_environment_verifies_what_the_demo_left(tmp_path):
    """Installed alone, on evidence copied out of the demo's workspace."""

    def run(*command, **more):
        done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    run(sys.executable, "-m", "cli.main", "demo", "--workspace", str(tmp_path / "demo"), env=here)
    (evidence,) = (tmp_path / "demo" / ".expunge" / "evidence").glob("c-*")
    shutil.copytree(evidence, tmp_path / "copied")
    keys = tmp_path / "demo" / ".expunge" / "keys"
    shutil.copyfile(keys / "public-keys.json", tmp_path / "keys.json")
    shutil.copyfile(keys / "auditor.key", tmp_path / "annex.key")
    shutil.copytree(tmp_path / "demo" / "build" / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "demo")
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    pip = [
        str(tmp_path / "venv" / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    run(*pip, "-r", str(ROOT / "requirements-verifier.lock"))
    shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "build", "tests", "mlruns")
    )
    run(*pip, "--no-deps", str(tmp_path / "source"))
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone = str(tmp_path / "venv" / "bin" / "expunge")
    answer = run(
        alone, "certificate", "verify", "copied", "--key", "keys.json", "--annex-key", "annex.key", "--model", "model",
        "--json", cwd=tmp_path, env=elsewhere,
    )  # fmt: skip
    assert json.loads(answer)["verified"]
    assert any(line.startswith("signature by key") for line in json.loads(answer)["checked"])
    told = run(
        alone, "ledger", "verify", "copied/ledger.json", "--key", "keys.json", cwd=tmp_path, env=elsewhere
    )
    assert "VERIFIED" in told
