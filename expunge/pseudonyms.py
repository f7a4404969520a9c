"""Keyed pseudonyms: what stands for a person everywhere outside the tickets database and the dataset."""

import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from expunge.errors import WorkspaceError

SPELLING = "c"  # begins the code of a spelling
_KEY_BYTES = 32
_ENCODED = len(base64.b64encode(bytes(_KEY_BYTES)))  # bytes of a key file
_NUMBER = re.compile(r"0*([0-9]+)(?:\.0)?")
_NAME = re.compile(r"pseudonym-([1-9][0-9]*)\.key")


@dataclass(frozen=True)
class Pseudonymiser:
    """Makes pseudonyms under the current key epoch, and recognises people under every epoch that lives.

    Args:
        key: 32 secret bytes.
        epoch: Number of the key, at least 1.
        older: Of the earlier epochs whose keys are not destroyed.

    Example:
        >>> Pseudonymiser(b"k" * 32, 1).of("42")[:3]
        'p1-'
    """

    key: bytes = field(repr=False)
    epoch: int = 1
    older: tuple["Pseudonymiser", ...] = field(default=(), repr=False)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The living epochs, the current one first."""
        return (self.epoch, *(one.epoch for one in self.older))

    def every(self, subject_id: str) -> tuple[str, ...]:
        """All pseudonyms that a subject may be known by.

        Args:
            subject_id: The person.

        Returns:
            One a living epoch, the current one's first.
        """
        return (self.of(subject_id), *(one.of(subject_id) for one in self.older))

    def every_request(self, idempotency_key: str) -> tuple[str, ...]:
        """All codes that an idempotency key may be stored under.

        Args:
            idempotency_key: As the caller gave it.

        Returns:
            One a living epoch, the current one's first.
        """
        codes = (one.of_request(idempotency_key) for one in self.older)
        return (self.of_request(idempotency_key), *codes)

    def of(self, subject_id: str) -> str:
        """The pseudonym of a subject: ``p<epoch>-`` and half of HMAC-SHA256 in hexadecimal.

        Args:
            subject_id: The person.

        Returns:
            The pseudonym.
        """
        return f"p{self.epoch}-{self._code('pseudonym', subject_id)[:32]}"

    def of_spelling(self, subject_id: str) -> str:
        """What all spellings of a subject's id have in common: see :func:`canonical`.

        Args:
            subject_id: The person, in any spelling.

        Returns:
            ``c<epoch>-`` and half of HMAC-SHA256 in hexadecimal.
        """
        return f"{SPELLING}{self.epoch}-{self._code('spelling', canonical(subject_id))[:32]}"

    def every_spelling(self, subject_id: str) -> tuple[str, ...]:
        """All codes that a subject's spelling may be stored under.

        Args:
            subject_id: The person, in any spelling.

        Returns:
            One a living epoch, the current one's first.
        """
        return (self.of_spelling(subject_id), *(one.of_spelling(subject_id) for one in self.older))

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


def canonical(subject_id: str) -> str:
    """One form for all spellings of an id: blanks around it, case, width, and a number's zeros say nothing.

    Args:
        subject_id: As it came.

    Returns:
        The form.

    Example:
        >>> canonical("0082221577.0"), canonical(" Ann\u00a0")
        ('82221577', 'ann')
    """
    form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", subject_id).casefold()).strip()
    number = _NUMBER.fullmatch(form)
    return number[1] if number else form


def epoch_of(pseudonym: str) -> int:
    """The key epoch that a pseudonym was made under.

    Args:
        pseudonym: From :meth:`Pseudonymiser.of`.

    Returns:
        Its number.

    Example:
        >>> epoch_of("p12-0123456789abcdef0123456789abcdef")
        12
    """
    return int(pseudonym[1:].partition("-")[0])


def key_path(folder: Path, epoch: int) -> Path:
    """Where the key of an epoch lies.

    Args:
        folder: Of the workspace's keys.
        epoch: Its number.

    Returns:
        ``pseudonym-<epoch>.key``.
    """
    return folder / f"pseudonym-{epoch}.key"


def key_epochs(folder: Path) -> tuple[int, ...]:
    """Epochs whose keys are there.

    Args:
        folder: Of the workspace's keys.

    Returns:
        Their numbers, oldest first.
    """
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("pseudonym-*.key"))
    return tuple(sorted(int(match[1]) for match in matches if match))


def load_keyring(folder: Path) -> Pseudonymiser:
    """All living key epochs of a workspace.

    Args:
        folder: Of its keys.

    Returns:
        The current epoch's pseudonymiser, with the older ones in it.

    Raises:
        WorkspaceError: If there is no key, or one is damaged.
    """
    *older, current = key_epochs(folder) or (1,)
    return Pseudonymiser(
        load_key(key_path(folder, current)),
        current,
        tuple(Pseudonymiser(load_key(key_path(folder, epoch)), epoch) for epoch in reversed(older)),
    )


def destroy_key(path: Path) -> None:
    """Destroy a key file: taken out of use, overwritten, removed, and looked for; repeating it changes nothing.

    Args:
        path: Made by :func:`create_key`.

    Raises:
        WorkspaceError: If it is still there.
    """
    # Renamed first: killed while it is overwritten, a damaged key would keep the workspace from opening.
    doomed = path.with_name(f"{path.name}.destroyed")
    with contextlib.suppress(FileNotFoundError):  # or another process finishes it at the same time
        path.rename(doomed)
    with contextlib.suppress(FileNotFoundError):
        with doomed.open("r+b") as file:
            file.write(os.urandom(_ENCODED))
            file.flush()
            os.fsync(file.fileno())
        doomed.unlink()
    _sync_folder(path.parent)
    if path.exists() or doomed.exists():
        raise WorkspaceError(f"the key {path.name} is still there", expected="none", remedy="run it again")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64encode(key))
            file.flush()
            os.fsync(file.fileno())
        os.link(staging, path)  # whole or not at all, and never over another
    except FileExistsError as error:
        raise WorkspaceError(
            f"the key {path.name} exists", expected="none", remedy="keep it; keys are made once"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()
    _sync_folder(path.parent)
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
