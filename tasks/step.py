"""How a step becomes a Prefect task: nothing of it is cached, persisted or retried by Prefect.

Prefect stores and shows parameters and results: steps take and return ids and counts only. Retrying is the saga's
business, because some steps draw noise.
"""

import functools
import inspect
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError

from expunge import progress
from expunge.errors import ExpungeError, storage_full

_FIELDS: ContextVar[dict[str, str]] = ContextVar("expunge_step")  # of the log lines of a step


def _without_trace(record: logging.LogRecord) -> bool:
    """A deliberate error says in one line all that there is to say: where it was raised tells its reader nothing."""
    if record.exc_info and isinstance(record.exc_info[1], ExpungeError):
        record.exc_info = None
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_without_trace)


def step(function: Callable[..., Any]) -> Any:
    """Make a task of a function; `.fn` is the function itself.

    Args:
        function: Takes and returns ids and counts.

    Returns:
        The task.
    """
    of_batch = next(iter(inspect.signature(function).parameters), "") == "batch_id"

    @functools.wraps(function)
    def reported(*arguments: Any) -> Any:
        progress.report(function.__name__.replace("_", " "), 0, 0)
        batch = {"batch_id": str(arguments[0])} if of_batch and arguments else {}
        token = _FIELDS.set({"stage": function.__name__, **batch})
        try:
            return function(*arguments)
        except OSError as error:
            full = storage_full(error)
            if full is None:
                raise
            raise full from error
        finally:
            _FIELDS.reset(token)

    made = task(name=function.__name__, persist_result=False, cache_policy=NO_CACHE, retries=0)
    return made(reported)


def log(message: str, **fields: str) -> None:
    """Log to the run in Prefect, if there is one; in a step with its name and batch as fields.

    Args:
        message: Without personal data and without unnoised figures.
        **fields: More of them.
    """
    try:
        get_run_logger().info(message, extra={**_FIELDS.get({}), **fields})
    except MissingContextError:
        return


def warn(message: str) -> None:
    """Log a warning to the run in Prefect, else to standard error by way of Python's logging.

    Args:
        message: Without personal data and without unnoised figures.
    """
    try:
        get_run_logger().warning(message, extra=_FIELDS.get({}))
    except MissingContextError:
        logging.getLogger(__name__).warning(message)


class Timer:
    """Wall time of a stage, for the operator; starts when made."""

    def __init__(self) -> None:
        """Start."""
        self._began = time.perf_counter()

    def seconds(self, data: dict[str, Any], stage: str) -> dict[str, float]:
        """Stage times with this one added.

        Args:
            data: Of the batch.
            stage: Which stage ends now.

        Returns:
            Seconds by stage.
        """
        taken = time.perf_counter() - self._began
        spent: dict[str, float] = data.get("seconds", {})
        return {**spent, stage: round(spent.get(stage, 0.0) + taken, 3)}
