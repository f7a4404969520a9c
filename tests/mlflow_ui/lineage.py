"""A lineage of three versions with golden evidence, in a real MLflow server that asks who one is."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.reports.content import certificate_document
from expunge.reports.page import render_page
from expunge.reports.plots import accumulated_error_plot
from tasks.adapters.mlflow_accounts import Accounts, allowed_hosts, with_accounts
from tasks.adapters.mlflow_runs import DatasetRef
from tasks.adapters.model_pages import PURGE_RECORD, SUPERSEDED_TAG, write_pages
from tasks.adapters.registry import Registry
from tasks.adapters.supervisor import answers
from tasks.registration import _tags
from tests.stack.operator import free_ports, wait
from tests.tasks.test_registry import spec_of

GOLDEN = Path(__file__).parents[1] / "golden" / "certificate-v1-convex"


@dataclass(frozen=True)
class Audited:
    """What there is to look at.

    Args:
        url: Of the server.
        accounts: Who may look.
        registry: Past the server, as the workers write.
        certificate: Of version 2, as plain data.
    """

    url: str
    accounts: Accounts
    registry: Registry
    certificate: dict

    def login(self, name: str) -> tuple[str, str]:
        lines = self.accounts.path(name).read_text().splitlines()
        user, password = (line.split("=", 1)[1] for line in lines)
        return user, password


@contextmanager
def mlflow_server(home: Path) -> Iterator[tuple[str, Accounts]]:
    """A server with accounts, as `expunge up --auth` starts it."""
    (port,), accounts = free_ports(1), Accounts(home / "accounts")
    url, command = (
        f"http://127.0.0.1:{port}",
        ["server", "--host", "127.0.0.1", "--port", port, "--workers", "1"],
    )
    variables = accounts.prepare() | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": allowed_hosts("127.0.0.1", port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(home / "artifacts"),
    }
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *with_accounts(command)],
            env=os.environ | variables,
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait(lambda: answers(f"{url}/health"), 240, "MLflow")
        accounts.ensure_auditor(url)
        yield url, accounts
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def make_lineage(home: Path) -> tuple[Registry, dict]:
    """The first version, one that unlearned, one that unlearned again; the weights before it are purged."""
    certificate = json.loads((GOLDEN / "certificate.json").read_text())
    ledger = json.loads((GOLDEN / "ledger.json").read_text())
    registry = Registry(f"sqlite:///{home}/mlflow.db", home / "artifacts", certificate["model"]["name"])
    (home / "certificate.html").write_text(render_page(certificate_document(certificate, ledger)))
    (home / "accumulated_error.png").write_bytes(accumulated_error_plot(ledger, 0.01))
    data = certificate["dataset"]
    opening, _ = spec_of(home, "opening")
    opening = replace(
        opening,
        run_name="train",
        artifacts={},
        after=DatasetRef(**data["before"]),
        tags={
            "dataset_md5": data["before"]["md5"],
            "git_revision": data["before"]["git_revision"],
            "mechanism": "train",
        },
    )
    evidence = {
        **{name: GOLDEN / name for name in ("certificate.json", "ledger.json", "annex.sealed")},
        **{name: home / name for name in ("certificate.html", "accumulated_error.png")},
    }
    registry.register(opening)
    for parent, batch in ((1, certificate["batch"]), (2, "b-0123456789ab")):
        version = registry.register(
            replace(
                opening,
                batch=batch,
                run_name=f"erase {batch}",
                tags=_tags(certificate) | {"parent_version": str(parent)},
                before=DatasetRef(**data["before"]),
                after=DatasetRef(**data["after"]),
                artifacts=evidence,
                documents={"gates.json": certificate["validation"]},
            )
        )
        registry.promote(version.version)
        registry.purge_weights(parent)
        registry.attach(version, PURGE_RECORD, ledger[-1])
        registry.tag(version.version, SUPERSEDED_TAG, ledger[-1]["issued_at"])
    write_pages(registry)
    return registry, certificate


@contextmanager
def audited(home: Path) -> Iterator[Audited]:
    """The lineage and its server."""
    registry, certificate = make_lineage(home)
    with mlflow_server(home) as (url, accounts):
        yield Audited(url, accounts, registry, certificate)
