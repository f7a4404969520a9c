"""Seconds that imports take in this process, one after the other: `python -m benchmarks.imports torch mlflow`."""

import importlib
import json
import os
import sys
import time

import tasks.adapters.collector  # noqa: F401 (a process that runs steps ends as it makes it end)


def main(names: list[str]) -> None:
    """Import and print."""
    os.environ.update(GX_ANALYTICS_ENABLED="false", MLFLOW_DISABLE_TELEMETRY="true")
    seconds = {}
    for name in names:
        began = time.perf_counter()
        importlib.import_module(name)
        seconds[name] = time.perf_counter() - began
    sys.stdout.write(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
