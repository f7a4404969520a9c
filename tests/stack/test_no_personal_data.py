"""A whole stack at work, with its log files: no person's id in any of them, in its databases or in git."""

import json

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import make_clinic
from tests.leaks import ERASED, HELD, NAMES, NOBODY, of_folder, of_git, refused_requests, where
from tests.stack.operator import Operator, wait

OURS = ("intake", "supervisor", "worker-cpu", "worker-gpu")
EXPLAINS = {"queue", "at_work", "last_runs", "ledger_left"}


def log_lines(expunge: Operator, name: str) -> list[dict]:
    """A log's lines; those that Prefect's worker prints for people when it starts are no JSON."""
    text = (expunge.root / ".expunge" / "logs" / f"{name}.log").read_text()
    written = [line for line in text.splitlines() if line.strip()]
    if name.startswith("worker"):
        written = [line for line in written if line.startswith("{")]
    return [json.loads(line) for line in written]


@pytest.mark.slow
def test_no_id_in_logs_databases_or_git(tmp_path):
    expunge = Operator(tmp_path / "workspace", EXPUNGE_HTTP_WRITES_PER_MINUTE="1000")
    expunge("init", str(expunge.root), "--dataset", str(make_clinic(tmp_path / "clinic", NAMES)))
    expunge("train")
    token = expunge("token", "create", "--role", "officer", "--name", "test")["token"]
    held = expunge("ticket", "submit", "--subject", HELD)["ticket_id"]
    expunge("ticket", "hold", held, "--reason", f"{HELD} asked for it", code=2)
    expunge("ticket", "hold", held, "--reason", "legal claim")
    expunge("ticket", "submit", "--subject", NOBODY, code=2)
    auth = {"Authorization": f"Bearer {token}"}
    try:
        expunge("up")
        client = httpx.Client(base_url=f"http://127.0.0.1:{expunge.intake_port}", timeout=30)
        body = {"subject": ERASED, "regime": "gdpr"}
        ticket = client.post("/v1/tickets", json=body, headers=auth | {"Idempotency-Key": ERASED}).json()
        assert set(refused_requests(client, token, ticket["ticket_id"])) == {400, 401, 404, 405, 413, 422}
        shown = f"/v1/tickets/{ticket['ticket_id']}"
        wait(lambda: client.get(shown, headers=auth).json()["state"] == "closed", 240, "the sweep", every=1)
        batch = client.get(shown, headers=auth).json()["batch_id"]
        wait(lambda: not expunge("status")["at_work"], 60, "the sweep's end")
        status = wait(
            lambda: (s := expunge("status"))["last_runs"]["sweep"]["outcome"] == "completed" and s,
            60,
            "Prefect",
        )
        assert status["healthy"]
        assert status["queue"]["on_hold"] == 1
        assert set(status) >= EXPLAINS
        (link,) = expunge.prefect("/artifacts/filter", {"artifacts": {"key": {"any_": [f"{batch}-model"]}}})
        assert f"http://127.0.0.1:{expunge.env['EXPUNGE_MLFLOW_PORT']}/#/models/" in link["data"]
        families = {
            f.name: f for f in text_string_to_metric_families(client.get("/metrics", headers=auth).text)
        }
        assert families["expunge_batch_stage_seconds_gcount"].samples
    finally:
        expunge("down")
    places = {
        "output": expunge.said.encode(),
        **of_folder(expunge.root / ".expunge", skip=("tickets.db", "dvc-remote")),
        **of_git(expunge.root),
    }
    for person in (ERASED, HELD, NOBODY):
        assert where(person, places) == []
    seen = where(ticket["ticket_id"], places)
    assert "prefect/prefect.db cells" in seen
    assert where(ticket["pseudonym"], places)
    assert {"logs/worker-cpu.log", "mlflow/mlflow.db cells", "git log"} <= set(where(batch, places))
    for name in OURS:
        lines = log_lines(expunge, name)
        assert lines
        assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    stages = {line["stage"] for line in log_lines(expunge, "worker-cpu") if line.get("batch_id") == batch}
    assert {"remove", "certify", "register", "purge", "close"} <= stages
    assert {line["stage"] for line in log_lines(expunge, "worker-gpu") if "stage" in line} == {"unlearn"}
    statuses = {line["status"] for line in log_lines(expunge, "intake") if line["logger"].endswith("access")}
    assert statuses >= {200, 202, 400, 401, 404, 405, 413, 422}
    started = {line["service"] for line in log_lines(expunge, "supervisor") if "service" in line}
    assert started == {"prefect", "mlflow", "worker-cpu", "worker-gpu", "intake"}
