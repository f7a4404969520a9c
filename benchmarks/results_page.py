"""Fills the generated parts of ``docs/results.md`` from the JSON documents beside it.

A part begins with ``<!-- generated: SETTING -->`` and ends with ``<!-- end -->``; between them stand the experiment's
tables, its plot, and where the numbers come from. The prose around them is written by hand.
"""

import re
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.runner import RESULTS, Document, experiment, read_document
from expunge.errors import InputError

PAGE = ROOT / "docs" / "results.md"
_PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, results: Path = RESULTS) -> str:
    """The page with every generated part made anew.

    Raises:
        InputError: If a part names a setting that was never run.
    """

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        document = read_document(name, results)
        if document is None:
            raise InputError(f"{name} was never run", remedy=f"python -m benchmarks run {name}")
        return match[1] + _part(document, results) + match[3]

    return _PART.sub(part, text)


def _part(document: Document, results: Path) -> str:
    name = document["name"]
    there = experiment(document["setting"]["experiment"])
    picture = f"\n![{name}](results/{name}.png)\n" if (results / f"{name}.png").exists() else ""
    machines = sorted({_machine(done["hardware"]) for done in document["cells"]})
    minutes = sum(done["seconds"] for done in document["cells"]) / 60
    done, total = len(document["cells"]), len(there.cells(document["setting"]))
    cells = f"{done} cells" if done == total else f"**{done} of {total} cells, the others were not run**"
    source = (
        f"From [`results/{name}.json`](results/{name}.json): {cells}, {minutes:.1f} min, "
        f"{'; '.join(machines)}. Again: `python -m benchmarks run {name} --restart`.\n"
    )
    return f"\n{there.tables(document)}{picture}\n{source}\n"


def _machine(hardware: dict[str, object]) -> str:
    where = hardware["gpu"] if str(hardware["device"]).startswith("cuda") else f"{hardware['cores']} cores"
    return f"{where} ({hardware['machine']}, torch {hardware['torch']}, {hardware['threads']} threads)"
