"""The lifecycle of a ticket: a state machine without input or output.

received -> verified -> scheduled -> removed -> unlearned -> validated -> certified -> registered -> purged -> closed;
on_hold from any state before purged, and back; rejected and withdrawn before a batch; failed at any stage of a batch,
resumable.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from expunge.errors import TicketError
from expunge.regimes import LAWS, Regime


class TicketState(StrEnum):
    """Where a ticket stands."""

    RECEIVED = "received"
    VERIFIED = "verified"
    ON_HOLD = "on_hold"
    SCHEDULED = "scheduled"
    REMOVED = "removed"
    UNLEARNED = "unlearned"
    VALIDATED = "validated"
    CERTIFIED = "certified"
    REGISTERED = "registered"
    PURGED = "purged"
    CLOSED = "closed"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"


_PATH = (
    TicketState.SCHEDULED,
    TicketState.REMOVED,
    TicketState.UNLEARNED,
    TicketState.VALIDATED,
    TicketState.CERTIFIED,
    TicketState.REGISTERED,
    TicketState.PURGED,
    TicketState.CLOSED,
)
_BEFORE = (TicketState.RECEIVED, TicketState.VERIFIED)  # no batch has it yet
_HOLDABLE = frozenset({*_BEFORE, *_PATH[:-2]})
FINAL = frozenset({TicketState.CLOSED, TicketState.REJECTED, TicketState.WITHDRAWN})
# Named one by one, and not as all but the final ones: so an index finds them among many that are closed.
OPEN = tuple(str(state) for state in TicketState if state not in FINAL)
RUNNING = tuple(state for state in OPEN if state != TicketState.ON_HOLD)  # their clock runs

_NEXT: dict[TicketState, frozenset[TicketState]] = {
    TicketState.RECEIVED: frozenset(
        {TicketState.VERIFIED, TicketState.ON_HOLD, TicketState.REJECTED, TicketState.WITHDRAWN}
    ),
    TicketState.VERIFIED: frozenset(
        {TicketState.SCHEDULED, TicketState.ON_HOLD, TicketState.REJECTED, TicketState.WITHDRAWN}
    ),
    TicketState.ON_HOLD: _HOLDABLE,
    TicketState.FAILED: frozenset(_PATH[:-1]),
    **{
        state: frozenset({_PATH[index + 1], TicketState.FAILED})
        | ({TicketState.ON_HOLD} if state in _HOLDABLE else set())
        for index, state in enumerate(_PATH[:-1])
    },
    **{state: frozenset() for state in FINAL},
}


def advance(state: TicketState, target: TicketState, *, before: TicketState | None = None) -> TicketState:
    """Check one step of a ticket.

    Args:
        state: Where it is.
        target: Where it is to go.
        before: Where it was before it was held or failed; it can only return there.

    Returns:
        The target.

    Raises:
        TicketError: If the step is out of order.

    Example:
        >>> advance(TicketState.RECEIVED, TicketState.VERIFIED).value
        'verified'
    """
    allowed = _NEXT[state]
    if state in (TicketState.ON_HOLD, TicketState.FAILED):
        allowed = allowed & {before} if before else frozenset()
    if state is TicketState.ON_HOLD and before in _BEFORE:
        allowed |= {TicketState.REJECTED, TicketState.WITHDRAWN}
    if state is TicketState.FAILED and before in _HOLDABLE:
        allowed |= {TicketState.ON_HOLD}
    if target not in allowed:
        raise TicketError(
            "a ticket cannot take this step",
            expected=f"from {state} to {', '.join(sorted(allowed)) or 'nothing: it is final'}",
            got=str(target),
            remedy="see `expunge ticket show`",
        )
    return target


def due_at(
    received_at: datetime, regime: str, *, extended: bool = False, laws: Mapping[str, Regime] = LAWS
) -> datetime:
    """Deadline of a ticket, such as a calendar month and two more (GDPR), or 45 days and 45 (CCPA).

    Args:
        received_at: When the request came.
        regime: Name of a law.
        extended: Whether the one extension was taken.
        laws: By name; those of policy.yaml, or the known ones.

    Returns:
        As :meth:`expunge.regimes.Regime.due_at` counts.

    Raises:
        TicketError: If the regime is unknown; it is not repeated, for it may be anything.

    Example:
        >>> due_at(datetime(2026, 1, 31), "gdpr").day
        28
    """
    if regime not in laws:
        raise TicketError(
            "unknown regime",
            expected=", ".join(laws),
            got="another name",
            remedy="correct the regime, or add it to regimes in policy.yaml",
        )
    return laws[regime].due_at(received_at, extended=extended)
