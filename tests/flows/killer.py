"""A command in a process of its own that dies by SIGKILL, with everything it started: at a call, or at a time."""

import importlib
import multiprocessing
import os
import signal
import time

KILLED = -signal.SIGKILL
# Forked from a process that has imported everything: a run takes seconds, its imports would take longer.
_PRELOAD = [
    "cli.run",
    "flows.sweep",
    "tasks.adapters.expectations",
    "dvc.repo.add",
    "dvc.repo.push",
    "networkx.algorithms",
    "networkx.generators",
    "alembic.autogenerate",
    "git.objects",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracing",
    "mlflow.store.model_registry.sqlalchemy_store",
    "matplotlib.pyplot",
    "torch._dynamo",
    "torch._inductor",
    "sympy",
]


def run(root, *, where="", when="after", seconds=None, purge="", command=("run",)) -> int:
    """Run what is due in a workspace, and kill the run, if it does not end before.

    Args:
        root: The workspace.
        where: ``module:Class.function`` of the product whose call is deadly.
        when: before or after the call.
        seconds: Or how long the run may live.
        purge: Not a whole run: only the purge of this batch.
        command: Of the command line.

    Returns:
        The exit code; ``KILLED`` for a killed run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    database = os.environ.get("EXPUNGE_DATABASE_URL")  # the fork server keeps the environment it began with
    process = context.Process(target=_run, args=(str(root), where, when, purge, database, tuple(command)))
    process.start()
    process.join(300 if seconds is None else seconds)
    if process.is_alive():
        assert seconds is not None, f"neither killed nor done: {where}"
        _kill(process.pid)
        process.join()
    return process.exitcode


def _kill(pid) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it does not lead its group yet
        os.kill(pid, signal.SIGKILL)


def _run(
    root: str, where: str, when: str, purge: str, database: str | None, command: tuple[str, ...]
) -> None:
    os.setsid()
    if database:
        os.environ["EXPUNGE_DATABASE_URL"] = database
    from cli.main import invoke

    if where:
        _arm(where, when)
    if purge:
        os.environ["EXPUNGE_WORKSPACE"] = root
        from tasks import purge as module

        module.purge.fn(purge)
        os._exit(0)
    os._exit(invoke([*command, "--workspace", root]))


def _arm(where: str, when: str) -> None:
    module_name, _, path = where.partition(":")
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)

    def deadly(*arguments, **named):
        if when == "after":
            original(*arguments, **named)
        os.killpg(0, signal.SIGKILL)
        time.sleep(60)

    setattr(owner, name, deadly)
