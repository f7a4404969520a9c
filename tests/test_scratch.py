"""Scratch folders, and the names by which a dead process's are told from a living one's."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from expunge.processes import may_be_alive, process_name, started
from expunge.scratch import destroy_abandoned, scratch

HOLD = """
import sys, time
from pathlib import Path
from expunge.scratch import scratch
with scratch(Path(sys.argv[1])) as own:
    (own / "weights").write_bytes(b"w")
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with scratch(tmp_path) as own:
        (own / "weights").write_bytes(b"w")
        assert destroy_abandoned(tmp_path) == 0  # ours, and alive
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_destroyed_and_a_living_ones_is_not(tmp_path, holder):
    assert destroy_abandoned(tmp_path) == 0
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert destroy_abandoned(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_hosts_is_left_for_a_day(tmp_path):
    folder = tmp_path / "elsewhere:1:1-abc"
    folder.mkdir()
    assert destroy_abandoned(tmp_path) == 0
    before = time.time() - 25 * 3600
    os.utime(folder, (before, before))
    assert destroy_abandoned(tmp_path) == 1


def test_a_later_process_of_the_same_id_is_another():
    host, pid, start = process_name().split(":")
    boot, _, since = start.partition("+")
    earlier = f"{boot}+{float(since) - 100:.2f}"
    assert may_be_alive(process_name())
    assert not may_be_alive(f"{host}:{pid}:{earlier}")
    assert not may_be_alive(f"{host}:{pid}:another-boot+{since}")
    assert may_be_alive(f"elsewhere:{pid}:{earlier}")
    assert not may_be_alive(f"{host}:{2**22 + 1}:1")


def test_whoever_sets_the_clock_makes_no_process_a_later_one(monkeypatch, holder):
    """The operating system tells a start as the boot's time of day and what has passed since."""
    own, other = process_name(), f"{process_name().split(':')[0]}:{holder.pid}:{started(holder.pid)}"
    boot, created = psutil.boot_time, psutil.Process.create_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
    assert process_name() == own
    assert may_be_alive(own)
    assert may_be_alive(other)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3601)
    assert not may_be_alive(other)  # a later process of that number
