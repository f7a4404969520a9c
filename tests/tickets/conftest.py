"""Both databases that tickets may live in: SQLite, and a PostgreSQL server of our own."""

import glob
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from expunge.database import Database, open_database
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.batches import BatchStore
from expunge.tickets.store import TicketStore

PSEUDONYMISER = Pseudonymiser(b"\x07" * 32, 1)


def _binaries() -> Path | None:
    """Where initdb and pg_ctl are: what pg_config says, else Debian's folders, the newest first."""
    told = shutil.which("pg_config")
    named = [subprocess.check_output([told, "--bindir"], text=True).strip()] if told else []
    for folder in [*named, *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]:
        if (Path(folder) / "initdb").exists() and (Path(folder) / "pg_ctl").exists():
            return Path(folder)
    return None


def _as_postgres() -> list[str]:
    """What runs a command as the user `postgres`, because the server refuses to run as root."""
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    if shutil.which("runuser"):
        return ["runuser", "-u", "postgres", "--"]
    return ["su", "postgres", "-s", "/bin/sh", "-c", 'exec "$0" "$@"', "--"]


@dataclass
class Postgres:
    """A PostgreSQL server on a loopback port."""

    binaries: Path
    folder: Path
    port: int
    prefix: list[str]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def run(self, program: str, *arguments: str) -> None:
        command = [*self.prefix, str(self.binaries / program), "-D", str(self.data), *arguments]
        # Output goes to a file: a pipe would stay open for as long as the server lives.
        with (self.folder / "output").open("w+") as output:
            done = subprocess.run(command, cwd="/", stdout=output, stderr=output, timeout=120)
            output.seek(0)
            assert done.returncode == 0, output.read()

    def start(self) -> None:
        options = f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-w", "-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    def admin(self, statement: str) -> None:
        where = f"host=127.0.0.1 port={self.port} user=expunge dbname=postgres"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://expunge@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server in a temporary folder, for the whole session."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: neither pg_config nor /usr/lib/postgresql/*/bin has one")
    prefix = _as_postgres()
    # Not in pytest's own folder: the user `postgres` may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="expunge-postgres-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Postgres(binaries, folder, port, prefix)
    try:
        if prefix:
            shutil.chown(folder, "postgres")
        server.run("initdb", "--no-sync", "-A", "trust", "-U", "expunge", "-E", "UTF8", "--locale=C")
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'tickets.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"t{secrets.token_hex(6)}"
    server.admin(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.dispose()


@pytest.fixture
def tickets(database: Database) -> TicketStore:
    return TicketStore(database, PSEUDONYMISER)


@pytest.fixture
def batches(database: Database) -> BatchStore:
    return BatchStore(database)
