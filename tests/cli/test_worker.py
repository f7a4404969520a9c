"""What a worker tells Prefect about its console."""

import logging
import logging.config

import pytest

from cli.worker import _console
from expunge.logs import JsonLines


@pytest.mark.parametrize("form", ["plain", "json"])
def test_prefect_takes_our_log_format(monkeypatch, form):
    from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH, load_logging_config

    monkeypatch.setenv("EXPUNGE_LOG_FORMAT", form)
    for name, value in _console().items():
        monkeypatch.setenv(name, value)
    config = load_logging_config(DEFAULT_LOGGING_SETTINGS_PATH)
    console = config["handlers"]["console"]
    assert console["level"] == "INFO"
    configurator = logging.config.DictConfigurator(config)
    formatter = configurator.configure_formatter(config["formatters"][console["formatter"]])
    assert isinstance(formatter, JsonLines) == (form == "json")
