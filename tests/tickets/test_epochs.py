"""Key epochs on both databases: made, lost, interrupted, destroyed."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from expunge.database import Database
from expunge.errors import InputError, RefusedError, WorkspaceError
from expunge.pseudonyms import create_key, key_epochs, key_path, load_keyring
from expunge.tickets.epochs import KeyEpochs, KeyEventRow
from expunge.tickets.store import TicketStore
from expunge.tickets.suppression import SuppressedRow, Suppression


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_key(key_path(tmp_path / "keys", 1))
    return tmp_path / "keys"


@pytest.fixture
def epochs(database: Database, folder: Path) -> KeyEpochs:
    return KeyEpochs(database, folder)


def states(epochs: KeyEpochs, retention_days: int | None = None) -> dict[int, str]:
    return {epoch.epoch: epoch.state for epoch in epochs.every(retention_days)}


def test_rotation_keeps_the_old_keys(epochs: KeyEpochs, folder: Path) -> None:
    before = load_keyring(folder)
    assert (epochs.rotate(), epochs.rotate()) == (2, 3)
    after = load_keyring(folder)
    assert after.epochs == (3, 2, 1)
    assert after.of("ann").startswith("p3-")
    assert before.of("ann") == after.every("ann")[2]
    assert states(epochs) == {1: "living", 2: "living", 3: "current"}
    epochs.require()


def test_a_rotation_that_was_killed_is_completed(epochs: KeyEpochs, folder: Path) -> None:
    create_key(key_path(folder, 2))  # and then the process died
    assert epochs.rotate() == 2
    assert epochs.rotate() == 3


def test_a_lost_key_stops_everything(epochs: KeyEpochs, folder: Path) -> None:
    epochs.rotate()
    for epoch in (1, 2):
        path = key_path(folder, epoch)
        path.rename(folder / "away")
        with pytest.raises(WorkspaceError, match=rf"no pseudonym-{epoch}\.key.*restore"):
            epochs.require()
        (folder / "away").rename(path)
    epochs.require()


def test_a_destroyed_key_is_nowhere(epochs: KeyEpochs, database: Database, folder: Path) -> None:
    Suppression(database, load_keyring(folder)).add(["ann"], "b-1")
    old = key_path(folder, 1).read_bytes()
    epochs.rotate()
    (one, _) = epochs.every(None)
    assert (one.suppressed, one.past_retention) == (1, False)
    epochs.destroy(1)
    epochs.destroy(1)
    assert key_epochs(folder) == (2,)
    assert all(old not in path.read_bytes() for path in folder.iterdir())
    assert states(epochs) == {1: "destroyed", 2: "current"}
    epochs.require()
    assert Suppression(database, load_keyring(folder)).among(["ann"]) == {}
    assert epochs.rotate() == 3


def test_the_bytes_are_overwritten_before_the_name_goes(
    epochs: KeyEpochs, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "same-bytes").hardlink_to(key_path(folder, 1))
    old = key_path(folder, 1).read_bytes()
    epochs.rotate()
    epochs.destroy(1)
    assert (tmp_path / "same-bytes").read_bytes() != old


def test_a_destruction_that_was_killed_is_finished(epochs: KeyEpochs, folder: Path) -> None:
    epochs.rotate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.pseudonyms.os.urandom", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            epochs.destroy(1)
    assert load_keyring(folder).epochs == (2,)  # out of use already
    assert states(epochs)[1] == "destroyed"
    assert (folder / "pseudonym-1.key.destroyed").exists()
    epochs.destroy(1)
    assert not list(folder.glob("pseudonym-1*"))


def test_a_destruction_that_was_killed_before_it_began_is_finished_at_opening(
    epochs: KeyEpochs, database: Database, folder: Path
) -> None:
    Suppression(database, load_keyring(folder)).add(["ann"], "b-1")
    epochs.rotate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "expunge.tickets.epochs.destroy_key", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            epochs.destroy(1)
    assert load_keyring(folder).epochs == (2, 1)
    epochs.require()
    assert not list(folder.glob("pseudonym-1*"))
    assert Suppression(database, load_keyring(folder)).among(["ann", "Ann"]) == {}


def test_the_current_epoch_and_one_in_use_are_refused(
    epochs: KeyEpochs, database: Database, folder: Path
) -> None:
    with pytest.raises(RefusedError, match="current"):
        epochs.destroy(1)
    ticket = TicketStore(database, load_keyring(folder)).submit("ann").ticket
    epochs.rotate()
    with pytest.raises(RefusedError, match="open tickets"):
        epochs.destroy(1)
    for unknown in (0, 3):
        with pytest.raises(InputError, match="no such key epoch"):
            epochs.destroy(unknown)
    assert key_epochs(folder) == (1, 2)
    tickets = TicketStore(database, load_keyring(folder))
    tickets.withdraw(ticket.ticket_id, "a mistake")
    epochs.destroy(1)
    assert key_epochs(folder) == (2,)


def test_retention_runs_from_the_last_removal_or_the_rotation(
    epochs: KeyEpochs, database: Database, folder: Path
) -> None:
    def past(days: int | None) -> list[int]:
        return [epoch.epoch for epoch in epochs.every(days) if epoch.past_retention]

    def move(row: type, column: str, days: int) -> None:
        with database.transaction() as session:
            session.execute(update(row).values({column: datetime.now(UTC) - timedelta(days=days)}))

    Suppression(database, load_keyring(folder)).add(["ann"], "b-1")
    assert past(0) == []  # the current one is never past
    epochs.rotate()
    assert (past(0), past(1), past(None)) == ([1], [], [])
    move(SuppressedRow, "added_at", 40)
    assert past(30) == []
    move(KeyEventRow, "at", 31)
    assert past(30) == [1]
    move(SuppressedRow, "added_at", 5)
    assert past(30) == []


def test_a_backup_of_the_keys_brings_nobody_back_by_itself(epochs: KeyEpochs, folder: Path) -> None:
    """A destroyed key that somebody restores is known again: the warning says that backups must go too."""
    shutil.copytree(folder, folder.parent / "backup")
    epochs.rotate()
    epochs.destroy(1)
    shutil.copy(key_path(folder.parent / "backup", 1), key_path(folder, 1))
    assert states(epochs)[1] == "destroyed"
    epochs.destroy(1)
    assert key_epochs(folder) == (2,)
