"""The residue scan of databases: PostgreSQL as SQLite, and none that cannot be read is passed over."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psycopg
import pytest

from expunge.errors import ResidueError
from expunge.residue import databases
from expunge.residue.fingerprints import row_fingerprints
from expunge.residue.scan import ScanReport, Target, scan
from expunge.residue.stores import database
from expunge.tickets.batches import ORDER, BatchStage, BatchStore
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.steps import put
from expunge.tickets.store import TicketStore
from expunge.tickets.tables import BatchRow, TicketRow
from tasks import purge
from tests.tickets.conftest import PSEUDONYMISER, Postgres

KEY = b"k" * 32
PERSON, SHORT = "person-000313", "77"
COLUMNS = ("record_id", "label", "value", "count")
ROW = pd.DataFrame({"record_id": [313], "label": ["3"], "value": [0.1 + 0.2], "count": [4]})
TARGET = Target(frozenset({PERSON, SHORT}), frozenset(row_fingerprints(ROW, COLUMNS, KEY)), COLUMNS, KEY)


@pytest.fixture
def server(postgres: Postgres) -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    name = f"r{secrets.token_hex(6)}"
    postgres.admin(f"CREATE DATABASE {name}")
    yield postgres.url(name)
    postgres.admin(f"DROP DATABASE {name} WITH (FORCE)")


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def search(url: str, target: Target = TARGET) -> ScanReport:
    report = scan([database(url, "the database")], target)
    assert PERSON not in str(report.to_json())
    return report


def kinds(url: str) -> set[str]:
    return {hit["kind"] for hit in search(url).hits}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", f"'see {PERSON}!'"),
        ("jsonb", f"""'{{"a": ["{PERSON}"]}}'"""),
        ("json", f"""'{{"subject_id": "{SHORT}"}}'"""),
        ("jsonb", f"""'{{"subject_id": {SHORT}}}'"""),
        ("bytea", f"'line {PERSON}'::bytea"),
        ("text[]", f"ARRAY['x', '{PERSON}']"),
        ("varchar(40)", f"'{PERSON}'"),
    ],
)
def test_cells_of_every_type(server: str, kind: str, value: str) -> None:
    run(server, f'CREATE SCHEMA other; CREATE TABLE other."A table" (a text, note {kind}, z text)')
    run(server, """INSERT INTO other."A table" VALUES ('abc', NULL, 'xyz')""")
    assert kinds(server) == set()
    run(server, f"""INSERT INTO other."A table" VALUES ('abc', {value}, 'xyz')""")
    report = search(server)
    assert report.hits == ({"where": "the database table A table", "kind": "subject-id"},)
    assert report.searched[0]["files"] == 1


def test_short_ids_in_subject_columns_and_nowhere_else(server: str) -> None:
    run(server, f"CREATE TABLE t (subject_id bigint, n int); INSERT INTO t VALUES (12, {SHORT})")
    assert kinds(server) == set()
    run(server, f"INSERT INTO t VALUES ({SHORT}, 1)")
    assert kinds(server) == {"subject-id"}


@pytest.mark.parametrize("number", ["double precision", "numeric"])
def test_removed_rows_in_a_table(server: str, number: str) -> None:
    run(server, f"CREATE TABLE copy (value {number}, label text, record_id int, count smallint, more text)")
    run(server, "INSERT INTO copy SELECT 0.25, '3', n, 4, 'x' FROM generate_series(1, 12000) n")
    assert kinds(server) == set()
    run(server, "UPDATE copy SET value = 0.30000000000000004 WHERE record_id = 313")
    assert kinds(server) == {"row"}


def test_removed_rows_in_a_sqlite_file(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "x.db") as connection:
        ROW.assign(value=0.5).to_sql("copy", connection, index=False)
        url = f"sqlite:///{tmp_path / 'x.db'}"
        assert kinds(url) == set()
        ROW.to_sql("copy", connection, index=False, if_exists="append")
    assert kinds(url) == {"row"}


def test_large_objects(server: str) -> None:
    run(server, "SELECT lo_from_bytea(0, 'nothing'::bytea)")
    assert kinds(server) == set()
    run(server, f"SELECT lo_from_bytea(0, 'saw {PERSON} there'::bytea)")
    assert kinds(server) == {"subject-id"}


def test_a_table_named_after_a_person_is_found_and_not_named(server: str) -> None:
    run(server, f'CREATE TABLE "backup of {PERSON}" (a int)')
    assert kinds(server) == {"subject-id"}


def test_a_table_that_may_not_be_read_is_not_clean(server: str) -> None:
    reader = f"reader_{secrets.token_hex(4)}"
    run(server, "CREATE TABLE open (a int); CREATE TABLE closed (a int)")
    run(server, f"CREATE ROLE {reader} LOGIN; GRANT SELECT ON open TO {reader}")
    try:
        assert search(server.replace("expunge@", f"{reader}@")).hits == (
            {"where": "the database table closed", "kind": "unreadable"},
        )
        run(server, f"GRANT SELECT ON closed TO {reader}; ALTER TABLE closed ENABLE ROW LEVEL SECURITY")
        assert kinds(server.replace("expunge@", f"{reader}@")) == {"unreadable"}  # its rows would be hidden
    finally:
        run(server, f"DROP OWNED BY {reader}; DROP ROLE {reader}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://expunge@127.0.0.1:1/nowhere",
        "postgresql://expunge@127.0.0.1:1/nowhere",
        "mysql://somebody@localhost/data",
        "sqlite:////nowhere/x.db",
        "no url",
    ],
)
def test_a_database_that_cannot_be_read_is_not_clean(url: str) -> None:
    assert search(url).hits == ({"where": "the database", "kind": "unreadable"},)


def test_no_table_of_ours_stays(server: str) -> None:
    search(server)
    with psycopg.connect(server.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'canary'").fetchone() == (0,)


def test_a_search_that_sees_no_table_fails(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_TABLES", databases._TABLES.replace("n.oid = pg_my_temp_schema() OR", ""))
    with pytest.raises(ResidueError, match="canary in PostgreSQL"):
        search(server)


def test_rows_beyond_one_fetch_are_read(server: str) -> None:
    run(
        server,
        "CREATE TABLE t (n int, note text)",
        "INSERT INTO t SELECT n, '' FROM generate_series(1, 2000) n",
    )
    for number in np.random.default_rng(0).integers(1, 2001, 3):
        run(server, f"UPDATE t SET note = 'saw {PERSON}' WHERE n = {number}")
        assert kinds(server) == {"subject-id"}
        run(server, "UPDATE t SET note = ''")


@pytest.fixture
def purged(url: str, tickets: TicketStore, batches: BatchStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A batch that is ready to be closed."""
    state = SimpleNamespace(
        tickets=tickets,
        batches=batches,
        pseudonymiser=PSEUDONYMISER,
        workspace=SimpleNamespace(database_url=url),
    )
    monkeypatch.setattr(purge, "open_state", lambda: state)
    batch = batches.open_batch([tickets.submit(PERSON).ticket.ticket_id])
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)
    return batch.batch_id


def test_a_batch_closes_when_its_people_are_nowhere_in_the_tickets_database(
    purged: str, batches: BatchStore, tickets: TicketStore
) -> None:
    tickets.submit("person-000314")  # somebody else's id may be there
    purge.close.fn(purged)
    assert batches.get(purged).stage is BatchStage.CLOSED


def test_a_batch_closes_though_its_own_history_named_a_person(
    purged: str, batches: BatchStore, tickets: TicketStore
) -> None:
    """An error of another tool may repeat a path or a text with an id in it."""
    with batches._database.transaction() as session:
        batch_row = session.get(BatchRow, purged)
        assert batch_row is not None
        batch_row.error = f"see letters/{PERSON}/visit"
        for reason in (f"found letters/{PERSON}/visit", "resumed"):
            put(session, TicketRow.batch_id == purged, TicketState.PURGED, reason)
    purge.close.fn(purged)
    assert batches.get(purged).stage is BatchStage.CLOSED
    assert batches.get(purged).error == ""
    reasons = [step["reason"] for step in tickets.history(batches.get(purged).tickets[0])]
    assert "resumed" in reasons
    assert not any(PERSON in reason for reason in reasons)


@pytest.mark.parametrize("ids_known", [True, False])
def test_a_batch_does_not_close_while_an_id_is_in_another_ticket(
    purged: str, batches: BatchStore, tickets: TicketStore, ids_known: bool
) -> None:
    other = tickets.submit("person-000314").ticket.ticket_id
    tickets.hold(other, f"related to {PERSON}")
    if not ids_known:  # as after a kill in the midst of closing
        with pytest.raises(ResidueError):
            purge.close.fn(purged)
        assert tickets.subject_ids(purged) == []
    with pytest.raises(ResidueError, match="still in the tickets database"):
        purge.close.fn(purged)
    assert batches.get(purged).stage is BatchStage.PURGED
