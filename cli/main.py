"""The `expunge` command. Heavy libraries are imported inside the commands that need them."""

import json
import os
import sqlite3
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import (
    coverage,
    data,
    evidence,
    keys,
    ledger,
    mechanism,
    place,
    policy,
    purge,
    report,
    run,
    serve,
    stack,
    suppression,
    tickets,
    tokens,
    worker,
    workspace,
)
from cli.examples import HELP_OPTIONS, add_examples
from cli.output import ReaderGoneError, begin_output, emit, err, shown
from expunge.errors import STAGE_ERROR, ExpungeError, storage_full
from expunge.permissions import tighten_umask

# Typer brings its own copy of Click from some version on: the base of its usage errors, whichever it is.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_MEMORY = "there is not enough memory for this: give less data at once, or use a machine with more"
_READER_GONE = 141  # what a shell shows for a program that SIGPIPE ended
_NEEDS_MORE = "this command needs the full installation: pip install 'expunge[full]'"

app = typer.Typer(
    name="expunge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP_OPTIONS},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"expunge {metadata.version('expunge')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Remove people from trained models, and prove it."""


workspace.add_to(app)
app.add_typer(place.app, name="workspace")
app.add_typer(tickets.app, name="ticket")
run.add_to(app)
stack.add_to(app)
app.add_typer(evidence.certificates, name="certificate")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(mechanism.app, name="mechanism")
app.add_typer(policy.app, name="policy")
app.add_typer(purge.app, name="purge")
app.add_typer(data.app, name="data")
app.add_typer(suppression.app, name="suppression")
app.add_typer(coverage.app, name="coverage")
app.add_typer(tokens.app, name="token")
report.add_to(app)
serve.add_to(app)
worker.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code.

    0 done, 1 refused, 2 bad input, 3 a service is unreachable, 4 evidence is consistent and its signature not checked.

    Args:
        arguments: Of the command line.
    """
    tighten_umask()
    sys.exit(invoke(sys.argv[1:] if arguments is None else arguments))


def invoke(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: Of the command line.

    Returns:
        The exit code.
    """
    try:
        return _invoke(arguments)
    except ReaderGoneError:
        # Python flushes standard output once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_GONE


def _invoke(arguments: list[str]) -> int:
    begin_output()
    command = add_examples(typer.main.get_command(app))
    try:
        outcome = command.main(args=arguments, prog_name="expunge", standalone_mode=False)
    except ExpungeError as error:
        return _failed(arguments, str(error), error.exit_code)
    except OSError as error:
        full = storage_full(error)
        if full is not None:
            return _failed(arguments, str(full), full.exit_code)
        unreachable = isinstance(error, ConnectionError | TimeoutError)
        place = f": got {error.filename}" if error.filename else ""
        return _failed(arguments, f"{error.strerror or error}{place}", 3 if unreachable else 2)
    except MemoryError:
        return _failed(arguments, _MEMORY, 2)
    except _UsageError as error:
        message = str(error.format_message())
        if "Usage:" in message:  # a group without a command: that is its help
            typer.echo(message)
            return 2
        return _failed(arguments, f"{message} See `expunge --help`", 2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", "cli", "flows", "tasks", "expunge"):
            raise
        return _failed(arguments, f"{_NEEDS_MORE} (no module {error.name})", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _failed(arguments, "stopped; run the same command again to continue", 130)
    except Exception as error:
        cause = getattr(error, "orig", error)  # SQLAlchemy wraps what SQLite says
        if not isinstance(cause, sqlite3.OperationalError):
            raise
        return _failed(arguments, f"a database does not answer: got {cause}; run the same command again", 3)
    return outcome if isinstance(outcome, int) else 0


def _failed(arguments: list[str], message: str, code: int) -> int:
    if (asked := os.environ.get(STAGE_ERROR)) and arguments[:1] == ["stage"]:
        Path(asked).write_text(json.dumps({"error": message, "exit_code": code}), encoding="utf-8")
        return code
    err.print(shown(f"error: {message}"), markup=False, soft_wrap=True)
    if "--json" in arguments:
        emit({"error": message, "exit_code": code})
    return code


if __name__ == "__main__":
    main()
