"""Batches: the durable stage of each saga, its noise draws, and the lease on a model lineage."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, select, update
from sqlalchemy.orm import Session

from expunge.database import Database
from expunge.errors import LeaseHeldError, TicketError
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.steps import blank_texts, move, not_held, put, take_held_along
from expunge.tickets.tables import BatchRow, LeaseRow, TicketRow


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
_UNFINISHED = tuple(str(stage) for stage in BatchStage if stage is not BatchStage.CLOSED)
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

    @property
    def trains(self) -> bool:
        """Whether it removes nobody: the model is trained again on the dataset as it is."""
        return bool(self.data.get("again"))

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
        with self._database.transaction() as session:
            batch_id = _new(session, {})
            session.connection().execute(
                update(TicketRow).where(TicketRow.ticket_id == bindparam("id")).values(batch_id=batch_id),
                [{"id": ticket_id} for ticket_id in ticket_ids],
            )
            batch = _batches(session, BatchRow.batch_id == batch_id)[0]
            if len(batch.tickets) != len(ticket_ids):
                unknown = set(ticket_ids) - set(batch.tickets)
                raise TicketError(
                    "no such ticket" if unknown else "a ticket is named twice",
                    got=", ".join(sorted(unknown)[:5]),
                )
            move(session, TicketRow.batch_id == batch_id, TicketState.SCHEDULED)
            return batch

    def open_training(self) -> Batch:
        """Make a batch of nobody, in which the model is trained again; the unfinished one, if there is one.

        Returns:
            The batch.
        """
        for batch in self.unfinished():
            if batch.trains:
                return batch
        with self._database.transaction() as session:
            return _batches(session, BatchRow.batch_id == _new(session, {"again": True}))[0]

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
            _row(session, batch_id)
            return _batches(session, BatchRow.batch_id == batch_id)[0]

    def every(self) -> list[Batch]:
        """All batches, oldest first.

        Returns:
            Batches.
        """
        with self._database.transaction() as session:
            return _batches(session)

    def unfinished(self) -> list[Batch]:
        """Batches that are not closed, oldest first: failed ones too.

        Returns:
            Batches.
        """
        with self._database.transaction() as session:
            return _batches(session, BatchRow.stage.in_(_UNFINISHED))

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
                if stage in (BatchStage.PURGED, BatchStage.CLOSED):
                    move(
                        session, TicketRow.batch_id == batch_id, TicketState(stage)
                    )  # refused for one on hold
                else:
                    move(session, not_held(batch_id), TicketState(stage))
                    take_held_along(session, batch_id, TicketState(stage))
                if "certificate_id" in data:
                    certified = {"certificate_id": data["certificate_id"]}
                    session.execute(update(TicketRow).where(TicketRow.batch_id == batch_id).values(certified))
            row.data = {**row.data, **data}
            return _batches(session, BatchRow.batch_id == batch_id)[0]

    def step_back(self, batch_id: str, reason: str = "a gate refused the release") -> Batch:
        """Return to removed from a release that is not certified, to be unlearned anew; tickets keep their history.

        Args:
            batch_id: Of the batch.
            reason: For their history.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage in (BatchStage.UNLEARNED, BatchStage.VALIDATED):
                row.stage = BatchStage.REMOVED
                # a certificate that was written and did not hold belongs to the release that goes
                row.data = {k: v for k, v in row.data.items() if k not in ("certificate", "envelope")}
                put(session, not_held(batch_id), TicketState.REMOVED, reason)
                take_held_along(session, batch_id, TicketState.REMOVED)
            return _batches(session, BatchRow.batch_id == batch_id)[0]

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
            return _batches(session, BatchRow.batch_id == batch_id)[0]

    def append_draw(self, batch_id: str, **spends: Any) -> int:
        """Count a noise draw, durably, before it is made: a crash in between is charged, never forgotten.

        Args:
            batch_id: Of the batch.
            **spends: What it spends, for the draws that may follow it; public figures.

        Returns:
            Draws so far, this one included.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            row.draws += 1
            row.data = {**row.data, "drawn": [*row.data.get("drawn", []), spends]}
            return row.draws

    def fail(self, batch_id: str, error: str, *, outage: bool = False) -> Batch:
        """Mark a batch failed; the old model goes on serving.

        Args:
            batch_id: Of the batch.
            error: Why, without personal data.
            outage: Whether a service was away: then it is tried again without a person's help.

        Returns:
            The batch.
        """
        with self._database.transaction() as session:
            row = _row(session, batch_id)
            if row.stage != BatchStage.FAILED:
                row.failed_stage, row.stage = row.stage, BatchStage.FAILED
                move(session, not_held(batch_id), TicketState.FAILED, error)
            row.error, row.data = error, {**row.data, "outage": outage}
            return _batches(session, BatchRow.batch_id == batch_id)[0]

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
                row.data = {name: value for name, value in row.data.items() if name != "outage"}
                failed = and_(TicketRow.batch_id == batch_id, TicketRow.state == TicketState.FAILED)
                for before in session.scalars(select(TicketRow.state_before).where(failed).distinct()).all():
                    if before:
                        same = and_(failed, TicketRow.state_before == before)
                        move(session, same, TicketState(before), "resumed")
            return _batches(session, BatchRow.batch_id == batch_id)[0]

    def close(self, batch_id: str, prove: Callable[[], None] = lambda: None) -> Batch:
        """Close a purged batch: subject ids and row fingerprints are erased, free pages too.

        Texts of its history that name one of the people, such as a path in an error, are erased with the ids.

        Args:
            batch_id: Of the batch.
            prove: Called when they are erased; where it raises, the batch stays purged.

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
            row.data = {**row.data, "scan": None, "attempts": {}}  # sealed ones are in the annex
            blank_texts(session, row)
            session.execute(update(TicketRow).where(TicketRow.batch_id == batch_id).values(subject_id=None))
        self._database.compact()
        prove()
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
            LeaseHeldError: If another holder's lease is live.
        """
        now = datetime.now(UTC)
        with self._database.transaction() as session:
            row = session.get(LeaseRow, lineage, with_for_update=True)
            if row is not None and row.holder != holder and row.expires_at > now and alive(row.holder):
                raise LeaseHeldError(
                    "another run is at work on this model",
                    got=f"a lease until {row.expires_at:%H:%M:%S} UTC",
                    remedy="wait for it, or try again when its lease has expired",
                )
            session.merge(LeaseRow(lineage=lineage, holder=holder, expires_at=now + timedelta(seconds=ttl_s)))

    def renew_lease(self, lineage: str, holder: str, ttl_s: float) -> None:
        """Renew a lease that is held; one that somebody else has taken meanwhile is gone, also when they are done.

        Args:
            lineage: Name of the registered model, or of other work that has a lease.
            holder: Who.
            ttl_s: For how long, in seconds.

        Raises:
            LeaseHeldError: If it is not the holder's any more.
        """
        with self._database.transaction() as session:
            row = session.get(LeaseRow, lineage, with_for_update=True)
            if row is None or row.holder != holder:
                raise LeaseHeldError(
                    "this run has lost its lease",
                    expected="a heartbeat in time",
                    got="another run that took the work over",
                    remedy="leave it to that one",
                )
            row.expires_at = datetime.now(UTC) + timedelta(seconds=ttl_s)

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


def _new(session: Session, data: dict[str, Any]) -> str:
    batch_id = f"b-{secrets.token_hex(6)}"
    session.add(
        BatchRow(
            batch_id=batch_id, stage=BatchStage.PLANNED, created_at=datetime.now(UTC), draws=0, data=data
        )
    )
    session.flush()
    return batch_id


def _row(session: Session, batch_id: str) -> BatchRow:
    row = session.get(BatchRow, batch_id)
    if row is None:
        raise TicketError("no such batch", expected="a batch id such as b-0123456789ab", got=batch_id)
    return row


def _batches(session: Session, *criteria: ColumnElement[bool]) -> list[Batch]:
    """Batches, oldest first: two statements for any number of them."""
    rows = session.scalars(
        select(BatchRow).where(*criteria).order_by(BatchRow.created_at, BatchRow.batch_id)
    ).all()
    members: dict[str, list[tuple[str, str]]] = {row.batch_id: [] for row in rows}
    query = (
        select(BatchRow.batch_id, TicketRow.ticket_id, TicketRow.pseudonym)
        .join(TicketRow, TicketRow.batch_id == BatchRow.batch_id)
        .where(*criteria)
        .order_by(TicketRow.ticket_id)
    )
    for batch_id, ticket_id, pseudonym in session.execute(query).tuples():
        members[batch_id].append((ticket_id, pseudonym))
    return [
        Batch(
            batch_id=row.batch_id,
            stage=BatchStage(row.stage),
            created_at=row.created_at,
            tickets=tuple(ticket_id for ticket_id, _ in members[row.batch_id]),
            pseudonyms=tuple(pseudonym for _, pseudonym in members[row.batch_id]),
            draws=row.draws,
            data=dict(row.data),
            failed_stage=row.failed_stage,
            error=row.error,
        )
        for row in rows
    ]
