"""The garbage collector rests during heavy imports only, and has nothing to look through at exit."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.adapters import collector

PROJECT = Path(__file__).resolve().parents[2]


@collector.resting()
def failing_import() -> None:
    raise ImportError("as ever" if gc.isenabled() else "while it rested")


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_afterwards_as_it_was_even_after_an_error(enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ImportError, match="while it rested"):
            failing_import()
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()


def test_at_exit_everything_is_frozen() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); import tasks.adapters.collector"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 1000
