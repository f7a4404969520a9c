"""A disk that is full at the partition write, then a little less each time: nothing is lost, the batch ends as ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def may_mount(folder: Path) -> bool:
    folder.mkdir()
    try:
        mount = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_full_disk_loses_nothing(tmp_path, prefect_api):
    if not may_mount(tmp_path / "probe"):
        pytest.skip("this system lets no unprivileged user mount a file system (unshare --mount)")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.flows.full_disk", str(tmp_path)],
        cwd=CHECKOUT,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    runs = [line for line in done.stdout.splitlines() if line.startswith("RUN ")]
    print("\n".join(runs))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "END STATE HOLDS" in done.stdout
    assert "Traceback" not in done.stderr  # one clear line each time
    stages = {line.rpartition(" ")[2] for line in runs if "exit code 3" in line}
    assert len(stages) >= 3  # it was full at several places
