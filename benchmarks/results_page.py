"""Fills the generated parts of ``docs/results.md``; writes ``docs/results/SETTING.md``, with every table of a setting.

A part begins with ``<!-- generated: SETTING: NAME NAME ... -->`` and ends with ``<!-- end -->``; between them stand the
named tables of the experiment, its plot where ``picture`` is named, and where the numbers come from. The prose around
them is written by hand.
"""

import re
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.runner import RESULTS, Document, check_setting, experiment, read_document
from expunge.errors import InputError
from expunge.files import replace_file

PAGE = ROOT / "docs" / "results.md"
_PART = re.compile(
    r"(<!-- generated: (?P<setting>[\w-]+): (?P<names>[\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL
)
_BEGUN = re.compile(r"<!--\s*generated", re.IGNORECASE)


def write(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the page and every setting's own page.

    Raises:
        InputError: If the page names a setting that was never run, or a table that it has not.
    """
    filled = fill(page.read_text(encoding="utf-8"), results)
    for name, text in settings_pages(results).items():
        replace_file(results / f"{name}.md", text.encode())
    replace_file(page, filled.encode())


def fill(text: str, results: Path = RESULTS) -> str:
    """The page with every generated part made anew.

    Raises:
        InputError: As for `write`.
    """
    sourced: set[str] = set()  # where a setting's numbers come from is said once

    def part(match: re.Match[str]) -> str:
        name = match["setting"]
        document = read_document(name, results)
        if document is None:
            raise InputError(f"{name} was never run", remedy=f"python -m benchmarks run {name}")
        check_setting(document)
        there = _parts(document, results, "results/")
        asked = match["names"].split()
        if unknown := [one for one in asked if one not in there]:
            raise InputError(
                "no such table",
                expected=", ".join(there),
                got=", ".join(unknown),
                remedy=f"mend the part of {name}",
            )
        source = (
            []
            if name in sourced
            else [f"Every table: [{name}](results/{name}.md). {_source(document, 'results/')}"]
        )
        sourced.add(name)
        return match[1] + "\n" + "\n".join([*(there[one] for one in asked), *source]) + "\n" + match[4]

    begun, parts = len(_BEGUN.findall(text)), len(_PART.findall(text))
    if begun != parts:
        raise InputError(
            "a generated part is not well formed",
            expected="<!-- generated: SETTING: NAME ... --> and <!-- end -->",
            got=f"{begun} beginnings, {parts} parts",
            remedy="mend docs/results.md",
        )
    return _PART.sub(part, text)


def settings_pages(results: Path = RESULTS) -> dict[str, str]:
    """The page of every setting that was run, whole, by name."""
    made = {}
    for path in sorted(results.glob("*.json")):
        document = read_document(path.stem, results)
        if document is not None:
            parts = [f"# {path.stem}\n", *_parts(document, results, "").values(), _source(document, "")]
            made[path.stem] = "\n".join(parts)
    return made


def _parts(document: Document, results: Path, beside: str) -> dict[str, str]:
    """Tables and picture by name; ``beside`` is the path from the page to the results."""
    name, made = document["name"], dict(experiment(document["setting"]["experiment"]).tables(document))
    if (results / f"{name}.png").exists():
        made["picture"] = f"![{name}]({beside}{name}.png)\n"
    return made


def _source(document: Document, beside: str) -> str:
    name = document["name"]
    machines = sorted({_machine(done["hardware"]) for done in document["cells"]})
    minutes = sum(done["seconds"] for done in document["cells"]) / 60
    done, total = (
        len(document["cells"]),
        len(experiment(document["setting"]["experiment"]).cells(document["setting"])),
    )
    cells = f"{done} cells" if done == total else f"**{done} of {total} cells, the others were not run**"
    return (
        f"From [`results/{name}.json`]({beside}{name}.json): {cells}, {minutes:.1f} min, "
        f"{'; '.join(machines)}. Again: `python -m benchmarks run {name} --restart`.\n"
    )


def _machine(hardware: dict[str, object]) -> str:
    where = hardware["gpu"] if str(hardware["device"]).startswith("cuda") else f"{hardware['cores']} cores"
    return f"{where} ({hardware['machine']}, torch {hardware['torch']}, {hardware['threads']} threads)"
