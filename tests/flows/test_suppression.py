"""Two batches with imports, an old checkout and a restored backup between: nobody comes back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.datasets.partitions import read_dataset
from tasks.adapters import git
from tests.conftest import Expunge, make_clinic, make_workspace

FIRST, NEW = "person-00005-x", "person-00081-x"


def people(expunge: Expunge) -> set[str]:
    return set(read_dataset(expunge.root / "data" / "dataset")["subject_id"])


@pytest.mark.slow
def test_nobody_comes_back(
    tmp_path: Path, prefect_api: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expunge = make_workspace(tmp_path / "workspace", tmp_path)
    root, backup = expunge.root, tmp_path / "backup"
    shutil.copytree(root / "data" / "dataset", backup)
    git.git(root, "tag", "old")
    grown = str(make_clinic(tmp_path / "grown", people=84))

    expunge.ticket(FIRST)
    assert expunge("run") == 0
    assert expunge("data", "import", grown) == 0
    assert NEW in people(expunge)
    assert expunge("data", "checkout", "old") == 1
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet"]
    for revision in ("old", "main"):
        git.git(root, "checkout", "--quiet", revision)
        subprocess.run(command, cwd=root, check=True, env=git.clean_environment())
        assert FIRST not in people(expunge)
        assert NEW in people(expunge)

    expunge.ticket(NEW)
    assert expunge("run") == 0
    assert expunge("data", "import", grown) == 0
    assert expunge("data", "restore", str(backup)) == 0
    assert not people(expunge) & {FIRST, NEW}
    certificates = expunge.certificates()
    assert [c["guarantee"] for c in certificates] == ["convex", "convex"]
    assert certificates[0]["dataset"]["after"]["md5"] != certificates[1]["dataset"]["before"]["md5"]
    capsys.readouterr()
    code = expunge("purge", "verify", "--subject", FIRST, "--subject", NEW, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (code, report["hits"]) == (0, [])
