"""Batches: the durable stage of each saga, its noise draws, and the lease on a model lineage."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from expunge.database import Database
from expunge.errors import RefusedError, TicketError
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.store import move
from expunge.tickets.tables import BatchRow, LeaseRow, TicketEventRow, TicketRow


class BatchStage(StrEnum):
    """What is durably done."""

    PLANNED = "planned"
    REMOVED = "removed"
    UNLEARNED = "unlearned"
    VALIDATED = "validated"
    CERTIFIED = "certified"
    REGISTERED = "registered"
    PURGED = "purged"
    CLOSED = "closed"
    FAILED = "failed"


ORDER = tuple(stage for stage in BatchStage if stage is not BatchStage.FAILED)
_FOLLOWING: dict[BatchStage, BatchStage] = dict(pairwise(ORDER))


@dataclass(frozen=True)
class Batch:
    """One batch.

    Args:
        batch_id: ``b-`` and 12 hexadecimal digits.
        stage: What is done.
        created_at: UTC.
        tickets: Ids.
        pseudonyms: Of the people, in the tickets' order.
        draws: Noise draws spent, each recorded before it was made.
        data: What later stages need; no subject id, no row.
        failed_stage: What was done when it failed.
        error: Why.
    """

    batch_id: str
    stage: BatchStage
    created_at: datetime
    tickets: tuple[str, ...]
    pseudonyms: tuple[str, ...]
    draws: int
    data: dict[str, Any]
    failed_stage: str | None
    error: str | None

    def done(self, stage: BatchStage) -> bool:
        """Whether a stage is done.

        Args:
            stage: Which.

        Returns:
            True if it is.
        """
        return self.stage in ORDER and ORDER.index(self.stage) >= ORDER.index(stage)


class BatchStore:
    """All batches of a workspace.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def open_batch(self, ticket_ids: Sequence[str]) -> Batch:
        """Make a batch of verified tickets and schedule them.

        Args:
            ticket_ids: At least one.

        Returns:
            The batch.

        Raises:
            TicketError: If a ticket cannot be scheduled, or there is none.
        """
        if not ticket_ids:
            raise TicketError("a batch needs a ticket", expected="at least one", got="none")
        batch_id = f"b-{secrets.token_hex(6)}"
        with self._database.transaction() as session:
            session.add(
                BatchRow(
                    batch_id=batch_id,
                    stage=BatchStage.PLANNED,
                    created_at=datetime.now(UTC),
                    draws=0,
                    data={},
                )
            )
            session.flush()
            for ticket_id in ticket_ids:
                row = session.get(TicketRow, ticket_id)
                if row is None:
                    raise TicketError("no such ticket", got=ticket_id)
                move(session, row, TicketState.SCHEDULED)
                row.batch_id = batch_id
        return self.get(batch_id)

    def get(self, batch_id: str) -> Batch:
        """One batch.

        Args:
            batch_id: Its id.

        Returns:
            The batch.

        Raises:
            TicketError: If there is none.
        """
        with self._database.transaction() as session:
            return _batch(session, _row(session, batch_id))

    def every(self) -> list[Batch]:
        """All batches, oldest first.

        Returns:
            Batches.
        """
        with self._database.transaction() as session:
            rows = session.scalars(select(BatchRow).order_by(BatchRow.created_at)).all()
            return [_batch(session, row) for row in rows]

    def unfinished(self) -> list[Batch]:
        """Batches that are not closed, oldest first: failed ones too.

        Returns:
            Batches.
        """
        return [batch for batch in self.every() if batch.stage is not BatchStage.CLOSED]

    def advance(self, batch_id: str, stage: BatchStage, **data: Any) -> Batch:
        """Record that a stage is done, and move its tickets, in one transaction.

        Recording the same stage again only merges data.

        Args:
            batch_id: Of the batch.
            stage: The one that is done now.
            **data: What later stages need.

        Returns:
            The batch.

        Raises:
            TicketError: If a stage is left out.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage != stage:
                if _FOLLOWING.get(BatchStage(row.stage)) != stage:
                    raise TicketError("a batch cannot leave out a stage", got=f"{row.stage} to {stage}")
                row.stage = stage
                for ticket in _tickets(session, batch_id):
                    move(session, ticket, TicketState(stage))
                    ticket.certificate_id = data.get("certificate_id", ticket.certificate_id)
            row.data = {**row.data, **data}
            return _batch(session, row)

    def step_back(self, batch_id: str) -> Batch:
        """Return to removed after a failed gate, so that the next mechanism can try; tickets keep their history.

        Args:
            batch_id: Of the batch.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage == BatchStage.UNLEARNED:
                row.stage = BatchStage.REMOVED
                now = datetime.now(UTC)
                for ticket in _tickets(session, batch_id):
                    session.add(
                        TicketEventRow(
                            ticket_id=ticket.ticket_id,
                            at=now,
                            source=ticket.state,
                            target=TicketState.REMOVED,
                            reason="a gate refused the release",
                        )
                    )
                    ticket.state = TicketState.REMOVED
            return _batch(session, row)

    def record(self, batch_id: str, **data: Any) -> Batch:
        """Merge data without moving the stage.

        Args:
            batch_id: Of the batch.
            **data: What later stages need.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            row.data = {**row.data, **data}
            return _batch(session, row)

    def append_draw(self, batch_id: str) -> int:
        """Count a noise draw, durably, before it is made: a crash in between is charged, never forgotten.

        Args:
            batch_id: Of the batch.

        Returns:
            Draws so far, this one included.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            row.draws += 1
            return row.draws

    def fail(self, batch_id: str, error: str) -> Batch:
        """Mark a batch failed; the old model goes on serving.

        Args:
            batch_id: Of the batch.
            error: Why, without personal data.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage != BatchStage.FAILED:
                row.failed_stage, row.stage = row.stage, BatchStage.FAILED
                for ticket in _tickets(session, batch_id):
                    move(session, ticket, TicketState.FAILED, error)
            row.error = error
            return _batch(session, row)

    def resume(self, batch_id: str) -> Batch:
        """Take a failed batch up again at its last stage.

        Args:
            batch_id: Of the batch.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage == BatchStage.FAILED and row.failed_stage:
                row.stage, row.failed_stage, row.error = row.failed_stage, None, None
                for ticket in _tickets(session, batch_id):
                    if ticket.state == TicketState.FAILED and ticket.state_before:
                        move(session, ticket, TicketState(ticket.state_before), "resumed")
            return _batch(session, row)

    def close(self, batch_id: str) -> Batch:
        """Close a purged batch: subject ids and row fingerprints are erased, free pages too.

        Args:
            batch_id: Of the batch.

        Returns:
            The batch.

        Raises:
            TicketError: If it is not purged yet.
        """
        # Closed comes last: a crash in between leaves the batch purged, and closing it again compacts again.
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage not in (BatchStage.PURGED, BatchStage.CLOSED):
                raise TicketError("a batch cannot leave out a stage", got=f"{row.stage} to closed")
            row.data = {**row.data, "scan": None}
            for ticket in _tickets(session, batch_id):
                ticket.subject_id = None
        self._database.compact()
        return self.advance(batch_id, BatchStage.CLOSED)

    def acquire_lease(
        self, lineage: str, holder: str, ttl_s: float, *, alive: Callable[[str], bool] = lambda _: True
    ) -> None:
        """Take a lease on a lineage: one run at a time; an expired one, or a dead holder's, is taken over.

        Its holder renews it by taking it again.

        Args:
            lineage: Name of the registered model, or of other work that one process does alone.
            holder: Who.
            ttl_s: For how long, in seconds.
            alive: Tells whether a holder may still be at work.

        Raises:
            RefusedError: If another holder's lease is live.
        """
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            row = session.get(LeaseRow, lineage, with_for_update=True)
            if row is not None and row.holder != holder and row.expires_at > now and alive(row.holder):
                raise RefusedError(
                    "another run is at work on this model",
                    got=f"a lease until {row.expires_at:%H:%M:%S} UTC",
                    remedy="wait for it, or try again when its lease has expired",
                )
            session.merge(LeaseRow(lineage=lineage, holder=holder, expires_at=now + timedelta(seconds=ttl_s)))

    def lease_held(self, lineage: str, *, alive: Callable[[str], bool] = lambda _: True) -> bool:
        """Whether somebody holds a lease.

        Args:
            lineage: Name of the registered model, or of other work that has a lease.
            alive: Tells whether a holder may still be at work.

        Returns:
            False too if it has expired, or its holder is dead.
        """
        with self._database.transaction() as session:
            row = session.get(LeaseRow, lineage)
            return row is not None and row.expires_at > datetime.now(UTC) and alive(row.holder)

    def release_lease(self, lineage: str, holder: str) -> None:
        """Give the lease back.

        Args:
            lineage: Name of the registered model.
            holder: Who.
        """
        with self._database.transaction() as session:
            row = session.get(LeaseRow, lineage)
            if row is not None and row.holder == holder:
                session.delete(row)


def _tickets(session: Session, batch_id: str) -> Sequence[TicketRow]:
    query = select(TicketRow).where(TicketRow.batch_id == batch_id).order_by(TicketRow.ticket_id)
    return session.scalars(query).all()


def _row(session: Session, batch_id: str) -> BatchRow:
    row = session.get(BatchRow, batch_id)
    if row is None:
        raise TicketError("no such batch", expected="a batch id such as b-0123456789ab", got=batch_id)
    return row


def _batch(session: Session, row: BatchRow) -> Batch:
    tickets = _tickets(session, row.batch_id)
    return Batch(
        batch_id=row.batch_id,
        stage=BatchStage(row.stage),
        created_at=row.created_at,
        tickets=tuple(ticket.ticket_id for ticket in tickets),
        pseudonyms=tuple(ticket.pseudonym for ticket in tickets),
        draws=row.draws,
        data=dict(row.data),
        failed_stage=row.failed_stage,
        error=row.error,
    )
