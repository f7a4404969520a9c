"""What the tickets database costs when it is full: `python -m benchmarks.tickets [--database URL]`.

SQLite in a temporary folder and, with `--database`, an empty PostgreSQL database, which is filled too: tickets in nine
states, closed batches for the most part. Seconds are of whole calls of the stores: waiting for the lock, statements,
commit with its write to disk, and objects made of the rows; the database's own time is less. Reads are the best of
three, writes are done once.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine, String, event, insert, literal, select, text, true
from sqlalchemy.orm import Session

from benchmarks.common import best, emit, hardware, parser, pick_device, say, timed
from expunge.database import Database, open_database
from expunge.pseudonyms import Pseudonymiser
from expunge.tickets.batches import ORDER, BatchStage, BatchStore
from expunge.tickets.deadlines import Deadlines
from expunge.tickets.figures import read_figures
from expunge.tickets.lifecycle import TicketState
from expunge.tickets.store import TicketStore
from expunge.tickets.tables import BatchRow, TicketEventRow, TicketRow

TICKETS, BATCHES = 10_000, 500
PSEUDONYMISER = Pseudonymiser(b"\x07" * 32, 1)
_UNFINISHED = (BatchStage.FAILED, *ORDER[:-1])


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What any database is told meanwhile, with parameters; one that is executed for many rows counts once."""
    seen: list[tuple[str, Any]] = []

    def listen(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", listen)


def fill(database: Database, tickets: int, batches: int) -> None:
    """A tenth of the tickets can be batched, a hundredth is on hold, two were withdrawn; the others are in batches.

    A hundredth of the batches is unfinished, each at another stage; the others are closed.
    """
    now = datetime.now(UTC)
    names = [f"b-{number:012x}" for number in range(batches)]
    stages = [
        _UNFINISHED[number // 100 % len(_UNFINISHED)] if number % 100 == 99 else BatchStage.CLOSED
        for number in range(batches)
    ]
    rows = []
    for number in range(tickets):
        place, batch = number % 100, None
        if place < 10:
            state = TicketState.VERIFIED
        elif place < 13:
            state = TicketState.ON_HOLD if place == 10 else TicketState.WITHDRAWN
        else:
            batch = number * batches // tickets
            state = TicketState.SCHEDULED if stages[batch] == "planned" else TicketState(stages[batch])
        ended = state in (TicketState.CLOSED, TicketState.WITHDRAWN)
        # open ones are due within the month, many at the same moment; the others were filed in the years before
        received = now - timedelta(days=number % 30 if not ended else 31 + number % 700)
        before = {"on_hold": "verified", "failed": "unlearned"}.get(state)
        rows.append(
            {
                "ticket_id": f"t-{number:012x}",
                "subject_id": None if ended else f"person-{number:06d}",
                "pseudonym": f"p1-{number:052d}",
                "state": str(state),
                "state_before": before,
                "regime": "gdpr",
                "received_at": received,
                "due_at": received + timedelta(days=30, seconds=3600),
                "idempotency_key": f"k1-{number:052d}",
                "batch_id": None if batch is None else names[batch],
                "reason": "",
                "certificate_id": f"c-{batch:012x}" if state == TicketState.CLOSED else None,
                "closed_at": received + timedelta(days=20) if ended else None,
            }
        )
    sagas = [
        {
            "batch_id": name,
            "stage": str(stage),
            "failed_stage": "unlearned" if stage is BatchStage.FAILED else None,
            "created_at": now - timedelta(days=batches - number),
            "draws": 1,
            # as large as a certificate and the names of partitions
            "data": {"partitions": [sha256(f"{number} {n}".encode()).hexdigest() for n in range(60)]},
        }
        for number, (name, stage) in enumerate(zip(names, stages, strict=True))
    ]
    with database.transaction() as session:
        session.connection().execute(insert(BatchRow), sagas)
        session.connection().execute(insert(TicketRow), rows)
        for source, target in pairwise([None, "received", "verified", "scheduled", *ORDER[1:]]):
            took = true() if target in ("received", "verified") else TicketRow.state == TicketState.CLOSED
            _record(session, literal(source, String), literal(target, String), took)
        took = TicketRow.state.not_in([TicketState.VERIFIED, TicketState.CLOSED])
        _record(session, literal("verified"), TicketRow.state, took)
        if session.connection().dialect.name == "postgresql":
            session.execute(text("ANALYZE"))


def _record(session: Session, source: Any, target: Any, took: Any) -> None:
    """The step that some tickets took."""
    step = select(TicketRow.ticket_id, TicketRow.received_at, source, target, literal("")).where(took)
    names = ["ticket_id", "at", "source", "target", "reason"]
    session.execute(insert(TicketEventRow).from_select(names, step))


def measure(database: Database, tickets: int, batches: int) -> dict[str, dict[str, float]]:
    """Fill an empty database and use it: seconds and statements of each thing."""
    if sum(read_figures(database).tickets.values()):
        raise SystemExit("this database has tickets: name an empty one, it is filled with made-up ones")
    _, seconds = timed(lambda: fill(database, tickets, batches))
    say(f"{tickets} tickets filed in {seconds:.1f} s")
    store, sagas = TicketStore(database, PSEUDONYMISER), BatchStore(database)
    deadlines, now = Deadlines(database), datetime.now(UTC)
    middle = store.select()[tickets // 2]
    reads: dict[str, Callable[[], Any]] = {
        "ticket list": store.select,
        "ticket list --due 7d": lambda: store.select(due_before=now + timedelta(days=7)),
        "a page of 100 from the middle": lambda: store.select(
            after=(middle.due_at, middle.ticket_id), limit=101
        ),
        "plan: due tickets and their people": lambda: store.subjects_of(
            [ticket.ticket_id for ticket in store.due_for_batch()]
        ),
        "sweep: unfinished batches": sagas.unfinished,
        "sweep: due tickets": store.due_for_batch,
        "sweep: alarms": lambda: deadlines.alarms(now),
        "figures": lambda: read_figures(database),
    }
    out: dict[str, dict[str, float]] = {}

    def note(name: str, call: Callable[[], Any]) -> Any:
        with statements() as seen:
            result, seconds = timed(call)
        out[name] = {"seconds": seconds, "statements": len(seen)}
        return result

    for name, call in reads.items():
        note(name, call)
        out[name]["seconds"] = best(call)[1]
    one = note("file a ticket", partial(store.submit, "person-new")).ticket.ticket_id
    many = [ticket.ticket_id for ticket in store.due_for_batch() if ticket.ticket_id != one]
    for chosen in ([one], many):
        opened = note(f"open a batch of {len(chosen)}", partial(sagas.open_batch, chosen))
        for stage in ORDER[1:-1]:
            note(f"advance {len(chosen)} to {stage}", partial(sagas.advance, opened.batch_id, stage))
        note(f"close {len(chosen)}", partial(sagas.close, opened.batch_id))
    return out


def main() -> None:
    options = parser(__doc__, device=False)
    options.add_argument("--database", help="URL of an empty PostgreSQL database")
    given = options.parse_args()
    tickets = given.records or TICKETS
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/tickets.db", *([given.database] if given.database else [])]
        measured = {}
        for url in urls:
            database = open_database(url)
            measured[url.partition(":")[0].partition("+")[0]] = measure(database, tickets, tickets // 20)
            database.dispose()
    document = {
        "tickets": tickets,
        "batches": tickets // 20,
        "databases": measured,
        "sqlite": sqlite3.sqlite_version,
        "hardware": hardware(pick_device("cpu")),
    }
    emit("tickets", document, None, given.out)


if __name__ == "__main__":
    main()
