"""Commands that run the stack: Prefect, MLflow, workers, intake."""

import json as json_format
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, showing_progress, table, use_workspace

_START_S, _POLL_S = 180, 0.5


def add_to(app: typer.Typer) -> None:
    """Add the commands.

    Args:
        app: The command line.
    """
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and stop all on Ctrl-C or SIGTERM.")
    ] = False,
    auth: Annotated[
        bool | None,
        typer.Option(
            "--auth/--no-auth",
            help="MLflow asks who one is: accounts `operator` and `auditor` (reads only). The default, unless its "
            "server runs elsewhere; with --no-auth everyone on this machine may change what MLflow holds.",
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Start Prefect, MLflow, the workers and the intake, and deploy the flows."""
    from cli import services
    from expunge.errors import InputError, ServiceUnavailableError
    from expunge.permissions import require_private
    from tasks.adapters import supervisor
    from tasks.adapters.mlflow_accounts import AUDITOR, OPERATOR, Accounts
    from tasks.adapters.prefect_access import secret_path
    from tasks.adapters.temporary_server import end_orphans

    opened = use_workspace(workspace).workspace
    require_private(opened)
    if auth is None:
        auth = not os.environ.get("MLFLOW_TRACKING_URI")
    accounts = Accounts(opened.accounts_dir) if auth else None
    if supervisor.is_up(opened.stack_dir):
        raise InputError("the stack is up already", remedy="see `expunge status`, or stop it: `expunge down`")
    if os.environ.get("EXPUNGE_DEVICE"):  # every worker would refuse it, one by one
        from expunge.devices import chosen_device

        chosen_device()
    supervisor.shut_down(opened.stack_dir)  # orphans of a supervisor that was killed
    end_orphans(opened.prefect_home)
    variables = services.environment(opened, accounts)
    wanted = services.services(variables, accounts)
    names = [service.name for service in wanted]
    services.require_free_ports(variables, names)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(0)
    )  # from a service manager: what was started is stopped
    with showing_progress():
        process = _spawn(opened, wanted, variables)
        try:
            _make_ready(opened, process, variables, names)
            if accounts is not None:
                accounts.ensure_auditor(services.addresses(variables, names)["mlflow"])
        except BaseException:
            _stop(opened)
            raise
    urls = services.addresses(variables, names)
    logins = {name: str(accounts.path(name)) for name in (OPERATOR, AUDITOR)} if accounts else {}
    if json:
        started = {"services": names, "urls": urls, "prefect_api": variables["PREFECT_API_URL"]}
        emit({**started, "accounts": logins})
    else:
        for name, url in urls.items():
            out.print(f"{name:8} {url}", markup=False)
        for name, path in logins.items():
            out.print(f"MLflow account {name}: {path}", markup=False)
        if "prefect" in names:
            out.print(f"Prefect's secret: {secret_path(opened)}", markup=False)
        out.print("Logs in .expunge/logs; `expunge status` looks at them, `expunge down` stops them")
    if foreground:
        try:
            ended = process.wait()
        finally:
            _stop(opened)
        if ended:  # not by `expunge down`: a service manager is to start it again
            raise ServiceUnavailableError("the supervisor was killed", remedy="run `expunge up` again")


def down(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Stop the stack; doing it twice does no harm."""
    ran = _stop(use_workspace(workspace, reading=True).workspace)
    if json:
        emit({"stopped": ran})
        return
    out.print("stopped" if ran else "nothing was running")


def status(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """Health of the services, queue, work and deadlines; exit code 3 when a service is down."""
    from cli.activity import print_activity, read_activity
    from expunge.errors import ServiceUnavailableError

    state = use_workspace(workspace, reading=True)
    found, queue = _services(state.workspace), _queue(state)
    activity = read_activity(state, found["prefect_api"])
    healthy = bool(found["services"]) and all(service["up"] for service in found["services"])
    if json:
        emit({"healthy": healthy, **found, **queue, **activity})
    else:
        rows = [(s["service"], "up" if s["up"] else "DOWN", s["detail"]) for s in found["services"]]
        if rows:
            table("Stack", ("service", "state", "detail"), rows)
        else:
            out.print("Stack: not started")
        states = ", ".join(f"{count} {name}" for name, count in queue["open_tickets"].items()) or "none"
        out.print(
            f"Open tickets: {states}; overdue: {queue['overdue']}; next due: {queue['next_due'] or '-'}"
        )
        out.print(f"Late runs: {'unknown' if found['late_runs'] is None else found['late_runs']}")
        print_activity(activity)
    if not healthy and json:
        raise typer.Exit(3)
    if not found["services"]:
        raise ServiceUnavailableError("the stack is not started", remedy="`expunge up` starts it")
    if not healthy:
        down_now = ", ".join(s["service"] for s in found["services"] if not s["up"])
        raise ServiceUnavailableError(f"down: {down_now}", remedy="see .expunge/logs, or run `expunge up`")


def _spawn(workspace: Any, wanted: list[Any], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    for folder in (workspace.stack_dir, workspace.logs_dir, workspace.mlflow_artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    workspace.stack_dir.chmod(0o700)
    plan = workspace.stack_dir / "plan.json"
    content = {
        "folder": str(workspace.stack_dir),
        "logs": str(workspace.logs_dir),
        "services": [{"name": s.name, "command": s.command, "after": s.after} for s in wanted],
    }
    plan.write_text(json_format.dumps(content), encoding="utf-8")
    with (workspace.logs_dir / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.adapters.supervisor", str(plan)],
            cwd=variables["EXPUNGE_HOME"],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _make_ready(
    workspace: Any, process: "subprocess.Popen[bytes]", variables: dict[str, str], names: list[str]
) -> None:
    from cli import services
    from tasks.adapters.prefect_access import STACK_FILE
    from tasks.adapters.prefect_server import databases_digest
    from tasks.adapters.supervisor import answers

    url, urls = variables["PREFECT_API_URL"], services.addresses(variables, names)
    _wait(process, "starting the Prefect server", lambda: answers(f"{url}/health"))
    _deploy(url, variables)
    _wait(
        process,
        "starting workers and MLflow",
        lambda: all(service["up"] for service in services.health(workspace, url, urls)),
    )
    content = {"prefect": url, "urls": urls, "databases": databases_digest(workspace)}
    (workspace.stack_dir / STACK_FILE).write_text(json_format.dumps(content), encoding="utf-8")


def _wait(process: "subprocess.Popen[bytes]", what: str, ready: Any) -> None:
    from expunge import progress
    from expunge.errors import ServiceUnavailableError

    began = time.monotonic()
    while (waited := time.monotonic() - began) < _START_S and process.poll() is None:
        progress.report(what, waited, 0)
        if ready():
            return
        time.sleep(_POLL_S)
    raise ServiceUnavailableError(
        f"{what}: it did not come up", expected=f"health within {_START_S} s", remedy="see .expunge/logs"
    )


def _deploy(url: str, variables: dict[str, str]) -> None:
    from cli import services
    from expunge import progress
    from expunge.errors import ServiceUnavailableError

    progress.report("deploying the flows", 0, 0)
    commands = [["work-pool", "create", pool, "--type", "process", "--overwrite"] for pool in services.POOLS]
    commands += [["work-pool", "set-concurrency-limit", "gpu", "1"]]
    file = str(Path(variables["EXPUNGE_HOME"]) / "expunge" / "templates" / "prefect.yaml")
    commands += [["--no-prompt", "deploy", "--all", "--prefect-file", file]]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *command],
            cwd=variables["EXPUNGE_HOME"],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServiceUnavailableError(
                f"prefect {' '.join(command[:3])} failed",
                got=" ".join((done.stderr or done.stdout).split())[-300:],
                remedy="see .expunge/logs",
            )


def _stop(workspace: Any) -> bool:
    from tasks.adapters import supervisor
    from tasks.adapters.prefect_access import STACK_FILE

    (workspace.stack_dir / STACK_FILE).unlink(missing_ok=True)
    return supervisor.shut_down(workspace.stack_dir)


def _services(workspace: Any) -> dict[str, Any]:
    from cli import services
    from expunge.errors import ExpungeError
    from tasks.adapters.prefect_access import STACK_FILE, take_up
    from tasks.adapters.prefect_api import api

    try:
        content = json_format.loads((workspace.stack_dir / STACK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        url = os.environ.get("PREFECT_API_URL")
        content = {"prefect": url, "urls": {}} if url else None
    take_up(workspace)
    if content is None:
        return {"services": [], "late_runs": None, "urls": {}, "prefect_api": None}
    late = None
    try:
        late = api(
            content["prefect"],
            "/flow_runs/count",
            {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}},
        )
    except ExpungeError:
        late = None
    found = services.health(workspace, content["prefect"], content["urls"])
    return {
        "services": found,
        "late_runs": late,
        "urls": content["urls"],
        "prefect_api": content["prefect"],
    }


def _queue(state: Any) -> dict[str, Any]:
    from expunge.tickets.figures import read_figures
    from expunge.tickets.lifecycle import OPEN

    figures = read_figures(state.database)
    return {
        "open_tickets": {name: figures.tickets[name] for name in sorted(OPEN) if figures.tickets[name]},
        "overdue": figures.overdue,
        "next_due": figures.next_due.isoformat() if figures.next_due else None,
    }
