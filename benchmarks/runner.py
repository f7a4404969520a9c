"""Runs an experiment cell by cell: each result is on disk before the next begins, so that a run can be continued.

A *setting* is a file in ``benchmarks/settings``: its experiment and all that the numbers depend on. A *cell* is one
independent piece of work of it, a flat dict such as ``{"seed": 1, "method": "retrain"}``. What a setting found is one
JSON document, ``docs/results/SETTING.json``; tables, plots and prose are made from those documents alone.
"""

import functools
import hashlib
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import yaml
from matplotlib.figure import Figure

from benchmarks.common import ROOT, hardware, say
from expunge import progress
from expunge.errors import InputError
from expunge.files import replace_file

SETTINGS = Path(__file__).parent / "settings"
RESULTS = ROOT / "docs" / "results"
SCRATCH = ROOT / "build" / "benchmarks"

Cell = dict[str, Any]
Setting = dict[str, Any]
Document = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an experiment runs.

    Args:
        data: Folder with the public datasets, one sub-folder each; None to download them.
        device: Where to compute.
        scratch: Folder for what cells share (a trained model, say); may be deleted at any time.
    """

    data: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    scratch: Path = SCRATCH

    def source(self, dataset: str) -> Path | None:
        """The files of a dataset of the catalogue; None for bundled ones, or to download it."""
        if dataset in ("digits", "breast-cancer") or self.data is None:
            return None
        folder = self.data / dataset.replace("-", "_")
        return folder / "dataset_diabetes.zip" if dataset == "diabetes130" else folder

    def kept(self, key: dict[str, Any], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, made once for a key and read from the scratch folder afterwards (torch.save)."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
        path = self.scratch / f"{digest}.pt"
        if path.exists():
            return torch.load(path, weights_only=True)
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(made, partial)
        partial.replace(path)
        return made


class Experiment(Protocol):
    """A module of ``benchmarks.experiments``."""

    def cells(self, setting: Setting) -> list[Cell]:
        """Every piece of work of a setting, in order."""

    def run(self, setting: Setting, cell: Cell, place: Place) -> dict[str, Any]:
        """Do one piece of work; finite numbers, strings, lists and dicts, None where there is no such number."""

    def tables(self, document: Document) -> dict[str, str]:
        """What was found, as Markdown, from the document alone: tables with their captions, by name."""

    def figure(self, document: Document) -> Figure | None:
        """What was found, as a picture, from the document alone."""

    def expected(self, document: Document) -> dict[str, float]:
        """The figures that do not depend on the machine, by name; for the regression file."""


def experiment(name: str) -> Experiment:
    """The module of an experiment."""
    return cast(Experiment, importlib.import_module(f"benchmarks.experiments.{name}"))


def settings() -> list[str]:
    """Names of all settings."""
    return sorted(path.stem for path in SETTINGS.glob("*.yaml"))


def read_setting(name: str) -> Setting:
    """A setting's file.

    Raises:
        InputError: If there is none of that name.
    """
    path = SETTINGS / f"{name}.yaml"
    if not path.is_file():
        raise InputError("unknown setting", expected=", ".join(settings()), got=name, remedy="check SETTING")
    setting: Setting = yaml.safe_load(path.read_text(encoding="utf-8"))
    return setting


def read_document(name: str, out: Path = RESULTS) -> Document | None:
    """What a setting has found so far; None where it was never run."""
    path = out / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def check_setting(document: Document) -> None:
    """Refuse what a setting found before its file was changed.

    Raises:
        InputError: If it was made with another configuration.
    """
    name = document["name"]
    if document["setting"] != read_setting(name):
        raise InputError(
            f"{name}.json was made with another configuration",
            remedy=f"python -m benchmarks run {name} --restart",
        )


def run(
    name: str, place: Place, out: Path = RESULTS, *, minutes: float | None = None, restart: bool = False
) -> Document:
    """Run what is left of a setting.

    Args:
        name: Of the setting.
        place: Data, device, scratch folder.
        out: Folder of the JSON document and the plot.
        minutes: Begin no cell that would, by the slowest so far, end after them; None for no limit.
        restart: Forget what was found before.

    Returns:
        The document.

    Raises:
        InputError: If the document there was made with another configuration.
    """
    setting = read_setting(name)
    there = experiment(setting["experiment"])
    document = None if restart else read_document(name, out)
    if document is not None:
        check_setting(document)
    document = document or {"name": name, "setting": setting, "cells": []}
    todo = [cell for cell in there.cells(setting) if cell not in [done["cell"] for done in document["cells"]]]
    began = time.monotonic()
    longest = 0.0
    for index, cell in enumerate(todo):
        spent = time.monotonic() - began
        if minutes is not None and spent + longest > 60 * minutes:
            say(f"{name}: stopped after {spent / 60:.1f} min, {len(todo) - index} cells left; run again")
            break
        left = f", about {spent / index * (len(todo) - index) / 60:.1f} min left" if index else ""
        say(f"{name}: {index + 1} of {len(todo)}{left}: {_words(cell)}")
        started = time.monotonic()
        with progress.listening(_Teller()):
            result = there.run(setting, cell, place)
        seconds = time.monotonic() - started
        longest = max(longest, seconds)
        document["cells"].append(
            {
                "cell": cell,
                "result": result,
                "seconds": round(seconds, 3),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "hardware": hardware(place.device),
                "code": _code(),
            }
        )
        _write(document, out)
    figure = there.figure(document) if document["cells"] else None
    if figure is not None:
        figure.savefig(out / f"{name}.png")
    return document


@functools.cache
def _code() -> str:
    """A digest of the product's code: which cells were run with the same."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "expunge").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class _Teller:
    """A line every ten seconds of a long cell."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, what: str, done: float, total: float) -> None:
        now = time.monotonic()
        if now - self._last >= 10:
            self._last = now
            say(f"    {what}: {done:g}{f' of {total:g}' if total else ''}")


def _words(cell: Cell) -> str:
    return ", ".join(f"{key} {value}" for key, value in cell.items())


def _write(document: Document, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(document, indent=1, allow_nan=False)
    except ValueError as error:
        raise InputError(
            "a result is not finite", expected="None where there is no number", remedy="mend the experiment"
        ) from error
    replace_file(out / f"{document['name']}.json", (text + "\n").encode())


def rows(document: Document) -> list[dict[str, Any]]:
    """Cells and results in one flat row each."""
    return [{**done["cell"], **done["result"]} for done in document["cells"]]


def table(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def spread(values: list[float | None], form: str = ".3g") -> str:
    """Mean and sample standard deviation in words: ``0.91 ± 0.02``; ``–`` where there is none."""
    numbers = torch.tensor([v for v in values if v is not None], dtype=torch.float64)
    if not len(numbers):
        return "–"
    mean, apart = format(float(numbers.mean()), form), float(numbers.std()) if len(numbers) > 1 else 0.0
    if apart <= 1e-9 * abs(float(numbers.mean())):
        return mean  # one number, or the same every time
    return f"{mean} ± {_one_digit(apart)}"


def _one_digit(value: float) -> str:
    """Rounded to its first digit; without an exponent where that is short."""
    rounded = float(format(value, ".0e"))
    return format(rounded, ",.0f") if 1 <= rounded < 1e5 else format(rounded, ".1g")
