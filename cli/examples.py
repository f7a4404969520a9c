"""What each command's help shows besides its sentences: one example, and what an option takes, in plain words."""

from typing import Any

import typer

EXAMPLES = {
    "init": "expunge init clinic --dataset data/clinic",
    "train": "expunge train",
    "doctor": "expunge doctor",
    "demo": "expunge demo --model mlp",
    "stage": "expunge stage prepare",
    "plan": "expunge plan --ticket t-0123456789ab",
    "run": "expunge run --watch --every 300",
    "rollback": "expunge rollback 3",
    "up": "expunge up --foreground",
    "down": "expunge down",
    "status": "expunge status --json",
    "report": "expunge report --quarter 2026Q3 --html report.html",
    "serve": "expunge serve --port 8080",
    "worker": "expunge worker cpu",
    "workspace relocate": "expunge workspace relocate",
    "workspace fork": "expunge workspace fork",
    "ticket submit": "expunge ticket submit --subject 4711 --regime gdpr",
    "ticket import": "expunge ticket import requests.csv --delete-file",
    "ticket list": "expunge ticket list --due 7d",
    "ticket show": "expunge ticket show t-0123456789ab",
    "ticket receipt": "expunge ticket receipt t-0123456789ab --signed receipt.json",
    "ticket verify-receipt": "expunge ticket verify-receipt receipt.json --key public.json",
    "ticket file-rest": "expunge ticket file-rest b-0123456789ab",
    "ticket hold": "expunge ticket hold t-0123456789ab --reason 'legal claim under review'",
    "ticket release": "expunge ticket release t-0123456789ab",
    "ticket extend": "expunge ticket extend t-0123456789ab --reason 'many requests'",
    "ticket withdraw": "expunge ticket withdraw t-0123456789ab --reason 'asked for by the person'",
    "ticket reject": "expunge ticket reject t-0123456789ab --reason 'identity not shown'",
    "ticket note": "expunge ticket note t-0123456789ab 'the person was called back'",
    "certificate list": "expunge certificate list",
    "certificate show": "expunge certificate show c-0123456789ab",
    "certificate verify": "expunge certificate verify c-0123456789ab --key public.json",
    "certificate annex": "expunge certificate annex c-0123456789ab --annex-key auditor.key",
    "certificate export": "expunge certificate export c-0123456789ab --pdf certificate.pdf",
    "keys init": "expunge keys init",
    "keys rotate": "expunge keys rotate --use evidence --overlap-days 30",
    "keys revoke": "expunge keys revoke 3f9a0c1d2e4b5a67 --since 2026-03-01 --reason 'a laptop was stolen'",
    "keys list": "expunge keys list",
    "keys export-public": "expunge keys export-public public.json",
    "ledger show": "expunge ledger show",
    "ledger verify": "expunge ledger verify ledger.json --key public.json",
    "ledger export": "expunge ledger export ledger.json",
    "ledger witness": "expunge ledger witness head.json",
    "mechanism list": "expunge mechanism list",
    "mechanism clear": "expunge mechanism clear newton --reason 'the gate read another split'",
    "policy show": "expunge policy show",
    "policy accept": "expunge policy accept b-0123456789ab --reason 'the new limits were agreed'",
    "purge preview": "expunge purge preview",
    "purge approve": "expunge purge approve b-0123456789ab",
    "purge verify": "expunge purge verify --subject 4711",
    "data import": "expunge data import dump --append --dry-run",
    "data restore": "expunge data restore backup --dry-run",
    "data checkout": "expunge data checkout HEAD~1",
    "data share": "expunge data share /mnt/team/clinic-data",
    "data guard": "expunge data guard",
    "suppression list": "expunge suppression list",
    "suppression rotate": "expunge suppression rotate",
    "suppression destroy": "expunge suppression destroy --epoch 1",
    "coverage list": "expunge coverage list",
    "coverage add": "expunge coverage add --kind embedding --name search-index --from-version 1",
    "coverage resolve": "expunge coverage resolve a-0123456789ab --status purged --reason 'rebuilt without them'",
    "token create": "expunge token create --role intake --name desk",
    "token list": "expunge token list",
    "token revoke": "expunge token revoke a-0123456789ab",
}


HELP_OPTIONS = ["-h", "--help"]
_TAKES = {
    "<str>": "TEXT",
    "<path>": "PATH",
    "<int>": "NUMBER",
    "<float>": "NUMBER",
    "list[str]": "TEXT",
    "<bool>": "",
}


def add_examples(command: Any, path: tuple[str, ...] = ()) -> Any:
    """Give each command of a group its example, and name what its options take without the types of a programmer.

    Args:
        command: A command or group of commands.
        path: Words that lead to it.

    Returns:
        The same command.
    """
    for name, below in getattr(command, "commands", {}).items():
        add_examples(below, (*path, name))
    if example := EXAMPLES.get(" ".join(path)):
        command.epilog = f"Example: {example}"
    if command.help:  # line breaks of the source are no line breaks of a terminal
        command.help = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    for option in command.get_params(typer.Context(command, help_option_names=HELP_OPTIONS)):
        if option.param_type_name == "option" and option.metavar is None:
            option.metavar = _TAKES.get(option.display_type(None))
    return command
