"""What `expunge doctor` looks at."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError
from expunge.state import State, open_state

_PACKAGES = ("torch", "prefect", "fastapi", "mlflow", "dvc", "great_expectations")


def run_checks(path: Path | None) -> list[dict[str, Any]]:
    """Look at everything; nothing is changed.

    Args:
        path: The workspace.

    Returns:
        ``{check, ok, detail}``.
    """
    checks = [_try("git", lambda: subprocess.check_output(["git", "--version"], text=True).strip())]
    checks += [_try(name, partial(metadata.version, name)) for name in _PACKAGES]
    checks.append(_try("device", _device))
    opened = _try("workspace and database", lambda: str(open_state(path).workspace.root))
    checks.append(opened)
    if opened["ok"]:
        state = open_state(path)
        checks.append(_try("files are private", lambda: _private(state)))
        checks.append(_try("place", lambda: _place(state)))
        checks.append(_try("keys are private", lambda: _keys(state)))
        checks.append(_try("signing keys", lambda: _signing(state)))
        checks.append(_try("sealed annexes", lambda: _annexes(state)))
        checks.append(_try("model", lambda: _champion(state)))
        checks.append(_try("artifacts can be looked into", lambda: _artifacts(state)))
        checks.append(_try("ledger", lambda: _ledger(state)))
        checks.append(_try("other models of the same people", lambda: _lineages(state)))
        checks.append(_try("guard against purged versions", lambda: _guard(state)))
        checks.append(_try("Prefect", lambda: _prefect(state)))
        free = shutil.disk_usage(state.workspace.root).free
        checks.append({"check": "disk", "ok": free > 1 << 30, "detail": f"{free / 2**30:.1f} GiB free"})
    return checks


def _try(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "detail": look()}
    except (ExpungeError, OSError, subprocess.SubprocessError, metadata.PackageNotFoundError) as error:
        return {"check": name, "ok": False, "detail": str(error)}


def _device() -> str:
    from expunge.devices import chosen_device

    return str(chosen_device())


def _keys(state: State) -> str:
    accounts = state.workspace.accounts_dir
    open_to_others = [
        path.name
        for path in (
            *state.workspace.keys_dir.glob("*.key"),
            *accounts.glob("*.key"),
            *accounts.glob("*.env"),
        )
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    if open_to_others:
        raise ExpungeError("others can read", got=", ".join(open_to_others), remedy="chmod 600")
    return "yes"


def _private(state: State) -> str:
    from expunge.permissions import is_open, require_private

    require_private(state.workspace)
    if is_open(state.workspace):
        root = state.workspace.root
        raise ExpungeError("other accounts can enter the workspace", remedy=f"chmod 700 {root}")
    return "yes"


def _signing(state: State) -> str:
    from tasks.signing import require_signer

    require_signer(state)
    ring = state.signing.keyring()
    newest = ring.of("evidence")[-1]
    ends = newest.valid_until
    revoked = [f"; {k.keyid[:16]} revoked since {k.revoked.since:%Y-%m-%d}" for k in ring.keys if k.revoked]
    until = f", until {ends:%Y-%m-%d}: rotate before" if ends else ""
    return f"{newest.keyid[:16]} signs{until}{''.join(revoked)}"


def _annexes(state: State) -> str:
    from expunge.evidence.annex import PRIVATE_NAME

    if not (state.workspace.keys_dir / PRIVATE_NAME).exists():
        return "the auditor's private key is not here"
    return (
        f"whoever runs this workspace can open them, and certificates say so: hand .expunge/keys/{PRIVATE_NAME} "
        "to your auditor, and remove it here"
    )


def _champion(state: State) -> str:
    from tasks.adapters import access

    champion = access.registry(state).champion()
    if champion is None:
        return "none yet: run `expunge train`"
    from expunge.scratch import scratch
    from tasks.ledger import require_recorded
    from tasks.parent import fetch

    require_recorded(state, champion.version)
    with scratch(state.workspace.scratch_dir) as place:
        fetch(state, champion, place)  # there, not purged, and what the ledger speaks of
    return f"version {champion.version} serves, and its files are those of the ledger"


def _place(state: State) -> str:
    from tasks.place import place_fault

    if (elsewhere := place_fault(state)) is not None:
        raise ExpungeError(
            "this workspace was copied or moved",
            expected=elsewhere,
            got=str(state.workspace.root),
            remedy="`expunge workspace relocate` if it was moved, `expunge workspace fork` if it is a copy",
        )
    return "where it says that it is"


def _artifacts(state: State) -> str:
    from tasks.adapters import access

    seen = access.registry(state).require_artifacts_seen()
    return "yes" if seen else "by your word (purge.artifact_server): every certificate says so"


def _ledger(state: State) -> str:
    from tasks.verification import verify_own_ledger

    ledger = state.ledger.read(state.lineage)
    if not ledger.entries:
        return "none yet"
    outcome = verify_own_ledger(state, ledger)
    if not outcome.consistent:
        raise ExpungeError(
            "the ledger does not verify", got=outcome.findings[0], remedy="see `expunge ledger verify`"
        )
    word = "verified" if outcome.verified else "consistent, and no signature on it was checked"
    return f"{len(ledger.entries)} entries, {word}"


def _lineages(state: State) -> str:
    from tasks.lineages import on_the_same_people

    return "; ".join(on_the_same_people(state)) or "none that can be seen from here"


def _guard(state: State) -> str:
    from tasks.adapters.guard import installed

    if not installed(state.workspace.root):
        raise ExpungeError(
            "git's post-checkout hook is missing or cannot run",
            remedy="run `expunge data guard`; without it `dvc checkout` of a purged version empties the folder",
        )
    return "installed"


def _prefect(state: State) -> str:
    from tasks.adapters.prefect_access import take_up
    from tasks.adapters.prefect_api import api

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return "embedded: started when needed"
    take_up(state.workspace)
    api(url, "/flows/count", {}, at_most_s=5.0)  # its health it tells anybody
    return f"server at {url}"
