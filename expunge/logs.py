"""Log lines of our own processes on standard error: for people, or one JSON object a line.

Whatever is logged is without personal data; fields that a machine reads (route, batch_id) come as ``extra``.
"""

import logging
import logging.config
import os
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from expunge.errors import InputError

FORMATS = ("plain", "json")
_PLAIN = "%(asctime)s %(levelname)s %(name)s %(message)s"
_NOISE = ("color_message", "send_to_api")  # what uvicorn and Prefect add for their own handlers


class JsonLines(JsonFormatter):
    """One JSON object a line: time (UTC), level, logger, message, and the record's fields."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take none of what a logging configuration passes: the format is this one."""
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, *_NOISE],
            timestamp="time",
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Put the time first.

        Args:
            log_data: The fields.

        Returns:
            The fields in the order in which they are written.
        """
        return {"time": log_data.pop("time"), **log_data}


def log_format(default: str = FORMATS[0]) -> str:
    """Read ``EXPUNGE_LOG_FORMAT``.

    Args:
        default: Where it is not set.

    Returns:
        plain or json.

    Raises:
        InputError: If it is neither.
    """
    named = os.environ.get("EXPUNGE_LOG_FORMAT") or default
    if named not in FORMATS:
        raise InputError("invalid EXPUNGE_LOG_FORMAT", expected=" or ".join(FORMATS), got=named)
    return named


def configure(**levels: str) -> None:
    """Log to standard error, Python's warnings too.

    Args:
        **levels: Level by logger; others log from WARNING on.

    Raises:
        InputError: If ``EXPUNGE_LOG_FORMAT`` cannot be understood.
    """
    chosen = log_format()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": _PLAIN}, "json": {"()": JsonLines}},
            "handlers": {
                "err": {"class": "logging.StreamHandler", "formatter": chosen, "stream": "ext://sys.stderr"}
            },
            "root": {"handlers": ["err"], "level": "WARNING"},
            "loggers": {name: {"level": level} for name, level in levels.items()},
        }
    )
    logging.captureWarnings(True)
