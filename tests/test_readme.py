"""The README's commands and files, as a new user would use them, in a bare folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import clinic_rows

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(mark: str) -> dict[str, str]:
    """Code blocks that follow `<!-- mark: name -->`."""
    return dict(re.findall(rf"<!-- {mark}: (\S+) -->\n```\w+\n(.*?)```", README, flags=re.DOTALL))


@pytest.mark.parametrize("name", ["tour", "own"])
def test_commands(name, tmp_path, prefect_api):
    for path, text in blocks("file").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    clinic_rows().assign(pulse=71.0).to_csv(tmp_path / "visits" / "visits.csv", index=False)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", blocks("tested")[name]],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_API_URL": prefect_api,
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "temporary server" not in done.stderr  # one that Prefect starts besides loses its records
    assert "VERIFIED" in done.stdout
    assert "convex" in done.stdout


def test_every_linked_file_is_there():
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (root / link).exists()] == []
