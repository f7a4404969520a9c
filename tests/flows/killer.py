"""Run `expunge run` and die at a named call: `python -m tests.flows.killer WHERE WHEN ROOT`."""

import importlib
import os
import signal
import sys

from cli.main import invoke


def arm(where: str, when: str) -> None:
    """Make a function of the product kill this process before or after it runs."""
    module_name, _, path = where.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)

    def deadly(*arguments, **named):
        if when == "after":
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2])
    sys.exit(invoke(["run", "--workspace", sys.argv[3]]))
