"""Options of every command that verifies: which keys are trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help="Public keys that are trusted, and no others: a keyring, or one key as PEM."),
]
AcceptEndorsedOption = Annotated[
    Path | None,
    typer.Option(
        "--accept-endorsed",
        help="A keyring, of which keys are trusted too that a trusted one endorses (with --key). Of a key that has an "
        "end, only what a time stamp proves older (with --tsa-root). Better: ask for the newest keyring.",
        metavar="KEYRING",
    ),
]
TsaRootOption = Annotated[
    Path | None, typer.Option("--tsa-root", help="Root certificate of the time-stamping authority (PEM).")
]


def trusted_keys(key: Path | None, endorsed: Path | None, authorities: Sequence[Any] = ()) -> Any:
    """The keys that are trusted.

    Args:
        key: A keyring, or one key.
        endorsed: A keyring of which those are trusted too that one of these endorses.
        authorities: Roots of time-stamping authorities.

    Returns:
        The keyring; None where no key was given.

    Raises:
        InputError: If a file cannot be read, or nothing is there to endorse.
    """
    from expunge.errors import InputError
    from expunge.evidence.keyring import load_keyring

    if key is None:
        if endorsed is not None:
            raise InputError("nobody endorses these keys", expected="--key with --accept-endorsed")
        return None
    ring = load_keyring(key)
    return ring if endorsed is None else ring.with_endorsed(load_keyring(endorsed), authorities)
