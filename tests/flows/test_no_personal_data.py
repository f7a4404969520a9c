"""A person's id is in the tickets database and in the dataset, and nowhere else: every byte is searched.

Here the intake and the sweep run in this process, on a real Prefect server; tests/stack does it with a whole stack.
"""

import base64
import json
import logging
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from prefect import flow, get_run_logger

from expunge.logs import JsonLines
from expunge.reports.plain_words import bound
from flows.erase import erase
from flows.sweep import sweep
from tasks.adapters import access
from tasks.adapters.artifacts import show_table
from tasks.adapters.prefect_api import api
from tasks.adapters.prefect_server import _drain
from tests.cli.http_clients import make_intake
from tests.conftest import make_workspace
from tests.leaks import ERASED, HELD, NAMES, NOBODY, PLANTED, of_folder, of_git, refused_requests, where


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, prefect_api):
    tmp = tmp_path_factory.mktemp("personal")
    return make_workspace(tmp / "workspace", tmp, names=NAMES)


@flow(name="planted", persist_result=False)
def plant(batch: str) -> None:
    get_run_logger().info("about %s", batch)
    assert show_table("planted", [{"batch": batch}], "planted")


def test_no_id_in_logs_prefect_mlflow_or_git(clinic, prefect_api, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(clinic.root))
    logs = tmp_path / "logs"
    logs.mkdir()
    lines = logging.FileHandler(logs / "all.log")
    lines.setFormatter(JsonLines())
    lines.setLevel(logging.INFO)
    loggers = [logging.getLogger(name) for name in (None, "expunge", "prefect")]
    for logger in loggers[:2]:
        logger.addHandler(lines)
    monkeypatch.setattr(logging.getLogger("expunge"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("expunge"), "level", logging.INFO)
    try:
        intake = make_intake(clinic.root)
        with intake.client:
            erased, held = intake.post(ERASED, f"mail of {ERASED}"), intake.post(HELD, "mail 2")
            assert (erased.status_code, held.status_code) == (202, 202)
            ticket = erased.json()
            refused = refused_requests(intake.client, intake.tokens["officer"], ticket["ticket_id"])
            assert set(refused) == {401, 404, 405, 413, 422, 400}
            assert clinic("ticket", "hold", held.json()["ticket_id"], "--reason", f"{HELD} asked") == 2
            assert clinic("ticket", "hold", held.json()["ticket_id"], "--reason", "legal claim") == 0
            assert clinic("ticket", "submit", "--subject", NOBODY) == 2
            sweep()
            assert intake.get(f"/v1/tickets/{ticket['ticket_id']}").json()["state"] == "closed"
            again = intake.post(ERASED, "mail 3")
            assert again.status_code == 409
        (batch,) = clinic.batches()
        erase(batch.batch_id)  # again: it does no harm, and shows nothing twice
        plant(PLANTED)
        version = access.registry(clinic.state()).champion().version
        access.registry(clinic.state()).tag(version, "planted", PLANTED)
        subprocess.run(
            ["git", "commit", "--allow-empty", "-m", f"about {PLANTED}"], cwd=clinic.root, check=True
        )
        logging.getLogger("expunge").info("about %s", PLANTED)
        print(f"about {PLANTED}")
    finally:
        for logger in loggers[:2]:
            logger.removeHandler(lines)
    places = everything(clinic.root, logs, capfd, prefect_api, (batch.batch_id, ticket["ticket_id"]))
    for person in (ERASED, HELD, NOBODY):
        assert where(person, places) == []
    assert {place.split("/")[0] for place in where(PLANTED, places)} >= {
        "logs", "output", "prefect", "mlflow", "git log", "git objects",
    }  # fmt: skip
    assert where(batch.batch_id, places)
    assert "prefect/prefect.db cells" in where(ticket["ticket_id"], places)
    assert any(place.startswith("mlflow/artifacts") for place in where(ticket["pseudonym"], places))
    assert_artifacts(clinic, prefect_api, batch)
    written = [json.loads(line) for line in (logs / "all.log").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in written))
    access_lines = [line for line in written if line["logger"] == "expunge.http.access"]
    assert {line["status"] for line in access_lines} >= {202, 401, 404, 409, 413, 422}
    assert all(line["ms"] >= 0 and line["token_id"] for line in access_lines)
    steps = [line for line in written if line.get("batch_id") == batch.batch_id]
    assert {line["stage"] for line in steps} >= {
        "plan",
        "remove",
        "unlearn",
        "certify",
        "register",
        "purge",
        "close",
    }


def everything(root: Path, logs: Path, capfd, url: str, until: tuple[str, ...]) -> dict[str, bytes]:
    """All places that must not name anyone."""
    out, err = capfd.readouterr()
    home = Path(os.environ["PREFECT_HOME"])
    _drain()
    end = time.monotonic() + 60
    while not all("prefect.db cells" in where(name, of_folder(home)) for name in until):
        assert time.monotonic() < end, "Prefect does not store what it was told"
        time.sleep(1)
    time.sleep(3)  # its events come in batches
    state = root / ".expunge"
    return {
        "output": (out + err).encode(),
        **{f"logs/{name}": content for name, content in of_folder(logs).items()},
        **{f"prefect/{name}": content for name, content in of_folder(home).items()},
        **{name: c for name, c in of_folder(state, skip=("tickets.db", "dvc-remote")).items()},
        **of_git(root),
    }


def assert_artifacts(clinic, url: str, batch) -> None:
    """What Prefect's pages show of the batch: once each, also after it is swept again."""
    shown = {}
    for artifact in api(url, "/artifacts/filter", {"artifacts": {"key": {"like_": f"{batch.batch_id}%"}}}):
        assert artifact["key"] not in shown
        shown[artifact["key"].removeprefix(batch.batch_id)] = artifact["data"]
    assert shown.pop("-progress") == 100
    facts = {row[""]: row["value"] for row in json.loads(shown.pop("-summary"))}
    assert shown == {}  # no server of MLflow's is named, so there is no page to link to
    (certificate,) = clinic.certificates()
    assert {name: facts[name] for name in ("records", "epsilon", "delta", "mechanism", "certificate")} == {
        "records": certificate["forget"]["records"],
        "epsilon": bound(certificate["epsilon"]),
        "delta": bound(certificate["delta"]),
        "mechanism": certificate["mechanism"],
        "certificate": certificate["certificate_id"],
    }
    assert (facts["tickets"], facts["ticket ids"], facts["noise draws"]) == (1, batch.tickets[0], 1)
    assert not [name for name in facts if "second" in name or "time" in name]  # they depend on the forget set
    (row,) = json.loads(api(url, f"/artifacts/sweep-{clinic.state().lineage}/latest")["data"])
    assert (row["batch"], row["stage"]) == (batch.batch_id, "closed")


@pytest.mark.parametrize("around", ["", "a", "ab", "a@b"])
def test_a_disguise_is_seen_through(tmp_path, around):
    text = f"{around}{PLANTED} and more".encode()
    for number, content in enumerate([text, base64.b64encode(text), text.hex().encode()]):
        (tmp_path / str(number)).write_bytes(content)
    (tmp_path / "3").write_bytes(text.decode().encode("utf-16-le"))
    (tmp_path / PLANTED).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", text)
    (tmp_path / "innocent").write_bytes(HELD.encode())
    assert where(PLANTED, of_folder(tmp_path)) == sorted(["0", "1", "2", "3", PLANTED, "z!member"])
