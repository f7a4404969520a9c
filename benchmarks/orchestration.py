"""What orchestration costs, everything but training and unlearning: `python -m benchmarks.orchestration`.

Makes a throw-away workspace of made-up people, starts one Prefect server, trains, and erases batch after batch in one
process: one ticket (imports are paid), then one ticket and a thousand in turn. Last, a fresh `expunge run` with the
server up pays for its imports. `MLFLOW_TRACKING_URI` names an MLflow server instead of the embedded database.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks.common import (
    SEED,
    bars,
    emit,
    fresh_process,
    hardware,
    panels,
    parser,
    pick_device,
    say,
    timed,
)

FEATURES = 8
STEPS = ("plan", "remove", "unlearn", "validate", "certify", "register", "purge", "keep_curvature", "close")
UNLEARNING, CURVATURE, BETWEEN = "unlearning", "curvature", "between steps"
WAIT = "Prefect's heartbeat"  # a flow's end waits for a thread that looks once a second whether it has ended
HEAVY = ("torch", "pandas", "prefect", "dvc.repo", "mlflow.pyfunc", "great_expectations", "matplotlib.figure")


def people_rows(people: int) -> pd.DataFrame:
    """One to three rows a person, labels of a random linear rule and noise; the seed is public."""
    draw = np.random.default_rng(SEED)
    who = np.repeat(np.arange(people), draw.integers(1, 4, people))
    features = draw.normal(size=(len(who), FEATURES))
    well = features @ draw.normal(size=FEATURES) + draw.normal(size=len(who)) > 0
    columns: dict[str, Any] = {f"x{i}": features[:, i] for i in range(FEATURES)}
    ids = [f"person-{number:06d}-x" for number in who]
    return pd.DataFrame({"person": ids, **columns, "outcome": np.where(well, "well", "ill")})


def make_workspace(folder: Path, people: int) -> tuple[Path, list[str]]:
    """An untrained workspace with a softmax model, and its people."""
    from cli.main import invoke

    rows, source, root = people_rows(people), folder / "visits", folder / "workspace"
    source.mkdir(parents=True)
    rows.to_csv(source / "visits.csv", index=False)
    contract = {
        "version": 1,
        "name": "visits",
        "subject": "person",
        "label": "outcome",
        "classes": ["ill", "well"],
        "split": {"test_fraction": 0.25, "seed": 1},
        "columns": [{"name": f"x{i}"} for i in range(FEATURES)],
    }
    (source / "contract.yaml").write_text(yaml.safe_dump(contract), encoding="utf-8")
    if invoke(["init", str(root), "--dataset", str(source), "--json"]) != 0:
        raise RuntimeError("the workspace was not made")
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["model"] = {"name": "softmax", "linearize": True, "hyperparameters": {}}
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return root, list(dict.fromkeys(rows["person"]))


class Clock:
    """Seconds spent inside functions, by name; a function inside another counts for both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def running(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return running


@contextlib.contextmanager
def instrumented(clock: Clock, counts: Counter[str]) -> Iterator[None]:
    """Time every step and what is numerical in it; count what is asked of other programs."""
    import httpx
    import prefect.flow_engine
    from dvc.repo import Repo
    from requests import Session
    from sqlalchemy import Engine, event

    import flows.erase
    from expunge.mechanisms.planner import MECHANISMS
    from tasks import curvature, unlearning
    from tasks.adapters.registry import Registry

    def counted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any, **named: Any) -> Any:
            counts[what] += 1
            return function(*arguments, **named)

        return calling

    def statement(connection: Any, *_: Any) -> None:
        mlflow = "mlflow" in str(connection.engine.url)
        counts["statements to MLflow's database" if mlflow else "statements to the tickets database"] += 1

    tasks = {name: getattr(unlearning if name == "unlearn" else flows.erase, name) for name in STEPS}
    clocked = [
        *((task, "fn", name) for name, task in tasks.items()),
        *((type(mechanism), "unlearn", UNLEARNING) for mechanism in MECHANISMS),
        (unlearning, "release", UNLEARNING),
        (curvature, "rebuild_kept", CURVATURE),
    ]
    joined = {"join": clock.around(WAIT, threading.Thread.join)}
    threads = {**vars(threading), "Thread": type("Thread", (threading.Thread,), joined)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(prefect.flow_engine, "threading", SimpleNamespace(**threads)))
        for owner, name, what in clocked:
            stack.enter_context(patch.object(owner, name, clock.around(what, getattr(owner, name))))
        for owner, name, what in (
            (subprocess.Popen, "__init__", "processes started"),
            (httpx.AsyncClient, "send", "HTTP requests to Prefect"),
            (httpx.Client, "send", "HTTP requests to Prefect"),
            (Session, "send", "HTTP requests to MLflow"),
            (Repo, "__init__", "openings of the DVC repository"),
            (Registry, "download", "downloads of a model"),
        ):
            stack.enter_context(patch.object(owner, name, counted(what, getattr(owner, name))))
        event.listen(Engine, "before_cursor_execute", statement)
        stack.callback(event.remove, Engine, "before_cursor_execute", statement)
        yield


def processor_seconds() -> float:
    """Of this process and of its children that have ended: hardly disturbed by other programs."""
    return sum(os.times()[:4])


def erase_batch(root: Path, people: Sequence[str]) -> dict[str, Any]:
    """File tickets, make a batch of them, and erase it in this process."""
    from expunge.state import open_state
    from flows.erase import erase

    state = open_state(root)
    filed, filing = timed(lambda: state.tickets.submit_all([(person, "gdpr", None) for person in people]))
    batch_id = state.batches.open_batch([done.ticket.ticket_id for done in filed]).batch_id
    clock, counts = Clock(), Counter[str]()
    with instrumented(clock, counts):
        worked = processor_seconds()
        _, wall = timed(lambda: erase(batch_id))
        worked = processor_seconds() - worked
    batch = state.batches.get(batch_id)
    if batch.stage != "closed":
        raise RuntimeError(f"the batch ended {batch.stage}: {batch.error}")
    steps = {name: clock.seconds[name] for name in STEPS}
    between = wall - sum(steps.values()) - clock.seconds[WAIT]  # Prefect's engine, leases
    steps["unlearn"] -= clock.seconds[UNLEARNING]
    steps["keep_curvature"] -= clock.seconds[CURVATURE]
    numerical = {name: clock.seconds[name] for name in (UNLEARNING, CURVATURE)}
    orchestration = wall - sum(numerical.values())
    say(f"{len(people)} tickets: {wall:.1f} s, {orchestration:.1f} s of them orchestration")
    return {
        "tickets": len(people),
        "records": batch.data["records"],
        "filing_seconds": filing,
        "wall_seconds": wall,
        "processor_seconds": worked,
        "numerical_seconds": numerical,
        "orchestration_seconds": orchestration,
        "by_step": {**steps, BETWEEN: between, WAIT: clock.seconds[WAIT]},
        "stage_seconds": batch.data["seconds"],
        "counts": dict(sorted(counts.items())),
    }


def cold_run(root: Path, person: str) -> dict[str, Any]:
    """One ticket by `expunge run` in a fresh process, whose server is up; and what its imports alone take."""
    from expunge.state import open_state

    open_state(root).tickets.submit(person)
    worked = processor_seconds()
    (batch,), wall = timed(lambda: fresh_process("cli.main", ["run", "--json", "--workspace", str(root)]))
    worked = processor_seconds() - worked
    imports, started = timed(lambda: fresh_process("benchmarks.imports", list(HEAVY)))
    numerical = sum(batch["seconds"][stage] for stage in (UNLEARNING, CURVATURE))
    rest = wall - started - numerical
    say(f"fresh process: {wall:.1f} s, {started:.1f} s of them start and imports")
    return {
        "wall_seconds": wall,
        "processor_seconds": worked,
        "numerical_seconds": numerical,
        "orchestration_seconds": wall - numerical,
        "by_part": {
            **{f"import {name}": seconds for name, seconds in imports.items()},
            "interpreter": started - sum(imports.values()),
            "steps": rest,
        },
    }


def measure(folder: Path, *, people: int, many: int, repeats: int, cold: bool) -> dict[str, Any]:
    """Everything in one run."""
    from cli.main import invoke
    from tasks.adapters.prefect_server import prefect_server

    root, waiting = make_workspace(folder, people)
    with prefect_server(folder / "prefect"), patch.dict(os.environ, EXPUNGE_WORKSPACE=str(root)):
        if invoke(["train", "--workspace", str(root)]) != 0:
            raise RuntimeError("the model was not trained")
        sizes = [1] + repeats * [1, many]
        batches = [erase_batch(root, [waiting.pop() for _ in range(size)]) for size in sizes]
        fresh = cold_run(root, waiting.pop()) if cold else None
    one, thousand = (summarise([b for b in batches[1:] if b["tickets"] == size]) for size in (1, many))
    return {
        "people": people,
        "model": "softmax",
        "first_batch": batches[0],
        "one_ticket": one,
        "many_tickets": thousand,
        "ratio_many_to_one": thousand["orchestration_seconds"] / one["orchestration_seconds"],
        "ratio_without_heartbeat": _without_wait(thousand) / _without_wait(one),
        "cold_process": fresh,
    }


def summarise(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """The batch whose orchestration took the median time but for the wait, and every batch's."""
    ordered = sorted(batches, key=_without_wait)
    return {
        **ordered[(len(ordered) - 1) // 2],
        "every_orchestration_seconds": [batch["orchestration_seconds"] for batch in batches],
    }


def _without_wait(batch: dict[str, Any]) -> float:
    return float(batch["orchestration_seconds"] - batch["by_step"][WAIT])


def plot(document: dict[str, Any]) -> Figure:
    """Seconds by step."""
    one, many, fresh = document["one_ticket"], document["many_tickets"], document["cold_process"]
    figure, axes = panels(3 if fresh else 2)
    for place, batch in zip(axes, (one, many), strict=False):
        bars(place, batch["by_step"], f"seconds, {batch['tickets']} tickets in one batch")
    if fresh:
        bars(axes[2], fresh["by_part"], "seconds, one ticket, a fresh process")
    return figure


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        document = measure(
            Path(folder), people=options.people, many=options.tickets, repeats=options.repeats, cold=True
        )
    document["hardware"] = hardware(pick_device("cpu"))
    emit("orchestration", document, plot(document), options.out)


if __name__ == "__main__":
    arguments = parser(__doc__, device=False)
    arguments.add_argument("--people", type=int, default=6000)
    arguments.add_argument("--tickets", type=int, default=1000, help="in the large batch")
    arguments.add_argument("--repeats", type=int, default=3)
    main(arguments.parse_args())
