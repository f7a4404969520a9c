"""Legal holds: what one stops, and when it comes too late.

Two acts of a batch destroy something: removal (rows leave the current dataset version) and purge (earlier versions, and
the weights that saw the rows). Each is recorded as begun, in a transaction that finds no hold in its way, before the
first byte is touched: of a hold and an act one comes first. In between a batch goes on: nothing is lost by that.
A purge may rest half-way, with weights in quarantine: a hold that came meanwhile, in another batch, stops it again.
"""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from expunge.database import Database
from expunge.errors import BatchWaitsError, TicketError
from expunge.tickets.batches import BatchStage
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.steps import move
from expunge.tickets.tables import BatchRow, TicketRow

REMOVAL, PURGE = "removal", "purge"


class Holds:
    """What the holds of a workspace stop.

    Args:
        database: Where its tickets are.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def begin(self, batch_id: str, act: str) -> None:
        """Record that a destructive act begins, or that a purge goes on, unless a hold stops it.

        Args:
            batch_id: Of the batch.
            act: removal or purge.

        Raises:
            BatchWaitsError: If a hold stops it.
        """
        with self._database.transaction() as session:
            row = session.get_one(BatchRow, batch_id)
            held = [] if _settled(row, act) else _stopping(session, batch_id, act)
            if held:
                raise BatchWaitsError(_words(act, held, _begun(row, act)))
            if not _begun(row, act):
                row.data = {**row.data, "begun": [*row.data.get("begun", []), act]}

    def waiting(self) -> dict[str, str]:
        """Batches that cannot go on until a hold is released.

        Returns:
            Why, by batch id, oldest batch first.
        """
        found: dict[str, str] = {}
        with self._database.transaction() as session:
            held = select(TicketRow.ticket_id).where(*_IN_A_BATCH)
            if session.scalar(held.limit(1)) is None:
                return found
            rows = session.scalars(
                select(BatchRow).where(BatchRow.stage != BatchStage.CLOSED).order_by(BatchRow.created_at)
            )
            for row in rows:
                act = {BatchStage.PLANNED: REMOVAL, BatchStage.REGISTERED: PURGE}.get(_reached(row))
                if act is not None and not _settled(row, act):
                    stopping = _stopping(session, row.batch_id, act)
                    if stopping:
                        found[row.batch_id] = _words(act, stopping, _begun(row, act))
        return found


def put_on_hold(session: Session, row: TicketRow, reason: str) -> None:
    """Put a ticket on hold inside a transaction.

    Before removal it leaves its batch, which goes on without it; a batch of one ticket waits.

    Args:
        session: The transaction; the row is stale afterwards.
        row: The ticket.
        reason: Why, checked.

    Raises:
        TicketError: If it is held, closed, or its purge has begun.
    """
    batch = session.get_one(BatchRow, row.batch_id) if row.batch_id else None
    if batch is not None and _begun(batch, PURGE):
        raise TicketError(
            "a ticket cannot take this step",
            expected="one whose purge has not begun",
            got=row.state,
            remedy="what was superseded is destroyed",
        )
    chosen = TicketRow.ticket_id == row.ticket_id
    move(session, chosen, TicketState.ON_HOLD, reason)
    if batch is None or _begun(batch, REMOVAL):
        return
    others = select(func.count()).where(
        TicketRow.batch_id == batch.batch_id, TicketRow.ticket_id != row.ticket_id
    )
    if session.scalar(others):
        session.execute(
            update(TicketRow).where(chosen).values(batch_id=None, state_before=TicketState.VERIFIED),
            execution_options={"synchronize_session": False},
        )


_IN_A_BATCH = (TicketRow.state == TicketState.ON_HOLD, TicketRow.batch_id.is_not(None))


def _stopping(session: Session, batch_id: str, act: str) -> list[str]:
    """Ids of the held tickets that stop an act.

    A purge destroys every earlier version of partitions, which may have rows of other batches' people too, and their
    batches' superseded weights saw everyone: so it waits for a hold in any batch that has removed rows and kept them.
    """
    held = select(TicketRow.ticket_id, BatchRow).join(BatchRow, TicketRow.batch_id == BatchRow.batch_id)
    rows = session.execute(held.where(*_IN_A_BATCH).order_by(TicketRow.ticket_id)).tuples()
    if act == REMOVAL:
        return [ticket_id for ticket_id, row in rows if row.batch_id == batch_id]
    return [ticket_id for ticket_id, row in rows if _begun(row, REMOVAL)]


def _reached(row: BatchRow) -> BatchStage:
    return BatchStage(row.failed_stage or row.stage)


def _begun(row: BatchRow, act: str) -> bool:
    reached, before = _reached(row), {REMOVAL: (BatchStage.PLANNED,), PURGE: _BEFORE_PURGE}[act]
    return reached not in before or act in row.data.get("begun", [])


def _settled(row: BatchRow, act: str) -> bool:
    """Whether no hold can stop an act any more: of a purge there may be more to destroy until it is done."""
    return _begun(row, act) if act == REMOVAL else _reached(row) not in _BEFORE_PURGE


_BEFORE_PURGE = tuple(stage for stage in BatchStage if stage not in (BatchStage.PURGED, BatchStage.CLOSED))


def _words(act: str, held: list[str], begun: bool) -> str:
    several = f" and {len(held) - 1} more" if len(held) > 1 else ""
    return f"{act} does not {'go on' if begun else 'begin'} while ticket {held[0]}{several} is on hold"
