"""The database itself refuses to change the ledger, on SQLite and on PostgreSQL, in old databases too."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from expunge.database import Database, open_database
from expunge.errors import ExpungeError, VerificationError
from expunge.evidence.keys import SigningKeys
from expunge.evidence.store import LedgerStore
from expunge.evidence.verify_ledger import verify_ledger

LINEAGE, AT = "expunge-test", "2026-01-01T00:00:00+00:00"
COLUMNS = {
    "ledger": "number, lineage, sequence, digest, entry",
    "ledger_heads": "lineage, sequence, envelope",
}
KEYS = {"ledger": ("number", "lineage, sequence"), "ledger_heads": ("lineage, sequence",)}
TRIGGERS = {
    "sqlite": [
        f"DROP TRIGGER {table}_no_{deed}" for table in COLUMNS for deed in ("update", "delete", "replace")
    ],
    "postgresql": [f"DROP TRIGGER {table}_append_only ON {table}" for table in COLUMNS],
}


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    made = SigningKeys(tmp_path / "keys")
    made.create(datetime.now(UTC))
    return made


@pytest.fixture
def store(database: Database, keys: SigningKeys) -> LedgerStore:
    made = LedgerStore(database, keys)
    made.append(LINEAGE, kind="opening", issued_at=AT)
    for number in range(3):
        made.append(LINEAGE, kind="purge", batch=f"b-{number}", issued_at=AT)
    return made


def deeds(dialect: str) -> Iterator[str]:
    """Every way to change a row or to lose one."""
    for table, columns in COLUMNS.items():
        for column in columns.split(", "):
            yield f"UPDATE {table} SET {column} = {column}"
        yield f"UPDATE {table} SET sequence = 9 WHERE sequence = 1"
        yield f"DELETE FROM {table}"
        yield f"DELETE FROM {table} WHERE sequence = 3"
        same = f"INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE sequence = 1"
        if dialect == "sqlite":
            yield f"INSERT OR REPLACE {same}"
            yield f"REPLACE {same}"
            if table == "ledger":  # another number, the same place in the chain
                yield (
                    "REPLACE INTO ledger (lineage, sequence, digest, entry) "
                    "SELECT lineage, sequence, 'x', entry FROM ledger WHERE sequence = 1"
                )
        else:
            yield f"TRUNCATE {table}"
            yield f"TRUNCATE {table} CASCADE"
        for key in KEYS[table]:
            where = "WHERE true" if dialect == "sqlite" else ""
            yield (
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} {where} "
                f"ON CONFLICT ({key}) DO UPDATE SET sequence = 99"
            )


def rows(database: Database) -> list[object]:
    with database.transaction() as session:
        return [session.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).all() for table in COLUMNS]


def refused(database: Database, statement: str) -> None:
    with pytest.raises(ExpungeError, match="refused a statement"), database.transaction() as session:
        session.execute(text(statement))


def drop_triggers(database: Database, url: str) -> None:
    with database.transaction() as session:
        for statement in TRIGGERS[url.split(":")[0].split("+")[0]]:
            session.execute(text(statement))


def test_nothing_is_changed_and_nothing_removed(store: LedgerStore, database: Database, url: str) -> None:
    before = rows(database)
    for statement in deeds(url.split(":")[0].split("+")[0]):
        refused(database, statement)
        assert rows(database) == before, statement
    store.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    assert len(store.entries(LINEAGE)) == 5


def test_a_head_that_is_signed_anew_stays_too(
    store: LedgerStore, database: Database, keys: SigningKeys
) -> None:
    now = datetime.now(UTC)
    old = keys.keyring().of("evidence")[0]
    keys.rotate("evidence", now, timedelta(0))
    keys.revoke(old.keyid, now - timedelta(hours=1), "theft", now)
    with pytest.raises(VerificationError, match="not as it was signed"):
        store.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    first, again = store.sign_anew(LINEAGE), store.sign_anew(LINEAGE)
    assert first == again == store.read(LINEAGE)
    for statement in (
        "UPDATE ledger_heads_anew SET sequence = 9",
        "DELETE FROM ledger_heads_anew",
        "INSERT INTO ledger_heads_anew SELECT * FROM ledger_heads_anew",
    ):
        refused(database, statement)
    assert verify_ledger(store.read(LINEAGE), keys=keys.keyring()).consistent
    store.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    assert verify_ledger(store.read(LINEAGE), keys=keys.keyring()).consistent
    assert store.read(LINEAGE, 3) == first


def test_an_older_database_is_protected_when_it_is_opened(
    store: LedgerStore, database: Database, url: str, keys: SigningKeys
) -> None:
    drop_triggers(database, url)
    with database.transaction() as session:
        session.execute(text("DROP TABLE ledger_heads"))  # of a release that signed none
    for _ in range(2):  # opening twice does no harm
        opened = open_database(url)
        refused(opened, "DELETE FROM ledger")
        again = LedgerStore(opened, keys)
        opened.dispose()
    assert again.read(LINEAGE).head is None
    assert [line.split(":")[0] for line in verify_ledger(again.read(LINEAGE)).missing] == [
        "signed head",
        "witness",
    ]
    assert not verify_ledger(again.read(LINEAGE), keys=keys.keyring()).consistent
    sealed = again.seal(LINEAGE)
    assert verify_ledger(sealed, keys=keys.keyring()).consistent
    assert again.seal(LINEAGE) == again.read(LINEAGE) == sealed
    refused(opened, "UPDATE ledger_heads SET sequence = 7")
    opened.dispose()


def test_the_next_append_signs_over_entries_from_before_heads(
    store: LedgerStore, database: Database, url: str, keys: SigningKeys
) -> None:
    drop_triggers(database, url)
    with database.transaction() as session:
        session.execute(text("DELETE FROM ledger_heads"))
    store.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    assert verify_ledger(store.read(LINEAGE), keys=keys.keyring()).consistent
    assert store.read(LINEAGE, 2).head is None


TAMPERINGS = {
    "cut off": "DELETE FROM ledger WHERE sequence = 3",
    "emptied": "DELETE FROM ledger",
    "edited": "UPDATE ledger SET entry = (SELECT entry FROM ledger WHERE sequence = 2) WHERE sequence = 3",
    "a gap": "DELETE FROM ledger WHERE sequence = 1",
    "head cut off": "DELETE FROM ledger_heads WHERE sequence = 3",
    "head exchanged": "UPDATE ledger_heads SET envelope = (SELECT envelope FROM ledger_heads WHERE sequence = 2) "
    "WHERE sequence = 3",
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_an_owner_changes_is_found_and_never_signed_over(
    name: str, store: LedgerStore, database: Database, url: str, keys: SigningKeys
) -> None:
    drop_triggers(database, url)
    with database.transaction() as session:
        session.execute(text(TAMPERINGS[name]))
    before = rows(database)
    assert not verify_ledger(store.read(LINEAGE), keys=keys.keyring()).consistent
    with pytest.raises(VerificationError, match="not as it was signed"):
        store.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    with pytest.raises(VerificationError):
        raise_on_seal(store)
    assert rows(database) == before


def raise_on_seal(store: LedgerStore) -> None:
    """Sealing signs nothing that was tampered with; what has its head, or nothing, is left to verification."""
    ledger = store.seal(LINEAGE)
    if (findings := verify_ledger(ledger).findings) != ():
        raise VerificationError("found", got="; ".join(findings))


def test_an_entry_and_its_head_come_together_or_not_at_all(
    store: LedgerStore, database: Database, url: str, keys: SigningKeys
) -> None:
    before = rows(database)
    with database.transaction() as session:  # in the way of the next head
        session.execute(
            text("INSERT INTO ledger_heads (lineage, sequence, envelope) VALUES (:l, 4, '{}')"),
            {"l": LINEAGE},
        )
    blocked = rows(database)
    assert blocked[0] == before[0]
    other = LedgerStore(database, keys)
    with pytest.raises(ExpungeError):
        other.append(LINEAGE, kind="purge", batch="b-9", issued_at=AT)
    assert rows(database) == blocked
