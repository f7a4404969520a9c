"""The ledger of a workspace: appended to, witnessed outside, published beside certificates; and moves of the alias.

A move is written to the ledger first, then made: MLflow keeps no history, so none may go unrecorded. Whoever continues
after a crash in between finds the entry there and makes the move.
"""

import json
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, RefusedError
from expunge.evidence.ledger import LedgerEntry, serving_version
from expunge.evidence.ledger_file import LEDGER_FILE, Ledger
from expunge.evidence.witness import write_witness
from expunge.files import write_json
from expunge.state import State
from expunge.tickets.batches import Batch, BatchStage
from tasks.adapters import access
from tasks.adapters.registry import ALIAS
from tasks.step import warn


def append(state: State, **content: Any) -> LedgerEntry:
    """Append an entry, and renew the witness that policy names.

    Args:
        state: The workspace.
        **content: Fields of the entry; issued now, if it does not say when, and never before the newest one.

    Returns:
        The entry, or the one of the same content that is there.

    Raises:
        VerificationError: If the ledger is damaged.
        WorkspaceError: If there is no key to sign its head with.
    """
    content.setdefault("issued_at", state.ledger.now(state.lineage).isoformat(timespec="seconds"))
    entry = state.ledger.append(state.lineage, **content)
    _renew_witness(state)
    return entry


def _renew_witness(state: State) -> None:
    """The place is another's: that it is away loses no batch. `expunge ledger witness` writes it later."""
    path = state.policy.evidence.witness
    if path is None:
        return
    try:
        write_witness(Path(path), state.ledger.read(state.lineage), state.signing.keyring())
    except (ExpungeError, OSError) as error:
        warn(f"the witness of the ledger was not written to {path}: {error}")


def write_ledger(state: State, folder: Path, last: int) -> Path:
    """Write the ledger, up to an entry, into an evidence folder.

    Args:
        state: The workspace.
        folder: Which.
        last: Sequence number of the entry.

    Returns:
        The file.
    """
    path = folder / LEDGER_FILE
    write_json(path, state.ledger.read(state.lineage, last).to_json())
    return path


def publish_purge(state: State, batch: Batch, entry: LedgerEntry) -> None:
    """Renew the ledger beside the certificate of a batch, here and in MLflow: it proves the purge from now on.

    Args:
        state: The workspace.
        batch: That is purged.
        entry: That says so.
    """
    path = write_ledger(state, state.workspace.evidence_dir / batch.data["certificate_id"], entry.sequence)
    registry, content = access.registry(state), json.loads(path.read_text(encoding="utf-8"))
    registry.attach(registry.get(batch.data["model_version"]), LEDGER_FILE, content)


def record_move(
    state: State,
    from_version: int | None,
    to_version: int,
    *,
    batch: str | None = None,
    certificate_id: str | None = None,
) -> None:
    """Write down that the alias moves; the caller moves it next, and does both again after a crash.

    Args:
        state: The workspace.
        from_version: That served; None before the first.
        to_version: That is to serve.
        batch: On whose account.
        certificate_id: Of the release that begins or ends to serve.

    Raises:
        VerificationError: If the ledger says that another version serves.
    """
    details = {"alias": ALIAS, "from_version": from_version, "to_version": to_version}
    append(state, kind="alias", batch=batch, certificate_id=certificate_id, details=details)


def require_recorded(state: State, version: int) -> None:
    """Refuse to build on a version that somebody moved the alias to behind the ledger's back.

    Args:
        state: The workspace.
        version: That MLflow says serves.

    Raises:
        RefusedError: If the ledger knows of another.
    """
    if (fault := alias_fault(state, state.ledger.read(state.lineage), version)) is not None:
        raise RefusedError(
            "the model that serves is not the one that the ledger names",
            got=fault,
            remedy=f"point the alias `{ALIAS}` of MLflow back, and run again",
        )


def alias_fault(state: State, ledger: Ledger, version: int | None) -> str | None:
    """Whether the alias is where the ledger says; a move that was interrupted is on its way.

    Args:
        state: The workspace.
        ledger: Its ledger.
        version: That MLflow says serves.

    Returns:
        What is wrong, in words; None if nothing is, or if the ledger is of a release that recorded no moves.
    """
    recorded = serving_version(ledger.entries)
    if recorded is None or recorded == version:
        return None
    last = next(entry for entry in reversed(ledger.entries) if entry.kind == "alias")
    if last.move and last.move.from_version == version and _interrupted(state, last):
        return None
    return f"alias {ALIAS} is at version {version}, and the ledger's entry {last.sequence} moved it to {recorded}"


def _interrupted(state: State, entry: LedgerEntry) -> bool:
    if entry.batch is None:  # of the first version, which nothing served before
        return True
    batch = state.batches.get(entry.batch)
    if batch.data.get("unfinished_rollback"):
        return True
    return batch.data.get("certificate_id") == entry.certificate_id and not batch.done(BatchStage.REGISTERED)
