"""Commands on the keys that sign evidence."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
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
    state = use_workspace(workspace)
    keys = state.signing
    _require_none_waits(state, lost)
    keys.rotate(
        use.value,
        datetime.now(UTC),
        timedelta(days=overlap_days),
        signer,
        _text(public) if public else None,
        lost=lost,
    )
    _show(keys.keyring(), json)
    if not json:
        out.print(f"{_SERVICES} Hand out the new keyring: `expunge keys export-public FILE`.", markup=False)


@app.command(name="list")
def list_keys(workspace: WorkspaceOption = None, json: JsonOption = False) -> None:
    """List the public keys, oldest first."""
    _show(use_workspace(workspace).signing.keyring(), json)


@app.command(name="export-public")
def export_public(
    file: Annotated[Path, typer.Argument(help="Where to write the keyring.")],
    workspace: WorkspaceOption = None,
    json: JsonOption = False,
) -> None:
    """Write the public keyring for auditors: they verify with `--key FILE`."""
    from expunge.errors import InputError, storage_full

    ring = use_workspace(workspace).signing.keyring()
    try:
        file.write_text(ring.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise storage_full(error) or InputError(
            "the keyring cannot be written", expected="a file in a folder that is there", got=str(file)
        ) from error
    if json:
        emit(ring.model_dump(mode="json"))
        return
    out.print(
        f"{file}: hand it to auditors on another way than the evidence. Let them compare:", markup=False
    )
    for key in ring.keys:
        out.print(f"  {key.use:8} {key.keyid}", markup=False)


def _require_none_waits(state: Any, lost: bool) -> None:
    """A certificate that is signed and not stamped yet would be stamped after its key's end."""
    from expunge.errors import RefusedError
    from expunge.tickets.batches import BatchStage

    for batch in state.batches.unfinished():
        if not lost and "envelope" in batch.data and not batch.done(BatchStage.CERTIFIED):
            raise RefusedError(
                "a batch is between the signature of its certificate and its release",
                got=f"{batch.batch_id}, {batch.stage}",
                remedy="run `expunge run` first; or --lost, if the old key is gone",
            )


def _show(ring: Any, json: bool) -> None:
    if json:
        emit(ring.model_dump(mode="json"))
        return
    rows = [
        (
            key.use,
            key.keyid[:16],
            f"{key.valid_from:%Y-%m-%d %H:%M}",
            f"{key.valid_until:%Y-%m-%d %H:%M}" if key.valid_until else "further notice",
            "yes" if key.endorsement else "-",
        )
        for key in ring.keys
    ]
    table("Signing keys", ("use", "key", "valid from", "until", "endorsed by the one before"), rows)


def _text(path: Path) -> str:
    from expunge.errors import InputError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the public key cannot be read", expected="a PEM file", got=str(path)) from error
