"""The supervisor with small processes of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.adapters import supervisor

CHECKOUT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
]
PARENT = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(60)
"""
PROGRAM = """\
import sys
from pathlib import Path
from tasks.adapters import supervisor
supervisor._KILL_S = 1.0
folder = Path(sys.argv[1])
services = [supervisor.Service("first", {0}), supervisor.Service("second", {1})]
sys.exit(supervisor.supervise(folder, folder / "logs", services))
"""


def start(folder: Path, first: list[str], second: list[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(first, second), str(folder)], cwd=CHECKOUT
    )
    wait(lambda: {"first", "second"} <= running(folder).keys())
    return process


def running(folder: Path) -> dict[str, int]:
    processes = supervisor.read_table(folder).get("processes", {})
    return {name: facts["pid"] for name, facts in processes.items() if supervisor.alive(facts)}


def wait(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_what_dies_is_started_again_and_one_supervisor_is_enough(tmp_path):
    process = start(tmp_path, SLEEP, SLEEP)
    try:
        assert supervisor.is_up(tmp_path)
        assert supervisor.supervise(tmp_path, tmp_path / "logs", []) == 1
        before = running(tmp_path)
        os.kill(before["second"], signal.SIGKILL)
        wait(lambda: running(tmp_path).get("second", before["second"]) != before["second"])
        table = supervisor.read_table(tmp_path)["processes"]
        assert (table["first"]["restarts"], table["second"]["restarts"]) == (0, 1)
        assert running(tmp_path)["first"] == before["first"]
    finally:
        assert supervisor.shut_down(tmp_path)
    assert process.wait(5) == 0
    assert not any(psutil.pid_exists(pid) for pid in before.values())
    assert not supervisor.is_up(tmp_path)
    assert not supervisor.shut_down(tmp_path)


def test_what_does_not_end_is_killed(tmp_path):
    process = start(tmp_path, SLEEP, STUBBORN)
    pids = running(tmp_path)
    time.sleep(0.5)  # until it ignores the signal
    assert supervisor.shut_down(tmp_path)
    assert process.wait(5) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


def test_orphans_of_a_killed_supervisor_are_found(tmp_path):
    process = start(tmp_path, SLEEP, SLEEP)
    pids = running(tmp_path)
    process.kill()
    process.wait()
    assert not supervisor.is_up(tmp_path)
    assert supervisor.shut_down(tmp_path)
    wait(lambda: running(tmp_path) == {})
    for pid in pids.values():
        wait(lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


@pytest.mark.parametrize("way", ["killed", "stopped", "orphaned"])
def test_what_left_the_group_of_a_process_goes_with_it(tmp_path, way):
    """A worker starts its runs in sessions of their own."""
    note = tmp_path / "child"
    process = start(tmp_path, SLEEP, [sys.executable, "-c", PARENT, str(note)])
    wait(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    assert os.getpgid(child) == child
    try:
        if way == "killed":
            os.kill(running(tmp_path)["second"], signal.SIGKILL)
        if way == "orphaned":
            process.kill()
        if way != "killed":
            assert supervisor.shut_down(tmp_path)
        wait(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")
    finally:
        supervisor.shut_down(tmp_path)
        process.wait()


def test_pauses_grow(tmp_path):
    service = supervisor.Service("fails", [sys.executable, "-c", "raise SystemExit(1)"])
    pauses = []
    for _ in range(3):
        service.not_before = 0.0
        assert service.tend(tmp_path)
        service.process.wait(5)
        assert service.tend(tmp_path)
        pauses.append(round(service.not_before - time.monotonic()))
        assert not service.tend(tmp_path)
    assert pauses == [1, 2, 4]
    assert (tmp_path / "fails.log").exists()
