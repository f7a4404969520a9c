"""The PostgreSQL server of the tickets' tests, for a whole stack."""

from tests.tickets.conftest import postgres

__all__ = ["postgres"]
