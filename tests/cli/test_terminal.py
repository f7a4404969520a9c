"""What people see: tables at 80 and 120 columns and in a pipe, help with examples, one sentence for every error."""

import shlex
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from click import unstyle
from rich.console import Console

from cli import output
from cli.examples import EXAMPLES, add_examples
from cli.main import app, invoke

_DIGEST = "sha256:" + "0123456789abcdef" * 4
_REFUSAL = (
    "the error bound is larger than the policy admits, whatever noise is drawn: got 3.2, expected at most 1"
)
_COLUMNS = ("mechanism", "guarantee", "epsilon", "delta", "error bound", "predicted", "digest", "verdict")
_ROWS = [
    ("convex", "unconditional", "1", "1e-05", "0.0123", "0.4 s", _DIGEST, "chosen"),
    ("newton", "conditional [x]", "1", "1e-05", "3.2", "12.0 s", None, f"refused: {_REFUSAL}"),
]


def _terminal(monkeypatch: pytest.MonkeyPatch, width: int, **settings: Any) -> None:
    console = Console(highlight=False, soft_wrap=True, width=width, force_terminal=True, **settings)
    monkeypatch.setattr(output, "out", console)


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_fits_and_cuts_no_word(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _terminal(monkeypatch, width)
    output.table("Plan", _COLUMNS, _ROWS)
    printed = unstyle(capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    words = printed.split()
    for word in (" ".join(str(cell) for row in _ROWS for cell in row if cell)).split():
        assert word in words
    boxed = [line for line in printed.splitlines() if "│" in line]
    assert any("convex" in line for line in boxed)
    assert not any("larger" in line for line in boxed)


def test_rows_that_share_a_name_are_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _terminal(monkeypatch, 80)
    output.table("Two", ("use", "key", "why"), [("same", _DIGEST, "one"), ("same", _DIGEST[::-1], "other")])
    assert unstyle(capsys.readouterr().out).splitlines() == [
        "Two",
        "- use: same",
        f"  key: {_DIGEST}",
        "  why: one",
        "- use: same",
        f"  key: {_DIGEST[::-1]}",
        "  why: other",
    ]


def test_a_table_that_fits_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _terminal(monkeypatch, 400)
    output.table("Plan", _COLUMNS, _ROWS)
    lines = unstyle(capsys.readouterr().out).splitlines()
    assert all("│" in line for line in lines if "refused" in line)


def test_a_pipe_gets_plain_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    output.table("Plan", _COLUMNS, [("two\nlines\x1b[31m", *_ROWS[1][1:])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Plan", "\t".join(_COLUMNS)]
    assert lines[2:] == ["\t".join(("two lines\ufffd[31m", *_ROWS[1][1:6], "", f"refused: {_REFUSAL}"))]


def test_no_color_takes_colours_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _terminal(monkeypatch, 80, no_color=None)
    output.out.print("[red]x[/red]")
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    _terminal(monkeypatch, 80)
    output.out.print("[red]x[/red]")
    assert capsys.readouterr().out == "x\n"


def test_a_long_text_is_wrapped_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _terminal(monkeypatch, 80)
    output.paragraph(f"{_REFUSAL} {_DIGEST} {_REFUSAL}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == f"{_REFUSAL} {_DIGEST} {_REFUSAL}"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"expunge {metadata.version('expunge')}\n"


def _commands(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    below = getattr(command, "commands", None)
    if below is None:
        return {" ".join(path): command}
    return {key: found for name, one in below.items() for key, found in _commands(one, (*path, name)).items()}


_ALL = _commands(add_examples(typer.main.get_command(app)))


def test_no_example_is_of_a_command_that_is_gone() -> None:
    assert len(_ALL) > 40
    assert set(EXAMPLES) == set(_ALL)


@pytest.mark.parametrize("path", sorted(_ALL))
def test_each_command_has_an_example_that_it_takes(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, example = _ALL[path], EXAMPLES[path]
    assert len(example) <= 100
    assert "\n" not in example
    words = shlex.split(example)
    lead = ["expunge", *path.split()]
    assert words[: len(lead)] == lead
    command.make_context(
        path, words[len(lead) :]
    )  # raises for an option that is not there, or an argument that is
    assert invoke([*path.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example:" in shown
    assert not {"<bool>", "<str>"} & set(shown[shown.index("Options") :].split())


def test_help_is_wrapped_by_the_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    assert invoke(["worker", "-h"]) == 0
    shown = capsys.readouterr().out
    assert any(
        "killed" in line and "concurrency" in line and "minutes" in line for line in shown.splitlines()
    )


def test_an_example_with_a_wrong_option_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        _ALL["ticket list"].make_context("list", ["--overdue"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "params.yaml"), 2, "Permission denied: got params.yaml"),
        (ConnectionRefusedError(111, "Connection refused"), 3, "Connection refused"),
        (sqlite3.OperationalError("database is locked"), 3, "database is locked"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(
    error: Exception,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("cli.checks.run_checks", fail)
    assert invoke(["doctor"]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    "lines", ["output.emit(list(range(2999999)))", "[output.out.print(n) for n in range(99999)]"]
)
def test_a_reader_that_stops_is_no_refusal(lines: str) -> None:
    script = (
        "import cli.checks, sys\nfrom cli import output\nfrom cli.main import main\n"
        f"cli.checks.run_checks = lambda _: {lines}\nmain(['doctor'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
