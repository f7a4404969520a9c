"""The entry point: `python -m benchmarks list | run SETTING... | report | expect`.

`run` continues where it stopped; `report` fills docs/results.md and writes the page of each setting beside its JSON;
`expect` writes the regression file.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import regression, results_page, runner
from benchmarks.common import pick_device, say
from expunge.errors import ExpungeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="settings, with how much of each is done")
    run = commands.add_parser("run", help="run what is left of settings")
    run.add_argument("settings", nargs="+", metavar="SETTING")
    run.add_argument("--out", type=Path, default=runner.RESULTS, help="folder of results")
    run.add_argument("--scratch", type=Path, default=runner.SCRATCH, help="folder of models shared by cells")
    run.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ["EXPUNGE_DATA"]) if "EXPUNGE_DATA" in os.environ else None,
        help="folder of the public datasets (default: $EXPUNGE_DATA, else they are downloaded)",
    )
    run.add_argument("--device", default="cpu", help="cpu or cuda")
    run.add_argument("--minutes", type=float, help="begin no cell that would end later")
    run.add_argument("--restart", action="store_true", help="forget what was found before")
    commands.add_parser("report", help="fill docs/results.md, write docs/results/SETTING.md")
    commands.add_parser("expect", help="write the regression file from small settings run now")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            for name in runner.settings():
                total = len(
                    runner.experiment(runner.read_setting(name)["experiment"]).cells(
                        runner.read_setting(name)
                    )
                )
                done = runner.read_document(name)
                sys.stdout.write(f"{name}: {len(done['cells']) if done else 0} of {total} cells\n")
        elif options.command == "run":
            place = runner.Place(options.data, pick_device(options.device), options.scratch)
            for name in options.settings:
                runner.run(name, place, options.out, minutes=options.minutes, restart=options.restart)
        elif options.command == "report":
            results_page.write()
        else:
            regression.write(runner.Place())
    except ExpungeError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
