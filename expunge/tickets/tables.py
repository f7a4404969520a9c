"""Tables of tickets and batches. ``tickets.subject_id`` is the only column that ever holds a person's id.

Closed tickets and batches stay for ever, so whatever is asked often has an index that leads past them.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from expunge.database import Base, UtcTime


class BatchRow(Base):
    """One batch: the durable stage of its saga."""

    __tablename__ = "batches"
    # the few that are not closed; the last ones that are, without sorting all
    __table_args__ = (Index("ix_batches_stage_created_at", "stage", "created_at"),)

    batch_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    stage: Mapped[str] = mapped_column(String(20))
    failed_stage: Mapped[str | None] = mapped_column(String(20))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    draws: Mapped[int] = mapped_column(default=0)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)


class TicketRow(Base):
    """One erasure request."""

    __tablename__ = "tickets"
    __table_args__ = (
        Index("ix_tickets_state_due_at", "state", "due_at"),  # what is due, near its deadline, or counted
        Index("ix_tickets_state_closed_at", "state", "closed_at"),  # the last closed, without sorting all
        Index("ix_tickets_due_at_ticket_id", "due_at", "ticket_id"),  # pages of all, soonest deadline first
    )

    ticket_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    subject_id: Mapped[str | None] = mapped_column(Text)
    pseudonym: Mapped[str] = mapped_column(String(60), index=True)  # whether a person has a ticket
    state: Mapped[str] = mapped_column(String(20))
    state_before: Mapped[str | None] = mapped_column(String(20))
    regime: Mapped[str] = mapped_column(String(10))
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    due_at: Mapped[datetime] = mapped_column(UtcTime)
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.batch_id"), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    certificate_id: Mapped[str | None] = mapped_column(String(60))
    closed_at: Mapped[datetime | None] = mapped_column(UtcTime)


class TicketEventRow(Base):
    """One step of a ticket."""

    __tablename__ = "ticket_events"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    ticket_id: Mapped[str] = mapped_column(ForeignKey("tickets.ticket_id"), index=True)
    at: Mapped[datetime] = mapped_column(UtcTime)
    source: Mapped[str | None] = mapped_column(String(20))
    target: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text, default="")


class DeadlineRow(Base):
    """What happened to a ticket's deadline, if anything did."""

    __tablename__ = "ticket_deadlines"

    ticket_id: Mapped[str] = mapped_column(ForeignKey("tickets.ticket_id"), primary_key=True)
    extended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    alarm: Mapped[str | None] = mapped_column(String(10))  # the last level that was delivered


class LeaseRow(Base):
    """Who works on a model lineage."""

    __tablename__ = "leases"

    lineage: Mapped[str] = mapped_column(String(100), primary_key=True)
    holder: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
