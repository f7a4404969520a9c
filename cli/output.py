"""What commands print: one JSON document on standard output, or text for people; progress on standard error."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from expunge import progress


class ReaderGoneError(Exception):
    """Whoever read our output has closed it, as `head` does: an end, and no failure of the command."""


class _Console(Console):
    def on_broken_pipe(self) -> None:  # Rich would exit with 1, which means refused here
        raise ReaderGoneError


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False)
_LINE_EVERY = 30.0  # seconds
_EDGE = 3  # of a column: its border and a space on either side

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Workspace; else EXPUNGE_WORKSPACE, else the nearest one upwards from here."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


_printed: ContextVar[bool] = ContextVar("expunge_printed", default=False)


def begin_output() -> None:
    """A command begins: it has printed no document yet."""
    _printed.set(False)


_PIECE = 32_768  # letters


def emit(content: Any) -> None:
    """Print the one JSON document; a second one, as an error after a report, is left out.

    Args:
        content: Plain data.

    Raises:
        ReaderGoneError: If nobody reads it.
    """
    if not _printed.get():
        _write(json.dumps(content, indent=1))
    _printed.set(True)


def _write(line: str) -> None:
    try:
        # In pieces: unbuffered Python says nothing of a pipe that broke within a write, only of one that is broken.
        for begin in range(0, len(line), _PIECE):
            sys.stdout.write(line[begin : begin + _PIECE])
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table for people; into a pipe, the same as rows with tabs between their cells.

    No cell is ever broken: columns that do not fit, the widest first, become lines below the table.

    Args:
        title: Above it.
        columns: Headings; the first one names the rows.
        rows: Cells.
    """
    cells = [["" if cell is None else shown(" ".join(str(cell).split())) for cell in row] for row in rows]
    if not out.is_terminal:
        for line in (title, "\t".join(columns), *("\t".join(row) for row in cells)):
            _write(line)  # Rich would make spaces of tabs
        return
    widths = [
        max([cell_len(row[at]) for row in cells] + [cell_len(word) for word in name.split()], default=1)
        for at, name in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    while sum(widths[at] + _EDGE for at in kept) + 1 > out.width and len(kept) > 1:
        kept.remove(max(kept[1:], key=lambda at: widths[at]))
    if (len({row[0] for row in cells}) < len(cells) and len(kept) < len(columns)) or widths[
        0
    ] + _EDGE >= out.width:
        kept = []  # the lines below could not say whose they are
    if kept:
        made = Table(title=title, title_justify="left", title_style="bold")
        for at in kept:
            made.add_column(columns[at], min_width=widths[at], max_width=widths[at])
        for row in cells:
            made.add_row(*(Text(row[at]) for at in kept))
        out.print(made, soft_wrap=False)
    else:
        out.print(Text(title, style="bold"))
    for row in cells:
        below = [f"{columns[at]}: {row[at]}" for at in range(len(columns)) if at not in kept and row[at]]
        for number, line in enumerate(below):
            lead = f"{row[0]}: " if kept else "  " if number else "- "
            paragraph(lead + line, after="    ")


def paragraph(text: str, after: str = "  ") -> None:
    """Print a long text, wrapped between words on a terminal; an id or a path is never cut.

    Args:
        text: Of one or more sentences.
        after: What further lines begin with.
    """
    lines = [text]
    if out.is_terminal:
        lines = wrap(text, out.width, subsequent_indent=after, break_long_words=False, break_on_hyphens=False)
    for line in lines:
        out.print(shown(line), markup=False)


def report_outcome(outcome: Any, json: bool, what: str, more: dict[str, Any] | None = None) -> None:
    """Print what a verification found.

    Args:
        outcome: A :class:`expunge.evidence.result.VerificationResult`.
        json: As one JSON document.
        what: Was verified.
        more: For the JSON document besides; of files that were ``taken`` people are told, too.

    Raises:
        VerificationError: If it does not hold.
        SignatureNotCheckedError: If it may hold, and no signature was checked.
    """
    from expunge.errors import SignatureNotCheckedError, VerificationError

    if json:
        emit({**outcome.to_json(), **(more or {})})
    else:
        out.print(shown(f"{what}: {outcome.verdict}"), markup=False)
        for mark, lines in (
            ("read", [", ".join((more or {}).get("taken", []))]),
            ("holds", outcome.checked),
            ("missing", outcome.missing),
            ("WRONG", outcome.findings),
        ):
            for line in filter(None, lines):
                out.print(shown(f"  {mark}: {line}".replace("\n", " ")), markup=False)
    if not outcome.consistent:
        raise VerificationError(f"the {what} does not hold", got="; ".join(outcome.findings))
    if not outcome.verified:
        raise SignatureNotCheckedError(
            f"{what}: no signature was checked, so anybody can have written it",
            expected="--key with the operator's public keys",
            remedy="get them on another way than the evidence",
        )


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """Text of others as a terminal may show it: its control characters could paint another answer over ours.

    Args:
        text: Maybe from somebody else's file.

    Returns:
        The same without them.
    """
    return _CONTROL.sub("\ufffd", text)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files that a person asked for: all of them whole, or none.

    Args:
        files: Contents by path.

    Raises:
        InputError: If one cannot be written.
    """
    from expunge.errors import InputError, storage_full

    parts: dict[Path, Path] = {}
    for path, content in files.items():
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if path.is_dir():
                raise IsADirectoryError(path)
            parts[part] = path
            part.write_bytes(content)
        except OSError as error:
            for one in parts:
                with suppress(OSError):
                    one.unlink(missing_ok=True)
            raise storage_full(error) or InputError(
                "the file cannot be written",
                expected="a file in a folder that is there and may be written to",
                got=str(path),
                remedy="correct the path",
            ) from error
    for part, path in parts.items():
        part.replace(path)


def use_workspace(path: Path | None, *, reading: bool = False) -> Any:
    """Open the workspace and make it that of everything below this command.

    Args:
        path: From the option.
        reading: Whether the command only reads: then a copy will do, and one that was moved.

    Returns:
        The state.

    Raises:
        WorkspaceError: If the command may write, and the workspace was copied or moved.
    """
    from expunge.permissions import is_open
    from expunge.state import open_state
    from tasks.adapters.prefect_access import take_up

    state = open_state(path)
    if not reading:
        from tasks.place import require_place

        require_place(state)
    os.environ["EXPUNGE_WORKSPACE"] = str(state.workspace.root)
    if is_open(state.workspace):
        root = state.workspace.root
        err.print(f"note: other accounts can enter the workspace: chmod 700 {root}", markup=False)
    take_up(state.workspace)
    return state


class _Lines:
    """Progress without a terminal: a line when a piece of work begins, and one every half minute while it lasts."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._last = 0.0

    def __call__(self, what: str, done: float, total: float) -> None:
        name, now = what.split(":")[0], time.monotonic()
        if name not in self._begun:
            self._begun[name] = now
            err.print(f"  {name} ...", markup=False)
        elif now - self._last >= _LINE_EVERY:
            spent = now - self._begun[name]
            left = (
                f", about {max(1, round(spent * (total / done - 1) / 60))} min left"
                if 0 < done < total
                else ""
            )
            err.print(f"  {name}: {spent / 60:.0f} min{left}", markup=False)
        else:
            return
        self._last = now


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show reported progress on standard error: a bar with time left on a terminal, a line a step elsewhere.

    Yields:
        Nothing.
    """
    if not err.is_terminal:
        with progress.listening(
            _Lines(), lambda sentence: err.print(f"  {sentence}", markup=False, soft_wrap=True)
        ):
            yield
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: float, total: float) -> None:
            name = what.split(":")[0]
            if name not in tasks:
                for other in tasks.values():
                    bars.update(other, visible=False)
                tasks[name] = bars.add_task(what, total=None)
            bars.update(tasks[name], description=what, completed=done, total=total or None)

        with progress.listening(bar, lambda sentence: bars.print(f"  {sentence}", markup=False)):
            yield
