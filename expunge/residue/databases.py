"""Databases, searched cell by cell: SQLite files, and PostgreSQL with cursors that live on the server."""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from expunge.errors import ResidueError
from expunge.residue.search import Scanner
from expunge.residue.target import Target

_ROWS = 500  # in memory at a time
_PATIENCE_S = 10
_TABLES = """
    SELECT n.nspname, c.relname, pg_total_relation_size(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND (n.oid = pg_my_temp_schema() OR n.nspname !~ '^pg_(toast|temp)')
    ORDER BY 1, 2
"""
_COLUMNS = """
    SELECT attname, atttypid::regtype::text FROM pg_attribute
    WHERE attrelid = (quote_ident(%s) || '.' || quote_ident(%s))::regclass AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
"""


def search_sqlite(scanner: Scanner, where: str, path: Path) -> None:
    """Search every cell of every table of a SQLite file.

    Args:
        scanner: Collects the hits.
        where: Name of the file in them.
        path: The file.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    connection.text_factory = bytes
    try:
        schema = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0")
        for (name,) in schema.fetchall():
            table = name.decode(errors="replace")
            place = _place(scanner, where, table)
            query = 'SELECT * FROM "{}"'.format(table.replace('"', '""'))
            cursor = connection.execute(query)
            names = [item[0] for item in cursor.description]
            scanner.cells(place, cursor, names)
            if scanner.comparable(names):
                _rows(scanner, place, map(_decoded, connection.execute(query)), names)
    finally:
        connection.close()


def search_postgresql(scanner: Scanner, where: str, url: str) -> None:
    """Search every cell of every table of a PostgreSQL database, but the server's own.

    Args:
        scanner: Collects the hits.
        where: Name of the database in them.
        url: SQLAlchemy URL, whatever driver it names.

    Raises:
        ResidueError: If the canary in a table of this session was not found.
    """
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, connect_timeout=_PATIENCE_S, autocommit=True) as connection:
            connection.execute("SET row_security = off")  # rows that a policy hides are an error, not absent
            connection.execute("CREATE TEMPORARY TABLE canary (a text, note text)")
            tables = connection.execute(_TABLES).fetchall()
            _try_canary(connection, [schema for schema, name, _ in tables if name == "canary"])
            connection.execute("DROP TABLE pg_temp.canary")
            for schema, name, size in tables:
                if not schema.startswith("pg_temp"):
                    _table(scanner, where, connection, schema, name)
                    scanner.count("postgresql table", size)
            _large_objects(scanner, where, connection)
    except psycopg.Error:
        scanner.found(where, "unreadable")


def _try_canary(connection: psycopg.Connection[Any], schemas: list[str]) -> None:
    person = f"canary-{secrets.token_hex(8)}"
    scanner = Scanner(Target(frozenset({person})))
    connection.execute("INSERT INTO pg_temp.canary VALUES ('x', %s)", (f"saw {person}",))
    for schema in schemas:
        if schema.startswith("pg_temp"):
            _table(scanner, "", connection, schema, "canary")
    if [hit["kind"] for hit in scanner.hits] != ["subject-id"]:
        raise ResidueError("the residue scan did not find its canary in PostgreSQL", remedy="report this")


def _table(scanner: Scanner, where: str, connection: psycopg.Connection[Any], schema: str, name: str) -> None:
    place = _place(scanner, where, name)
    try:
        columns = connection.execute(_COLUMNS, (schema, name)).fetchall()
        names = [column for column, _ in columns]
        # Bytes as they are, anything else as PostgreSQL prints it: JSON with its own quotes.
        as_text = [
            sql.SQL("{}" if kind == "bytea" else "{}::text").format(sql.Identifier(column))
            for column, kind in columns
        ]
        scanner.cells(place, _select(connection, schema, name, as_text), names)
        if scanner.comparable(names):
            as_numbers = [
                sql.SQL("{}::float8" if kind == "numeric" else "{}").format(sql.Identifier(column))
                for column, kind in columns
            ]
            _rows(scanner, place, _select(connection, schema, name, as_numbers), names)
    except psycopg.errors.UndefinedTable:
        return  # dropped meanwhile
    except psycopg.Error:
        scanner.found(place, "unreadable")


def _large_objects(scanner: Scanner, where: str, connection: psycopg.Connection[Any]) -> None:
    query = sql.SQL("SELECT lo_get(oid) FROM pg_largeobject_metadata")
    scanner.cells(f"{where} large objects", _streamed(connection, query), ["content"])


def _select(
    connection: psycopg.Connection[Any], schema: str, name: str, columns: list[sql.Composed]
) -> Iterator[tuple[Any, ...]]:
    chosen = sql.SQL(", ").join(columns)
    return _streamed(
        connection, sql.SQL("SELECT {} FROM ONLY {}").format(chosen, sql.Identifier(schema, name))
    )


def _streamed(
    connection: psycopg.Connection[Any], query: sql.Composed | sql.SQL
) -> Iterator[tuple[Any, ...]]:
    # A transaction a table: a lock held for the whole search would keep VACUUM FULL waiting.
    with connection.transaction(), connection.cursor(name="residue") as cursor:
        cursor.itersize = _ROWS
        cursor.execute(query)
        yield from cursor


def _place(scanner: Scanner, where: str, table: str) -> str:
    if scanner.names(table):
        scanner.found(f"{where} table (a name with an id)", "subject-id")
        return f"{where} table (a name with an id)"
    return f"{where} table {table}"


def _decoded(row: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(cell.decode(errors="replace") if isinstance(cell, bytes) else cell for cell in row)


def _rows(scanner: Scanner, where: str, rows: Iterable[tuple[Any, ...]], names: list[str]) -> None:
    """Compare rows with the removed ones."""
    several = iter(rows)
    while part := list(islice(several, 10 * _ROWS)):
        scanner.frame(where, pd.DataFrame(part, columns=names), set(names))
