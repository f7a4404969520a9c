"""The database of tickets, batches, leases and ledgers: SQLite by default, PostgreSQL in production."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

from expunge.errors import InputError, ServiceUnavailableError


class Base(DeclarativeBase):
    """All tables."""


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Store in UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: Any | None, dialect: Any) -> datetime | None:
        """Read as UTC."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Database:
    """An opened database.

    Args:
        engine: SQLAlchemy engine.
    """

    def __init__(self, engine: Engine) -> None:
        """Keep the engine."""
        self._engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on any error.

        Yields:
            The session.

        Raises:
            ServiceUnavailableError: If the database went away.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise _unreachable(self._engine, error) from error

    def compact(self) -> None:
        """Give freed pages back, so that erased values are in no page of the file any more."""
        statements = (
            ["VACUUM"]
            if self._engine.dialect.name == "sqlite"
            else ["VACUUM FULL tickets", "VACUUM FULL batches"]
        )
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.execute(text(statement))

    @property
    def path(self) -> Path | None:
        """The database's file, for SQLite."""
        name = self._engine.url.database
        return Path(name).resolve() if self._engine.dialect.name == "sqlite" and name else None

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open a database and make its tables.

    Args:
        url: SQLAlchemy URL: ``sqlite:///file`` or ``postgresql+psycopg://...``.

    Returns:
        The database.

    Raises:
        InputError: If the URL is malformed.
        ServiceUnavailableError: If it cannot be reached.
    """
    # Table modules register themselves on Base.
    from expunge.evidence import store as _evidence  # noqa: F401
    from expunge.tickets import tables as _tickets  # noqa: F401

    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, hide_parameters=True)  # errors must not repeat a subject id
    except (ArgumentError, ImportError) as error:
        raise InputError(
            "invalid database URL",
            expected="sqlite:///FILE or postgresql+psycopg://...",
            got=type(error).__name__,
            remedy="correct EXPUNGE_DATABASE_URL",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    try:
        Base.metadata.create_all(engine)
    except OperationalError as error:
        raise _unreachable(engine, error) from error
    return Database(engine)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        "secure_delete=ON",
        "foreign_keys=ON",
        "journal_mode=DELETE",
        "synchronous=FULL",
        "busy_timeout=10000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _unreachable(engine: Engine, error: OperationalError) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        "the tickets database cannot be reached",
        expected=engine.url.render_as_string(hide_password=True),
        got=" ".join(str(error.orig).split())[:200],
        remedy="start it, or correct EXPUNGE_DATABASE_URL",
    )
