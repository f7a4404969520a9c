"""A batch whose model is rolled back: its people are in the serving model again, so it is to be unlearned once more."""

from datetime import UTC, datetime

from sqlalchemy import update

from expunge.database import Database
from expunge.errors import RefusedError
from expunge.tickets.batches import BatchStage
from expunge.tickets.holds import PURGE
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.steps import not_held, put, take_held_along
from expunge.tickets.tables import BatchRow, TicketRow

# What stays true: the rows are removed, the parent serves again, draws and refusals happened.
_KEPT = (
    "before", "after", "map_mark", "rows_before", "records", "train_records", "partitions", "scan", "begun",
    "parent_version", "parent_digest", "refused", "refusals", "seconds", "rolled_back",
    "drawn", "policy", "salted",
)  # fmt: skip


def roll_back(database: Database, batch_id: str, reason: str) -> None:
    """Take a registered batch back to removed, its tickets with it; noise draws stay counted.

    Args:
        database: Where it is.
        batch_id: Of the batch.
        reason: For the tickets' history.

    Raises:
        RefusedError: If it is not registered, or its purge has begun.
    """
    with database.transaction() as session:
        row = session.get_one(BatchRow, batch_id)
        if row.stage != BatchStage.REGISTERED or PURGE in row.data.get("begun", []):
            raise RefusedError(
                "a release can be rolled back only between its registration and its purge",
                expected="a registered batch whose purge has not begun",
                got=f"{batch_id}, {row.stage}",
                remedy="nothing was changed; what is purged cannot come back",
            )
        undone = {
            "version": row.data["model_version"],
            "certificate_id": row.data["certificate_id"],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        row.stage = BatchStage.REMOVED
        row.data = {
            **{name: row.data[name] for name in _KEPT if name in row.data},
            "rolled_back": [*row.data.get("rolled_back", []), undone],
            "unfinished_rollback": True,
        }
        put(
            session,
            not_held(batch_id),
            TicketState.REMOVED,
            reason,
            {"reason": reason},
        )
        take_held_along(session, batch_id, TicketState.REMOVED)
        session.execute(
            update(TicketRow).where(TicketRow.batch_id == batch_id).values(certificate_id=None),
            execution_options={"synchronize_session": False},
        )
