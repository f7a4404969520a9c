"""Tables that are only ever appended to: the database itself refuses to change or to remove a row.

What triggers do not stop: the owner of the table, who can drop them, change a row and make them again, and whoever can
write the file of an SQLite database. That shows by the chain, the signed head and its witness, not here.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Connection, Table, UniqueConstraint, text

APPEND_ONLY: Final = "append_only"  # in a table's `info`
_FUNCTION = """
CREATE OR REPLACE FUNCTION expunge_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""


def protect(connection: Connection, tables: Iterable[Table]) -> None:
    """Install the triggers that append-only tables lack.

    Args:
        connection: In a transaction.
        tables: Those that say so in their ``info`` are protected.
    """
    for table in tables:
        if not table.info.get(APPEND_ONLY):
            continue
        if connection.dialect.name == "sqlite":
            for statement in _sqlite(table):
                connection.execute(text(statement))
            continue
        name = f"{table.name}_append_only"
        found = "SELECT 1 FROM pg_trigger WHERE tgname = :name AND tgrelid = to_regclass(:table) AND tgenabled <> 'D'"
        if connection.execute(text(found), {"name": name, "table": table.name}).first() is None:
            connection.execute(text(_FUNCTION))
            connection.execute(
                text(
                    f"CREATE OR REPLACE TRIGGER {name} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION expunge_append_only()"
                )
            )


def _sqlite(table: Table) -> Iterator[str]:
    """One for each way to change a row: INSERT OR REPLACE deletes what is in its way without a DELETE trigger."""
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
    for deed in ("UPDATE", "DELETE"):
        yield f"CREATE TRIGGER IF NOT EXISTS {table.name}_no_{deed.lower()} BEFORE {deed} ON {table.name} {refuse}"
    keys = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
    same = " OR ".join(
        " AND ".join(f"{column.name} = NEW.{column.name}" for column in key.columns)
        for key in [table.primary_key, *keys]
    )
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {table.name}_no_replace BEFORE INSERT ON {table.name} "
        f"WHEN EXISTS (SELECT 1 FROM {table.name} WHERE {same}) {refuse}"
    )
