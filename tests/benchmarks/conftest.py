"""Small settings are run once a session."""

import pytest

from benchmarks import runner


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """From a small setting's name to the document of a fresh run of it, and the folder it lies in."""
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            place = runner.Place(scratch=folder / "scratch")
            done[name] = runner.run(name, place, folder), folder
        return done[name]

    return run
