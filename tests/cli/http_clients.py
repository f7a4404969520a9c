"""A workspace, its application and its tokens, for the tests of the HTTP intake."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from cli.http.app import create_app
from cli.http.security import HttpSettings
from cli.main import invoke
from expunge.state import State, open_state
from expunge.tickets.tokens import Role, TokenStore
from tests.conftest import make_clinic

ROLES = tuple(str(role) for role in Role)


@dataclass
class Intake:
    """An application and a token of each role."""

    state: State
    client: TestClient
    tokens: dict[str, str]

    def auth(self, role: str = "intake", key: str | None = None) -> dict[str, str]:
        extra = {} if key is None else {"Idempotency-Key": key}
        return {"Authorization": f"Bearer {self.tokens[role]}", **extra}

    def post(self, subject: str, key: str, regime: str = "gdpr", role: str = "intake") -> Any:
        body = {"subject": subject, "regime": regime}
        return self.client.post("/v1/tickets", json=body, headers=self.auth(role, key))

    def get(self, path: str, role: str = "officer") -> Any:
        return self.client.get(path, headers=self.auth(role))


def make_root(folder: Path) -> Path:
    """A workspace that is not trained."""
    root = folder / "w"
    assert invoke(["init", str(root), "--dataset", str(make_clinic(folder / "clinic"))]) == 0
    return root


def make_intake(root: Path, **settings: Any) -> Intake:
    """Its application; the caller enters ``client``."""
    state = open_state(root)
    store = TokenStore(state.database)
    tokens = {role: store.create(role, f"test {role}")[1] for role in ROLES}
    given = HttpSettings(**{"writes_per_minute": 10**6, **settings})
    return Intake(state, TestClient(create_app(state, given)), tokens)


def together(work: list[Callable[[], Any]], threads: int) -> list[Any]:
    """Do all of it in so many threads; what each returned, in order."""
    results: list[Any] = [None] * len(work)
    barrier = threading.Barrier(threads)

    def one(first: int) -> None:
        barrier.wait()
        for index in range(first, len(work), threads):
            results[index] = work[index]()

    running = [threading.Thread(target=one, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results
