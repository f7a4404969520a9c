"""Opening, erasing and surviving: what is committed stays, what is erased is gone, whoever is killed."""

import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from expunge.database import Database, open_database
from expunge.errors import ExpungeError, InputError, ServiceUnavailableError
from expunge.tickets.batches import ORDER, BatchStage, BatchStore
from expunge.tickets.store import TicketStore
from tests.tickets.conftest import PSEUDONYMISER, Postgres

# Ends of pages and overflow pages too: short ids, long ids, many ids.
PEOPLE = [f"person-{n:04d}-of-the-test" for n in range(300)] + ["overflow-" + "x" * 9000 + "-end"]
MARKS = (b"-of-the-test", b"overflow-", b"xxxxxxxx", b"x-end")

VICTIM = """
import os, signal, sys
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from expunge.database import open_database
from expunge.tickets.batches import BatchStage, BatchStore

url, batch_id, deed = sys.argv[1:]
batches = BatchStore(open_database(url))
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if deed == "draw":
    batches.append_draw(batch_id)
elif deed == "advance":
    batches.advance(batch_id, BatchStage.REMOVED, md5="x")
elif deed == "half an advance":
    event.listen(Session, "after_flush_postexec", die)
    batches.advance(batch_id, BatchStage.REMOVED, md5="x")
elif deed == "half a draw":
    event.listen(Session, "after_flush_postexec", die)
    batches.append_draw(batch_id)
elif deed == "half a close":
    event.listen(Engine, "before_cursor_execute", lambda c, k, statement, *_: "VACUUM" in statement and die())
    batches.close(batch_id)
die()
"""


def kill_during(deed: str, url: str, batch_id: str) -> None:
    """Do something in a process that is then killed, at once, without any cleaning up."""
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, url, batch_id, deed], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.fixture
def batch_id(tickets: TicketStore, batches: BatchStore) -> str:
    return batches.open_batch([tickets.submit(PEOPLE[0]).ticket.ticket_id]).batch_id


def reopened(url: str) -> BatchStore:
    return BatchStore(open_database(url))


def test_a_draw_is_durable(url: str, batch_id: str) -> None:
    kill_during("draw", url, batch_id)
    assert reopened(url).get(batch_id).draws == 1
    kill_during("half a draw", url, batch_id)
    assert reopened(url).get(batch_id).draws == 1
    assert reopened(url).append_draw(batch_id) == 2


def test_a_stage_is_durable(url: str, batch_id: str, tickets: TicketStore) -> None:
    kill_during("half an advance", url, batch_id)
    batch = reopened(url).get(batch_id)
    assert (batch.stage, batch.data, tickets.get(batch.tickets[0]).state) == ("planned", {}, "scheduled")
    kill_during("advance", url, batch_id)
    batch = reopened(url).get(batch_id)
    assert (batch.stage, batch.data, tickets.get(batch.tickets[0]).state) == (
        "removed",
        {"md5": "x"},
        "removed",
    )


def test_a_crashed_server_forgets_nothing(postgres: Postgres) -> None:
    postgres.admin("CREATE DATABASE crash")
    database = open_database(postgres.url("crash"))
    tickets, batches = TicketStore(database, PSEUDONYMISER), BatchStore(database)
    batch = batches.open_batch([tickets.submit(PEOPLE[0]).ticket.ticket_id])
    assert batches.append_draw(batch.batch_id) == 1
    postgres.stop("immediate")
    try:
        with pytest.raises(ServiceUnavailableError, match="cannot be reached"):
            batches.append_draw(batch.batch_id)
        with pytest.raises(ServiceUnavailableError):
            database.compact()
    finally:
        postgres.start()
    assert batches.append_draw(batch.batch_id) == 2  # through the same Database object
    database.dispose()
    postgres.admin("DROP DATABASE crash WITH (FORCE)")


@pytest.fixture
def stored(request: pytest.FixtureRequest, url: str, database: Database) -> Callable[[], bytes]:
    """Reads all bytes that the database keeps its tables and indexes in."""

    def sqlite() -> bytes:
        assert database.path is not None
        return b"".join(file.read_bytes() for file in sorted(database.path.parent.iterdir()))

    def postgresql() -> bytes:
        server: Postgres = request.getfixturevalue("postgres")
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            query = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relfilenode <> 0 AND oid > 16383"
            paths = [str(path) for (path,) in connection.execute(query)]
            toast = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'tickets'"
            paths += [str(path) for (path,) in connection.execute(toast)]
        return b"".join((server.data / path).read_bytes() for path in paths)

    return sqlite if url.startswith("sqlite") else postgresql


def test_closed_people_are_in_no_byte(url: str, tickets: TicketStore, batches: BatchStore, stored) -> None:
    filed = tickets.submit_all((person, "gdpr", f"key of {person}") for person in PEOPLE)
    batch = batches.open_batch([outcome.ticket.ticket_id for outcome in filed])
    for stage in ORDER[1:-1]:
        batches.advance(batch.batch_id, stage)
    before = stored()
    assert all(person.encode() in before for person in PEOPLE[:300])
    if url.startswith("sqlite"):  # PostgreSQL compresses the long one
        assert all(mark in before for mark in MARKS)
    batches.close(batch.batch_id)
    after = stored()
    assert batch.pseudonyms[0].encode() in after  # the right bytes were looked at
    assert [mark for mark in MARKS if mark in after] == []


@pytest.mark.parametrize("end", ["withdraw", "reject"])
def test_withdrawn_and_rejected_people_are_in_no_byte(tickets: TicketStore, stored, end: str) -> None:
    ticket = tickets.submit(PEOPLE[0], idempotency_key=PEOPLE[0]).ticket
    assert MARKS[0] in stored()
    getattr(tickets, end)(ticket.ticket_id, "said so")
    assert MARKS[0] not in stored()
    assert ticket.pseudonym.encode() in stored()


def test_a_kill_before_compacting_does_not_close(url: str, batch_id: str, tickets, batches, stored) -> None:
    for stage in ORDER[1:-1]:
        batches.advance(batch_id, stage)
    kill_during("half a close", url, batch_id)
    assert batches.get(batch_id).stage is BatchStage.PURGED
    assert tickets.subject_ids(batch_id) == []
    assert batches.close(batch_id).stage is BatchStage.CLOSED
    assert MARKS[0] not in stored()


def test_sqlite_is_set_up_to_erase_and_to_last(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/a/b/tickets.db")
    assert database.path == (tmp_path / "a/b/tickets.db").resolve()
    assert database.path.stat().st_mode & 0o777 == 0o600
    with database.transaction() as session:
        settings = {
            name: session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("secure_delete", "foreign_keys", "journal_mode", "synchronous")
        }
    assert settings == {"secure_delete": 1, "foreign_keys": 1, "journal_mode": "delete", "synchronous": 3}


def test_an_error_rolls_back_and_shows_no_person(tickets: TicketStore, database: Database) -> None:
    from expunge.tickets.tables import TicketRow

    def break_a_rule() -> None:
        with database.transaction() as session:
            session.add(TicketRow(ticket_id="t-1", subject_id="person-seen", pseudonym="p1-x"))

    with pytest.raises(ExpungeError, match="refused a statement") as raised:
        break_a_rule()
    assert "person-seen" not in "".join(traceback.format_exception(raised.value))
    assert tickets.select() == []


@pytest.mark.parametrize("bad", ["", "nonsense", "nosuch://x", "mysql://u@h/d", "sqlite:////dev/null/x/t.db"])
def test_a_bad_url(bad: str) -> None:
    with pytest.raises(InputError, match="EXPUNGE_DATABASE_URL"):
        open_database(bad)


def test_an_unreachable_server_and_its_password_stays_secret() -> None:
    with pytest.raises(ServiceUnavailableError, match="cannot be reached") as raised:
        open_database("postgresql+psycopg://someone:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in str(raised.value)
    assert raised.value.exit_code == 3


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database, but somebody's notes\n" * 100)
    content = file.read_bytes()
    with pytest.raises(ServiceUnavailableError, match="not a database"):
        open_database(f"sqlite:///{file}")
    assert file.read_bytes() == content


def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.database._WAIT_S", 0.2)
    database = open_database(f"sqlite:///{tmp_path}/tickets.db")
    other = sqlite3.connect(tmp_path / "tickets.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceUnavailableError, match="locked"):
        TicketStore(database, PSEUDONYMISER).select()
    other.execute("ROLLBACK")
    assert TicketStore(database, PSEUDONYMISER).select() == []
