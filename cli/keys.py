"""Commands on the keys that sign evidence."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.output import JsonOption, WorkspaceOption, emit, out, table, use_workspace

app = typer.Typer(
    help="Keys that sign certificates, the ledger's head, receipts and model files.", no_args_is_help=True
)
_SERVICES = "Services that run (`expunge up`) take the new key with their next batch."


class KeyUse(StrEnum):
    """What a key signs."""

    EVIDENCE = "evidence"
    MODEL = "model"


_SignerOption = Annotated[
    str | None,
    typer.Option(
        "--signer",
        help="Where the private key lies: env:VARIABLE (PEM), file2:PATH, or awskms:, azurekms:, gcpkms:, "
        "hsm: (PKCS#11), hv: as in securesystemslib. Default: a new file in .expunge/keys.",
    ),
]
_PublicOption = Annotated[
    Path | None, typer.Option("--public", help="Its public half (PEM), where it lies in a service.")
]


@app.command()
def init(
    signer: _SignerOption = None,
    public: _PublicOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Make the signing keys, unless there are some: Ed25519 for evidence, P-256 for model files."""
    state = use_workspace(workspace)
    keys = state.signing
    ring = keys.create(
        datetime.now(UTC),
        {"evidence": signer} if signer else None,
        {"evidence": _text(public)} if public else None,
    )
    state.ledger.seal(state.lineage)  # one of a release that had no keys
    _show(ring, json)


@app.command()
def rotate(
    use: Annotated[KeyUse, typer.Option(help="Which key.")] = KeyUse.EVIDENCE,
    overlap_days: Annotated[
        int,
        typer.Option(
            min=0,
            help="How long the old key stays valid; 0 where somebody else may have it.",
            show_default=True,
        ),
    ] = 30,
    lost: Annotated[
        bool,
        typer.Option("--lost", help="The old private key is gone: nobody vouches for the new one."),
    ] = False,
    signer: _SignerOption = None,
    public: _PublicOption = None,
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Sign with a new key from now on; the old one vouches for it, and stays valid for a while."""
    from tasks.signing import stamper

    state = use_workspace(workspace)
    keys = state.signing
    if not lost:
        _require_none_waits(state)
    keys.rotate(
        use.value,
        datetime.now(UTC),
        timedelta(days=overlap_days),
        signer,
        _text(public) if public else None,
        lost=lost,
        stamp=None if lost else stamper(state),
    )
    _show(keys.keyring(), json)
    if not json:
        out.print(f"{_SERVICES} Hand out the new keyring: `expunge keys export-public FILE`.", markup=False)


@app.command()
def revoke(
    keyid: Annotated[str, typer.Argument(help="Its id, or the beginning: `expunge keys list`.")],
    since: Annotated[
        str,
        typer.Option(
            help="From when on the private key may have been in other hands (ISO 8601; UTC without a zone).",
            metavar="MOMENT",
        ),
    ],
    reason: Annotated[str, typer.Option(help="What happened; auditors read it in the keyring.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Say that a replaced key was stolen: nothing that it signed from then on counts, nor what is not proved older."""
    from tasks.revocation import revoke_key

    state = use_workspace(workspace)
    _require_none_waits(state)
    done = revoke_key(state, keyid, _moment(since), _reason(reason))
    _show(state.signing.keyring(), json)
    if json:
        return
    if done.entries is not None:
        out.print(f"The key that signs now has signed the ledger of {done.entries} entries.", markup=False)
    if done.entries is not None and not done.witnessed:
        out.print(
            "No witness was there to hold it against: compare it with one from before the theft "
            "(`expunge ledger verify --witness FILE`) before you hand it out.",
            markup=False,
        )
    for certificate in done.lost:
        out.print(f"{certificate}: dated from then on; its signature does not count any more", markup=False)
    out.print(
        f"{_SERVICES} Hand out the new keyring (`expunge keys export-public FILE`) and the ledger "
        "(`expunge ledger export FILE`): with both, what is older verifies.",
        markup=False,
    )


@app.command(name="list")
def list_keys(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the public keys, oldest first, with their ends and revocations."""
    _show(use_workspace(workspace, reading=True).signing.keyring(), json)


@app.command(name="export-public")
def export_public(
    file: Annotated[Path, typer.Argument(help="Where to write the keyring.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Write the public keyring for auditors: they verify with `--key FILE`."""
    from expunge.errors import InputError, storage_full

    ring = use_workspace(workspace, reading=True).signing.keyring()
    try:
        file.write_text(dumps(ring.to_json(), indent=1), encoding="utf-8")
    except OSError as error:
        raise storage_full(error) or InputError(
            "the keyring cannot be written", expected="a file in a folder that is there", got=str(file)
        ) from error
    if json:
        emit(ring.to_json())
        return
    out.print(
        f"{file}: hand it to auditors on another way than the evidence. Let them compare:", markup=False
    )
    for key in ring.keys:
        out.print(f"  {key.use:8} {key.keyid}{_end(key)}", markup=False)


def _require_none_waits(state: Any) -> None:
    """A certificate that is signed and not stamped yet would be stamped after its key's end."""
    from expunge.errors import RefusedError
    from expunge.tickets.batches import BatchStage

    for batch in state.batches.unfinished():
        if "envelope" in batch.data and not batch.done(BatchStage.CERTIFIED):
            raise RefusedError(
                "a batch is between the signature of its certificate and its release",
                got=f"{batch.batch_id}, {batch.stage}",
                remedy="run `expunge run` first; or `expunge keys rotate --lost`, if the old key is gone",
            )


def _show(ring: Any, json: bool) -> None:
    if json:
        emit(ring.to_json())
        return
    rows = [
        (
            key.use,
            key.keyid[:16],
            f"{key.valid_from:%Y-%m-%d %H:%M}",
            f"{key.valid_until:%Y-%m-%d %H:%M}" if key.valid_until else "further notice",
            f"yes{', stamped' if key.endorsement_stamp else ''}" if key.endorsement else "-",
        )
        for key in ring.keys
    ]
    heads = ("use", "key", "valid from", "until", "endorsed by the one before")
    table("Signing keys", heads, rows)
    for key in ring.keys:
        if key.revoked:
            since = f"{key.revoked.since:%Y-%m-%d %H:%M}"
            out.print(f"{key.keyid[:16]} REVOKED since {since}: {key.revoked.reason}", markup=False)


def _end(key: Any) -> str:
    """For people, after a key's id."""
    ended = f", ends {key.valid_until:%Y-%m-%d %H:%M}" if key.valid_until else ""
    return ended + (f", REVOKED since {key.revoked.since:%Y-%m-%d %H:%M}" if key.revoked else "")


def _moment(text: str) -> datetime:
    from expunge.errors import InputError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError("not a moment", expected="ISO 8601, as 2026-02-01T12:00", got=text) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _reason(text: str) -> str:
    from expunge.errors import InputError

    if not text.strip():
        raise InputError("a revocation without a reason", expected="--reason TEXT, for auditors")
    return text.strip()


def _text(path: Path) -> str:
    from expunge.errors import InputError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the public key cannot be read", expected="a PEM file", got=str(path)) from error
