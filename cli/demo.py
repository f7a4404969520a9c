"""The demo: the whole path on a throw-away workspace, through the same commands a user has."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml

from cli.output import err, out, table
from expunge.errors import ExpungeError


def run_demo(dataset: str, source: Path | None, model: str, keep: Path | None) -> None:
    """Init, train, file tickets, plan, run, verify; then say how to look around.

    Args:
        dataset: Of the catalogue.
        source: Its files, if it is not bundled.
        model: linearized-mlp or mlp.
        keep: Where the workspace stays; a temporary folder is removed at the end.
    """
    from tasks.adapters.prefect_server import prefect_server

    root = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="expunge-demo-")) / "workspace"
    try:
        _title(f"1. A workspace with {dataset}")
        _expunge("init", str(root), "--dataset", dataset, *(("--source", str(source)) if source else ()))
        _choose_model(root, model)
        with prefect_server(root / ".expunge" / "prefect"):  # one server for training and erasure
            _title("2. Train and register the first model")
            _expunge("train", "--workspace", str(root))
            _title("3. Deletion tickets come in")
            outcomes = _file_tickets(root)
            _title("4. Dry run")
            _expunge("plan", "--workspace", str(root))
            _title("5. Process what is due")
            _expunge("run", "--workspace", str(root))
        _title("6. Verify")
        _verify(root)
        _title("7. What happened")
        _tell(root, outcomes)
        _how_to_look(root, kept=keep is not None)
    finally:
        if keep is None:
            shutil.rmtree(root.parent, ignore_errors=True)


def _title(text: str) -> None:
    out.print(f"\n[bold]{text}[/bold]")


def _expunge(*arguments: str) -> None:
    from cli.main import invoke

    # a demo that files a person's id prints none
    shown = [
        "<id>" if before == "--subject" else now
        for before, now in zip(("", *arguments), arguments, strict=False)
    ]
    err.print(f"$ expunge {' '.join(shown)}", markup=False, soft_wrap=True)
    code = invoke(list(arguments))
    if code:  # the command has said why
        raise typer.Exit(code)


def _choose_model(root: Path, model: str) -> None:
    path = root / "params.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if content["model"]["name"] != model:
        content["model"]["name"] = model
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _people(root: Path) -> list[str]:
    """Three people of the training split: those with most rows where people have many, else any."""
    from expunge.datasets.partitions import read_dataset

    frame = read_dataset(root / "data" / "dataset")
    train = frame[frame["split"] == "train"]
    counts = train["subject_id"].value_counts()
    if counts.iloc[0] > 1:
        return [str(name) for name in counts.index[:3]]
    return [str(name) for name in train["subject_id"].iloc[[7, 42, 99]]]


def _file_tickets(root: Path) -> list[tuple[str, str]]:
    """Two patients, one more with a hold, one unknown person, one duplicate: and what intake said to each."""
    from expunge.state import open_state
    from tasks.intake import require_known

    state = open_state(root)
    first, second, held = _people(root)
    outcomes = []
    for who, subject in (("patient A", first), ("patient B", second), ("patient C", held)):
        require_known(state, subject)
        ticket = state.tickets.submit(subject).ticket
        outcomes.append((who, ticket.ticket_id))
    state.tickets.hold(outcomes[-1][1], "legal claim under review")
    try:
        require_known(state, "nobody-of-this-name")
    except ExpungeError as error:
        outcomes.append(("unknown person", f"refused: {error.args[0].split(':')[0]}"))
    again = state.tickets.submit(first)
    outcomes.append(
        ("patient A again", f"{again.ticket.ticket_id}: there already" if not again.created else "filed")
    )
    table("Intake", ("who", "outcome"), outcomes)
    state.database.dispose()
    return outcomes


def _verify(root: Path) -> None:
    for path in sorted((root / ".expunge" / "evidence").glob("c-*")):
        _expunge("certificate", "verify", path.name, "--workspace", str(root))
    _expunge("ledger", "verify", "--workspace", str(root))
    _expunge("purge", "verify", "--workspace", str(root))


def _tell(root: Path, outcomes: list[tuple[str, str]]) -> None:
    from cli.run import summary
    from expunge.models.serving import load_model
    from expunge.reports.plain_words import verdict
    from expunge.stages import MODEL_FOLDER
    from expunge.state import open_state

    state = open_state(root)
    by_id = {ticket.ticket_id: ticket for ticket in state.tickets.select()}
    rows = [
        (who, by_id[name].state, by_id[name].certificate_id, by_id[name].reason)
        if name in by_id
        else (who, name, "", "")
        for who, name in outcomes
    ]
    table("Tickets", ("who", "state", "certificate", "reason"), rows)
    for batch in state.batches.every():
        done: dict[str, Any] = summary(state, batch.batch_id)
        certificate = batch.data["certificate"]
        out.print(f"\n[bold]Verdict:[/bold] {verdict(certificate)}")
        m, scan = done["metrics"], done["scan"]
        out.print(f"Test accuracy: {done['parent_accuracy']:.4f} before, {m['accuracy']:.4f} after.")
        trained = load_model(root / "build" / MODEL_FOLDER, root).training["seconds"]
        out.print(
            f"Time: unlearning {done['seconds']['unlearning']:.1f} s (loading and noise included), "
            f"training from scratch {trained:.1f} s."
        )
        files = sum(item["files"] for item in scan["searched"])
        size = sum(item["bytes"] for item in scan["searched"])
        out.print(
            f"Residue scan: {'clean' if scan['clean'] else 'NOT CLEAN'} ({files:,} files and objects, {size:,} bytes); "
            "it looked for the ids and for every removed row."
        )
    state.database.dispose()


def _how_to_look(root: Path, *, kept: bool) -> None:
    if not kept:
        out.print("\nThe workspace was temporary. DEMO_WORKSPACE=dir make demo keeps it, to look around:")
    else:
        out.print("\nLook around:")
    state = root / ".expunge" if kept else Path("dir") / ".expunge"
    store = f"sqlite:///{state}/mlflow/mlflow.db"
    out.print(f"  MLflow:  .venv/bin/mlflow ui --backend-store-uri {store} --port 5000", markup=False)
    out.print(f"  Prefect: PREFECT_HOME={state}/prefect .venv/bin/prefect server start", markup=False)
    out.print(f"  Certificate page: {state}/evidence/c-*/certificate.html", markup=False)
