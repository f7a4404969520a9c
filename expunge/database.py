"""The database of tickets, batches, leases and ledgers: SQLite by default, PostgreSQL in production."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.types import TypeDecorator

from expunge.append_only import protect
from expunge.errors import (
    ExpungeError,
    InputError,
    ServiceUnavailableError,
    StorageFullError,
    storage_full_text,
)

_BACKENDS = ("sqlite", "postgresql")
_WAIT_S = 10  # for another process's transaction: all of them are short
_LOCK = 0x657870756E6765  # "expunge": what its transactions queue for on PostgreSQL


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


def plain(record: object) -> dict[str, Any]:
    """A record's fields as plain data.

    Args:
        record: A dataclass of texts, numbers and moments.

    Returns:
        A JSON-able dict, times in ISO 8601.
    """
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in vars(record).items()
    }


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

        Transactions of all processes run one after the other, so what one reads stays true until it commits:
        no noise draw is counted once for two, no ticket filed twice, no lease given to two.

        Yields:
            The session.

        Raises:
            ServiceUnavailableError: If the database went away.
            ExpungeError: If it refused a statement.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise _unreachable(self._engine, error) from error
        except DatabaseError as error:
            if damaged(str(error.orig)):
                raise _unreachable(self._engine, error) from None
            # Not chained: PostgreSQL's message quotes the whole row, and a person's id with it.
            raise ExpungeError(
                "the tickets database refused a statement",
                got=type(error.orig).__name__,
                remedy="report this; nothing was changed",
            ) from None

    def compact(self) -> None:
        """Give freed pages back, so that erased values are in no page of the file any more.

        Raises:
            ServiceUnavailableError: If the database went away, or others keep it busy.
        """
        statements = (
            ["VACUUM"]
            if self._engine.dialect.name == "sqlite"
            else ["VACUUM FULL tickets", "VACUUM FULL batches"]
        )
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for statement in statements:
                    connection.execute(text(statement))
        except OperationalError as error:
            raise _unreachable(self._engine, error) from error

    @property
    def path(self) -> Path | None:
        """The database's file, for SQLite."""
        name = self._engine.url.database
        return Path(name).resolve() if self._engine.dialect.name == "sqlite" and name else None

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open a database and make the tables, indexes and triggers that it lacks.

    Args:
        url: SQLAlchemy URL: ``sqlite:///file`` or ``postgresql+psycopg://...``.

    Returns:
        The database.

    Raises:
        InputError: If the URL is malformed.
        ServiceUnavailableError: If it cannot be reached, or is no database of ours.
    """
    # Table modules register themselves on Base.
    from expunge.evidence import coverage_store as _coverage  # noqa: F401
    from expunge.evidence import store as _evidence  # noqa: F401
    from expunge.tickets import dataset_head as _heads  # noqa: F401
    from expunge.tickets import epochs as _epochs  # noqa: F401
    from expunge.tickets import purge_journal as _purges  # noqa: F401
    from expunge.tickets import requests as _requests  # noqa: F401
    from expunge.tickets import tables as _tickets  # noqa: F401
    from expunge.tickets import tokens as _tokens  # noqa: F401

    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in _BACKENDS:
            raise ArgumentError("another kind of database")
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            file = Path(str(parsed.database))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # it holds people's ids; its journal takes the same mode
        # READ COMMITTED: a statement sees what was committed while its transaction queued for the lock.
        options = {} if parsed.get_backend_name() == "sqlite" else {"isolation_level": "READ COMMITTED"}
        # Errors must not repeat a subject id; a server that was restarted is found again.
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True, **options)
    except (ArgumentError, ImportError, OSError) as error:
        raise InputError(
            "invalid database URL",
            expected="sqlite:///FILE or postgresql+psycopg://...",
            got=type(error).__name__,
            remedy="correct EXPUNGE_DATABASE_URL",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _queue)
    try:
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            # A table that was there already gets no index of create_all.
            present = {
                index["name"] for found in inspect(connection).get_multi_indexes().values() for index in found
            }
            for table in Base.metadata.sorted_tables:
                for index in table.indexes:
                    if index.name not in present:
                        index.create(connection)
            protect(connection, Base.metadata.sorted_tables)
    except DatabaseError as error:
        raise _unreachable(engine, error) from error
    return Database(engine)


def vacuum(path: Path) -> None:
    """Rebuild another program's SQLite file, so that what it deleted is in no page of it any more; others may use it.

    Args:
        path: The file.

    Raises:
        ServiceUnavailableError: If others keep it busy.
    """
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("VACUUM")
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError("its log of changes is being read")
    except sqlite3.DatabaseError as error:
        if damaged(str(error)):
            raise ServiceUnavailableError(
                "a database is damaged",
                expected=f"{path.name} as it was written",
                got=str(error),
                remedy="restore it from a backup",
            ) from error
        raise storage_full_text(str(error)) or ServiceUnavailableError(
            "a database cannot be compacted",
            expected=f"{path.name} free for a moment",
            got=str(error),
            remedy="run `expunge run` again",
        ) from error


def damaged(reason: str) -> bool:
    """Whether SQLite says that a file is not what it wrote.

    Args:
        reason: What it said.

    Returns:
        Whether a backup is what helps.

    Example:
        >>> damaged("database disk image is malformed"), damaged("database is locked")
        (True, False)
    """
    return "malformed" in reason or "not a database" in reason


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_WAIT_S * 1000}",  # first: the others may have to wait too
        "secure_delete=ON",
        "foreign_keys=ON",
        "journal_mode=DELETE",
        "synchronous=EXTRA",  # a committed noise draw survives a power cut too
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _queue(connection: Connection) -> None:
    """Begin a transaction when the others have ended."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself would begin at the first write only
    else:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT_S}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _unreachable(engine: Engine, error: DatabaseError) -> ServiceUnavailableError:
    if storage_full_text(str(error.orig)) is not None:
        return StorageFullError(
            "the disk of the tickets database is full", remedy="make room, then run the same command again"
        )
    if damaged(str(error.orig)):
        return ServiceUnavailableError(
            "the tickets database is damaged",
            expected=engine.url.render_as_string(hide_password=True),
            got=" ".join(str(error.orig).split())[:200],
            remedy="restore it from a backup; nothing was changed",
        )
    return ServiceUnavailableError(
        "the tickets database cannot be reached",
        expected=engine.url.render_as_string(hide_password=True),
        got=" ".join(str(error.orig).split())[:200],
        remedy="start it, or correct EXPUNGE_DATABASE_URL",
    )
