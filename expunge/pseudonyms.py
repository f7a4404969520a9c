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
from expunge.subjects import AS_THEY_ARE, Identity, folded

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
        identity: Which spellings of an id are one person, and have one pseudonym.

    Example:
        >>> Pseudonymiser(b"k" * 32, 1).of("42")[:3]
        'p1-'
    """

    key: bytes = field(repr=False)
    epoch: int = 1
    older: tuple["Pseudonymiser", ...] = field(default=(), repr=False)
    identity: Identity = field(default=AS_THEY_ARE, repr=False)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The living epochs, the current one first."""
        return (self.epoch, *(one.epoch for one in self.older))

    def every(self, subject_id: str) -> tuple[str, ...]:
        """All pseudonyms that a subject may be known by.

        Args:
            subject_id: The person.

        Returns:
            One a living epoch, the current one's first; then those of the spelling itself, under which the person was
            known before the contract had rules.
        """
        epochs, form = (self, *self.older), self.identity.canonical(subject_id)
        return tuple(one._pseudonym(text) for text in dict.fromkeys((form, subject_id)) for one in epochs)

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
        return self._pseudonym(self.identity.canonical(subject_id))

    def of_spelling(self, subject_id: str) -> str:
        """What all spellings of a subject's id have in common: see :func:`expunge.subjects.folded`.

        Args:
            subject_id: The person, in any spelling.

        Returns:
            ``c<epoch>-`` and half of HMAC-SHA256 in hexadecimal.
        """
        return self._spelling(folded(subject_id))

    def every_spelling(self, subject_id: str) -> tuple[str, ...]:
        """All codes that a subject's spelling may be stored under.

        Args:
            subject_id: The person, in any spelling.

        Returns:
            One a living epoch, the current one's first; then those of the form of earlier releases. None where the
            contract says that other spellings are other people.
        """
        if self.identity.settled:
            return ()
        epochs, forms = (self, *self.older), dict.fromkeys((folded(subject_id), _folded_once(subject_id)))
        return tuple(one._spelling(form) for form in forms for one in epochs)

    def of_request(self, idempotency_key: str) -> str:
        """What is stored of a caller's idempotency key, because callers put people's ids into them.

        Args:
            idempotency_key: As the caller gave it.

        Returns:
            ``k<epoch>-`` and HMAC-SHA256 in hexadecimal.
        """
        return f"k{self.epoch}-{self._code('idempotency-key', idempotency_key)}"

    def _pseudonym(self, form: str) -> str:
        return f"p{self.epoch}-{self._code('pseudonym', form)[:32]}"

    def _spelling(self, form: str) -> str:
        return f"{SPELLING}{self.epoch}-{self._code('spelling', form)[:32]}"

    def _code(self, purpose: str, text: str) -> str:
        return hmac.new(self.key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _folded_once(subject_id: str) -> str:
    """What earlier releases took for a spelling's common form: the suppression list has codes of it."""
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


def load_keyring(folder: Path, identity: Identity = AS_THEY_ARE) -> Pseudonymiser:
    """All living key epochs of a workspace.

    Args:
        folder: Of its keys.
        identity: Which spellings of an id are one person.

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
        identity,
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
