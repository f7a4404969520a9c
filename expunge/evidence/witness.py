"""Witnesses: signed heads of a ledger, kept where whoever can change the ledger cannot change them."""

from pathlib import Path
from typing import Any

from expunge.errors import InputError, VerificationError
from expunge.evidence.canonical import read_json
from expunge.evidence.keyring import Keyring
from expunge.evidence.ledger_file import Ledger, parse_witness
from expunge.evidence.verify_ledger import head_fault
from expunge.files import write_json


def read_witness(path: Path) -> dict[str, Any]:
    """Read a witness from a file.

    Args:
        path: Of a signed head, or of an exported ledger that has one.

    Returns:
        The envelope; nothing of it is verified.

    Raises:
        InputError: If it cannot be read, or is no witness.
    """
    try:
        return parse_witness(read_json(path))
    except (OSError, VerificationError) as error:
        raise InputError(
            "the witness cannot be read",
            expected="what `expunge ledger witness` wrote, or an exported ledger with a signed head",
            got=f"{path.name}: {' '.join(str(error).split())[:200]}",
            remedy="name the right file",
        ) from error


def write_witness(path: Path, ledger: Ledger, keys: Keyring, *, of_earlier: Keyring | None = None) -> None:
    """Write the ledger's head as a witness, in place of an earlier one that it continues.

    Args:
        path: The file, outside the workspace.
        ledger: With a signed head.
        keys: Of the workspace.
        of_earlier: Keys that the one which is there is held against, if they are others.

    Raises:
        InputError: If the file is something else than a witness.
        VerificationError: If the ledger does not continue the witness that is there, or its own head does not hold.
    """
    if ledger.head is None:
        raise VerificationError("the ledger has no signed head", remedy="see `expunge ledger verify`")
    if (fault := head_fault(ledger.head, ledger, keys, whole=True)) is not None:
        raise VerificationError("the head of the ledger does not hold", got=fault)
    if path.exists():
        fault = head_fault(
            read_witness(path), ledger, of_earlier or keys, whole=False, covered=True
        )  # the ledger's own head counts
        if fault is not None:
            raise VerificationError(
                "the ledger does not continue the witness that is there",
                expected=f"a ledger of which {path.name} is an earlier head",
                got=fault,
                remedy="keep the witness and find out what became of the ledger; write to another file",
            )
    write_json(path, ledger.head)
