"""Alarms of deadlines and of batches: a log line, a Prefect event and, if policy names one, a webhook."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.events import emit_event

from expunge.state import State, open_state
from tasks.step import log, step, warn

_TIMEOUT_S = 10.0
_TRIES = 3


@step
def raise_alarms() -> int:
    """Tell of every deadline that came near since the last time; what could not be told is tried again next time.

    Returns:
        Number of alarms told.
    """
    state, told = open_state(), 0
    for alarm in state.deadlines.alarms(datetime.now(UTC)):
        said = f"deadline {alarm.level}: ticket {alarm.ticket_id}, due {alarm.due_at:%Y-%m-%d %H:%M} UTC"
        log(said, ticket_id=alarm.ticket_id, alarm=alarm.level)
        emit_event(
            event="expunge.ticket.deadline",
            resource={"prefect.resource.id": f"expunge.ticket.{alarm.ticket_id}"},
            payload=alarm.to_json(),
        )
        if state.policy.alarms.webhook and not _posted(state.policy.alarms.webhook, alarm.to_json()):
            log(
                f"ticket {alarm.ticket_id}: the webhook did not take the alarm; it is tried at the next sweep"
            )
            continue
        state.deadlines.told(alarm)
        told += 1
    return told


def alarm_of_batch(state: State, batch_id: str, said: str) -> None:
    """Tell that something is wrong with a batch; it is told again if the step is repeated.

    Args:
        state: The workspace.
        batch_id: Of the batch.
        said: What, without figures and without personal data.
    """
    warn(f"batch {batch_id}: {said}")
    payload = {"batch_id": batch_id, "alarm": said}
    emit_event(
        event="expunge.batch.alarm",
        resource={"prefect.resource.id": f"expunge.batch.{batch_id}"},
        payload=payload,
    )
    if state.policy.alarms.webhook and not _posted(state.policy.alarms.webhook, payload):
        warn(f"batch {batch_id}: the webhook did not take the alarm")


def _posted(url: str, alarm: Mapping[str, Any]) -> bool:
    """Whether the webhook took it."""
    for _ in range(_TRIES):
        try:
            if httpx.post(url, json=dict(alarm), timeout=_TIMEOUT_S).is_success:
                return True
        except httpx.HTTPError:
            continue
    return False
