"""Every error that Expunge raises on purpose.

ExpungeError                    exit 1
├── InputError                  exit 2  usage or bad input; nothing was changed
│   ├── DatasetError                    a dataset, its contract or its source file
│   ├── TicketError                     a ticket that cannot be filed or moved
│   │   ├── UnknownTicketError              there is no such ticket
│   │   ├── NearMatchError                  nobody of that id, but of one that differs in its form only
│   │   └── TicketConflictError             it contradicts what was filed before
│   ├── PolicyError                     policy.yaml or params.yaml
│   └── WorkspaceError                  no workspace here, or a part of it is missing
├── RefusedError                exit 1  a gate, a verification or a budget said no
│   ├── LeaseHeldError                  another process is at work there
│   ├── BatchWaitsError                 a ticket on hold stops a batch: no failure, it continues after the release
│   ├── NotConvergedError               a solver stopped short: nothing may be certified
│   ├── CertificateRefusedError         a mechanism cannot state an admissible certificate
│   ├── BudgetExceededError             the lineage's sequential budget is spent
│   ├── GateError                       a validation gate failed
│   ├── CoverageError                   nothing was said of an artefact that saw the people
│   ├── ResidueError                    bytes of an erased person were found
│   └── VerificationError               evidence does not hold
├── SignatureNotCheckedError    exit 4  evidence agrees with itself, and nobody's signature on it was checked
└── ServiceUnavailableError     exit 3  a server or database cannot be reached
    └── StorageFullError                a disk is full; work continues where it was once there is room
"""

import errno
import os

STAGE_ERROR = (
    "EXPUNGE_STAGE_ERROR"  # names a file: a stage that DVC runs leaves its error there, and says it to nobody
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = (*(os.strerror(number) for number in _FULL), "database or disk is full")  # the last is SQLite's


class ExpungeError(Exception):
    """Base of all deliberate errors: one line that says what was expected, what was got, what to do.

    Args:
        message: What went wrong, in a few words, without personal data.
        expected: What would have been right.
        got: What was there instead.
        remedy: What the reader should do next.

    Example:
        >>> str(InputError("unknown dataset", expected="digits", got="digit", remedy="check the name"))
        'unknown dataset: expected digits, got digit; check the name'
    """

    exit_code = 1

    def __init__(self, message: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        """Compose the one-line message and keep its parts."""
        comparison = ", ".join(
            part for part in (f"expected {expected}" if expected else "", f"got {got}" if got else "") if part
        )
        line = f"{message}: {comparison}" if comparison else message
        super().__init__(f"{line}; {remedy}" if remedy else line)
        self.message, self.expected, self.got, self.remedy = message, expected, got, remedy


class InputError(ExpungeError):
    """Usage or input is wrong; nothing was changed."""

    exit_code = 2


class DatasetError(InputError):
    """A dataset, its contract or its source file is not as promised."""


class TicketError(InputError):
    """A ticket cannot be filed, found or moved."""


class UnknownTicketError(TicketError):
    """There is no such ticket."""


class NearMatchError(TicketError):
    """Nobody of that id is in the dataset, but somebody of an id that differs in its form only.

    Args:
        near: Those ids: for the officer's terminal and answer. The message names none, and may be logged.
    """

    def __init__(self, near: tuple[str, ...]) -> None:
        """Keep the ids out of the message."""
        super().__init__(
            "nobody of that id is in the dataset",
            expected="a subject id of the current dataset version",
            got=f"one that differs in its form only from {len(near)} there",
            remedy="check the id; nothing was filed",
        )
        self.near = near


class TicketConflictError(TicketError):
    """A ticket contradicts what was filed before: another request's key, or a person who is erased already."""


class PolicyError(InputError):
    """policy.yaml or params.yaml is not valid."""


class WorkspaceError(InputError):
    """There is no workspace here, or a part of it is missing."""


class RefusedError(ExpungeError):
    """A gate, a verification or a budget said no."""


class LeaseHeldError(RefusedError):
    """Another process is at work on the same model or batch; it is left to it."""


class BatchWaitsError(RefusedError):
    """A ticket on hold stops a batch before a destructive act: no failure, it continues after the release."""


class NotConvergedError(RefusedError):
    """A solver stopped short of its tolerance: nothing may be certified from it."""


class CertificateRefusedError(RefusedError):
    """A mechanism cannot state an admissible certificate."""


class BudgetExceededError(RefusedError):
    """The sequential budget of a model lineage is spent."""


class GateError(RefusedError):
    """A validation gate failed."""


class CoverageError(RefusedError):
    """Nothing that holds was said of a declared artefact that saw the people."""


class ResidueError(RefusedError):
    """Bytes of an erased person were found, or the scan could not be trusted."""


class VerificationError(RefusedError):
    """Evidence does not hold."""


class SignatureNotCheckedError(ExpungeError):
    """Evidence agrees with itself, and nobody's signature on it was checked: anybody can have written it."""

    exit_code = 4


class ServiceUnavailableError(ExpungeError):
    """A server or database cannot be reached."""

    exit_code = 3


class StorageFullError(ServiceUnavailableError):
    """A disk is full."""


def storage_full(error: OSError) -> StorageFullError | None:
    """What an operating system's error means, if it is about a full disk.

    Args:
        error: From the operating system.

    Returns:
        The error to raise in its place, or None.

    Example:
        >>> str(storage_full(OSError(errno.ENOSPC, "No space left on device")))
        'the disk is full: got No space left on device; make room, then run `expunge run`: it continues where it was'
    """
    return storage_full_text(os.strerror(error.errno)) if error.errno in _FULL else None


def storage_full_text(text: str) -> StorageFullError | None:
    """What another program's complaint means, if it is about a full disk.

    Args:
        text: What it said, in English.

    Returns:
        The error to raise in its place, or None.

    Example:
        >>> storage_full_text("fatal: not a git repository") is None
        True
    """
    reason = next((said for said in _FULL_TEXTS if said in text), None)
    if reason is None:
        return None
    return StorageFullError(
        "the disk is full", got=reason, remedy="make room, then run `expunge run`: it continues where it was"
    )
