"""Keyed pseudonyms: what stands for a person everywhere outside the tickets database and the dataset."""

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

from expunge.errors import WorkspaceError

_KEY_BYTES = 32


@dataclass(frozen=True)
class Pseudonymiser:
    """Makes pseudonyms under one key epoch.

    Args:
        key: 32 secret bytes.
        epoch: Number of the key, at least 1.

    Example:
        >>> Pseudonymiser(b"k" * 32, 1).of("42")[:3]
        'p1-'
    """

    key: bytes = field(repr=False)
    epoch: int = 1

    def of(self, subject_id: str) -> str:
        """The pseudonym of a subject: ``p<epoch>-`` and half of HMAC-SHA256 in hexadecimal.

        Args:
            subject_id: The person.

        Returns:
            The pseudonym.
        """
        return f"p{self.epoch}-{self._code('pseudonym', subject_id)[:32]}"

    def of_request(self, idempotency_key: str) -> str:
        """What is stored of a caller's idempotency key, because callers put people's ids into them.

        Args:
            idempotency_key: As the caller gave it.

        Returns:
            ``k<epoch>-`` and HMAC-SHA256 in hexadecimal.
        """
        return f"k{self.epoch}-{self._code('idempotency-key', idempotency_key)}"

    def _code(self, purpose: str, text: str) -> str:
        return hmac.new(self.key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def create_key(path: Path) -> bytes:
    """Make a secret key file (mode 0600) from the operating system's randomness.

    Args:
        path: Must not exist.

    Returns:
        The key.

    Raises:
        WorkspaceError: If the file is there already: a new key would orphan every pseudonym made with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = os.urandom(_KEY_BYTES)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise WorkspaceError(
            f"the key {path.name} exists", expected="none", remedy="keep it; keys are made once"
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(key))
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> bytes:
    """Read a secret key file.

    Args:
        path: Made by :func:`create_key`.

    Returns:
        The key.

    Raises:
        WorkspaceError: If it is missing or damaged.
    """
    try:
        key = base64.b64decode(path.read_bytes(), validate=True)
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"the key {path.name} cannot be read",
            expected="the key file that `expunge init` made",
            got=type(error).__name__,
            remedy="restore it to .expunge/keys from your backup",
        ) from error
    if len(key) != _KEY_BYTES:
        raise WorkspaceError(
            f"the key {path.name} is damaged",
            expected=f"{_KEY_BYTES} bytes",
            got=f"{len(key)}",
            remedy="restore it",
        )
    return key
