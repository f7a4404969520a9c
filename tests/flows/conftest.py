"""Both databases that tickets may live in."""

from tests.tickets.conftest import postgres, url

__all__ = ["postgres", "url"]
