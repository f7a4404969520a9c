"""Lists the fields of everything that a workspace publishes: files, MLflow, Prefect, git, evidence, reports.

A field is a path such as ``certificate:model.digest``; indices of lists are collapsed, lists of named things are keyed
by their names, and free text counts as a field for each wording (digits and ids as ``#``).
"""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from expunge.evidence.statements import CERTIFICATE_PREDICATE
from expunge.state import State
from expunge.tickets.lifecycle import TicketState
from tasks.adapters import access
from tasks.adapters.prefect_api import api
from tasks.compliance import collect, days
from tasks.receipt import receipt_of
from tasks.signing import sign_receipt

Fields = dict[str, list[str]]  # values by path

_NAMED = ("constants", "gates", "searched", "public_parts", "columns")  # lists whose items are told by name
_ID = re.compile(
    r"\b[0-9a-f]{32,}(\.dir)?\b|\b[abct]-[0-9a-f]{12,16}\b|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\dT[\d:+.]+"
)
_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")
_RUN = re.compile(r"flow run '[a-z-]+'")  # a name that Prefect draws
_PAGES = 200


def template(text: str) -> str:
    """A wording without what varies in it."""
    return _NUMBER.sub("#", _ID.sub("#", _RUN.sub("flow run #", text)))


def walk(kind: str, value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and values of the leaves of plain data."""
    if isinstance(value, dict):
        for name, inner in value.items():
            key = template(name) if kind == "compliance" else name  # some of its counts are by wording
            yield from walk(kind, inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        last = path.rpartition(".")[2]
        for inner in value:
            key = ""
            if last in _NAMED and isinstance(inner, dict):
                key = str(inner.get("name") or inner.get("kind"))
            yield from walk(kind, inner, f"{path}[{key if last not in ('columns', 'searched') else ''}]")
        if not value:
            yield f"{kind}:{path}[]", ""
    elif value is None or isinstance(value, str | int | float):
        yield f"{kind}:{path}", json.dumps(value)
    elif isinstance(value, datetime):
        yield f"{kind}:{path}", value.isoformat()
    else:  # an entity of MLflow's
        yield from walk(kind, {name.lstrip("_"): inner for name, inner in vars(value).items()}, path)


class Inventory:
    """What a workspace has published."""

    def __init__(self) -> None:
        self.found: Fields = {}

    def add(self, kind: str, value: Any) -> None:
        for path, leaf in walk(kind, value):
            self.found.setdefault(path, []).append(leaf)

    def add_text(self, kind: str, text: str) -> None:
        self.found.setdefault(f"{kind}:{template(text)}", []).append(text)

    def add_model(self, folder: Path) -> None:
        """A model's folder: model.json, and names, shapes and bytes of the tensors."""
        self.add("model.json", json.loads((folder / "model.json").read_text()))
        content = (folder / "weights.safetensors").read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        for name, tensor in header.items():
            if name == "__metadata__":
                self.add("weights.safetensors", {name: tensor})
                continue
            begin, end = (8 + size + offset for offset in tensor["data_offsets"])
            self.add("weights.safetensors", {name: {**tensor, "data": content[begin:end].hex()}})
        for path in folder.iterdir():
            self.add("file", {f"model/{path.name}": ""})

    def add_evidence(self, folder: Path) -> None:
        """The files of a certificate, in the evidence folder or among an MLflow run's artifacts."""
        for path in sorted(folder.iterdir()):
            self.add("file", {path.name: path.read_bytes().hex()})
            if path.name == "certificate.dsse.json":
                envelope = json.loads(path.read_text())
                payload = json.loads(base64.b64decode(envelope.pop("payload")))
                assert payload["predicateType"] == CERTIFICATE_PREDICATE
                predicate = payload.pop("predicate")
                assert predicate == json.loads((folder / "certificate.json").read_text())
                self.add("envelope", {**envelope, "statement": payload})
            elif path.name == "model.sig":
                bundle = json.loads(path.read_text())
                payload = json.loads(base64.b64decode(bundle["dsseEnvelope"].pop("payload")))
                self.add("model.sig", {**bundle, "statement": payload})
            elif path.name == "ledger.json":
                self.add_ledger(json.loads(path.read_text()))
            elif path.suffix == ".json":
                self.add(path.stem, json.loads(path.read_text()))

    def add_ledger(self, ledger: dict[str, Any]) -> None:
        """A ledger file, its signed head opened."""
        head = ledger["head"]
        head["statement"] = json.loads(base64.b64decode(head.pop("payload")))
        self.add("ledger", ledger)

    def add_version(self, state: State, number: int) -> None:
        """A version in MLflow, with its run, its logged model and every file of both."""
        registry = access.registry(state)
        client: MlflowClient = registry.client
        version = client.get_model_version(registry.name, str(number))
        told = {k: v for k, v in dict(version).items() if k != "description"}
        self.add("version", told)
        for line in (version.description or "").splitlines():
            label = line.split(": ")[0] if line.startswith("- ") else line
            self.add_text("version description", label if "**" not in label else "**the verdict**")
        run = client.get_run(version.run_id)
        self.add("run", run.to_dictionary())
        artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
        if artifacts.is_dir():
            self.add_evidence(artifacts)
        if "weights.purged_at" in version.tags:
            return
        model = client.get_logged_model(version.tags["expunge.logged_model"])
        self.add("logged model", model.to_dictionary())
        folder = Path(model.artifact_location.removeprefix("file://"))
        for path in sorted(folder.iterdir()):
            self.add("file", {path.name: ""})
            if path.suffix == ".json":
                self.add(path.name, json.loads(path.read_text()))
            elif path.suffix == ".yaml" or path.name == "MLmodel":
                self.add(path.name, yaml.safe_load(path.read_text()))
            elif path.suffix == ".txt":
                self.add_text(path.name, path.read_text())
        self.add_model(folder / "data" / "model")

    def add_registered(self, state: State) -> None:
        """The registered model."""
        registry = access.registry(state)
        told = dict(registry.client.get_registered_model(registry.name))
        told.pop("latest_versions")  # versions are walked one by one
        for line in told.pop("description").splitlines():
            row = line.startswith("| [version")
            self.add_text("registered description", "a row on a version" if row else template(line))
        self.add("registered", told)

    def add_git(self, root: Path, since: str | None = None) -> None:
        """Commits: message, author, names and content of their files."""
        span = [f"{since}..HEAD"] if since else ["HEAD"]
        for commit in git(root, "log", "--format=%H", *span).split():
            self.add_text("git message", git(root, "log", "-1", "--format=%B", commit).strip())
            for line in git(root, "cat-file", "commit", commit).split("\n\n")[0].splitlines():
                self.add("git commit", {line.split(" ")[0]: line})
            for name in git(root, "show", "--name-only", "--format=", commit).split():
                text = git(root, "show", f"{commit}:{name}")
                self.add("git file", {name: text})
                if name in ("dvc.lock", "data/dataset.dvc"):
                    self.add(name, yaml.safe_load(text))

    def add_ledger_and_receipts(self, state: State) -> None:
        """The ledger as shown, receipts of closed tickets as signed, and the compliance report."""
        self.add_ledger(state.ledger.read(state.lineage).to_json())
        for ticket in state.tickets.select():
            if ticket.state != TicketState.CLOSED:  # there is no receipt before
                continue
            receipt = receipt_of(state, ticket.ticket_id)
            self.add("receipt", receipt)
            envelope = dict(sign_receipt(state, receipt))
            payload = json.loads(base64.b64decode(envelope.pop("payload")))
            assert payload["predicate"].pop("receipt") == receipt
            self.add("receipt envelope", {**envelope, "statement": payload})
        now = datetime.now(UTC)
        self.add("compliance", collect(state, days(str(now.date()), str(now.date())), now).figures)

    def add_prefect(self, url: str) -> None:
        """What Prefect's server keeps: runs of flows and tasks, their logs, artifacts."""
        for what, path in (("flow run", "/flow_runs/filter"), ("task run", "/task_runs/filter")):
            for run in _all(url, path):
                for name in ("id", "name", "state", "empirical_policy"):
                    if isinstance(run.get(name), dict):
                        run[name].pop("id", None)
                self.add(f"prefect {what}", run)
        for entry in _all(url, "/logs/filter"):
            self.add_text("prefect log", entry.pop("message"))
            self.add("prefect log", entry)
        for artifact in _all(url, "/artifacts/filter"):
            data = artifact.pop("data")
            self.add_text("prefect artifact key", artifact.pop("key"))
            self.add_text("prefect artifact description", artifact.pop("description") or "")
            self.add("prefect artifact", artifact)
            if artifact["type"] == "table":
                for row in json.loads(data):
                    cells = {row[""]: row["value"]} if "value" in row else row
                    self.add("prefect table", cells)
            else:
                self.add_text(f"prefect {artifact['type']}", str(data))


def _all(url: str, path: str) -> Iterator[dict[str, Any]]:
    offset = 0
    while page := api(url, path, {"limit": _PAGES, "offset": offset}):
        yield from page
        offset += len(page)


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def published(state: State, url: str | None) -> Fields:
    """Everything that a workspace has published."""
    inventory = Inventory()
    for version in access.registry(state).versions():
        if "parent_version" in version.tags:
            inventory.add_version(state, version.version)
    inventory.add_registered(state)
    for folder in sorted(state.workspace.evidence_dir.iterdir()):
        inventory.add_evidence(folder)
    inventory.add_git(state.workspace.root)
    inventory.add_ledger_and_receipts(state)
    if url:
        inventory.add_prefect(url)
    return inventory.found
