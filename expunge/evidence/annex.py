"""The sealed annex: what was computed from the forget set without noise, readable by the auditor alone.

A libsodium sealed box (X25519, XSalsa20-Poly1305) to the auditor's public key; the sender keeps no key.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nacl.encoding import HexEncoder
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from expunge.errors import VerificationError, WorkspaceError
from expunge.evidence.canonical import canonical_bytes, parse_json

ANNEX_FILE = "annex.sealed"
FIGURES_FILE = "figures.sealed"  # of the mechanism, until validation puts them into the annex
ATTACKS, DISCARDED = "attacks", "discarded"  # names in an opened annex
# Gates that an attack on the forget set decides; a certificate that names one has an annex with what it found.
ATTACK_GATES = ("membership attack", "membership attack as served", "shadow attack")
_ENCLOSED, _EARLIER = "enclosed", "earlier"
_SMALLEST = 1 << 16  # bytes; more than an attack on one release takes up by itself
PUBLIC_NAME = "auditor.pub"
PRIVATE_NAME = "auditor.key"


def create_auditor_keys(folder: Path) -> None:
    """Make the auditor's key pair, unless there is one.

    Args:
        folder: Where auditor.pub and auditor.key (mode 0600; to be handed to the auditor) are written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / PUBLIC_NAME).exists():
        return
    key = PrivateKey.generate()
    private = folder / PRIVATE_NAME
    private.touch(mode=0o600)
    private.write_bytes(key.encode(HexEncoder))
    (folder / PUBLIC_NAME).write_bytes(key.public_key.encode(HexEncoder))


def recipient(folder: Path) -> str:
    """Fingerprint of the auditor's public key.

    Args:
        folder: Holds auditor.pub.

    Returns:
        ``x25519:`` and 16 hexadecimal digits.
    """
    return f"x25519:{hashlib.sha256(bytes(_public(folder))).hexdigest()[:16]}"


def seal(content: dict[str, Any], folder: Path) -> tuple[bytes, str]:
    """Encrypt an annex to the auditor.

    Args:
        content: Plain data.
        folder: Holds auditor.pub.

    Returns:
        Ciphertext and its digest, which the certificate carries.

    Raises:
        WorkspaceError: If there is no public key.
    """
    plain = canonical_bytes(content)
    # A sealed box keeps the length of what is in it, and that tells of the figures: blanks fill it up.
    size = max(_SMALLEST, 1 << (len(plain) - 1).bit_length())
    box = SealedBox(_public(folder)).encrypt(plain.ljust(size))
    return bytes(box), annex_digest(bytes(box))


def enclose(
    sealed: bytes, attacks: dict[str, Any], earlier: Sequence[str], folder: Path
) -> tuple[bytes, str]:
    """Seal an attack's scores around what was sealed before them, which the sender cannot open any more.

    Args:
        sealed: Figures of the mechanism.
        attacks: Scores and what follows from them, plain data.
        earlier: Annexes of this batch's releases that were discarded, as :func:`as_text` gives them.
        folder: Holds auditor.pub.

    Returns:
        Ciphertext and its digest.

    Raises:
        WorkspaceError: If there is no public key.
    """
    return seal({_ENCLOSED: as_text(sealed), ATTACKS: attacks, _EARLIER: list(earlier)}, folder)


def as_text(sealed: bytes) -> str:
    """A sealed annex as text, for a database.

    Args:
        sealed: Ciphertext.

    Returns:
        Base64.
    """
    return base64.b64encode(sealed).decode()


def annex_digest(ciphertext: bytes) -> str:
    """SHA-256 of a sealed annex.

    Args:
        ciphertext: As stored.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    return f"sha256:{hashlib.sha256(ciphertext).hexdigest()}"


def open_annex(ciphertext: bytes, private_key: Path) -> dict[str, Any]:
    """Decrypt an annex with the auditor's private key.

    Args:
        ciphertext: As stored.
        private_key: File auditor.key.

    Returns:
        The mechanism's figures; under ``attacks`` the attacks' scores, under ``discarded`` the same of each release of
        the batch that was discarded before, where there are any.

    Raises:
        VerificationError: If the key is not the recipient's or the annex was changed.
        WorkspaceError: If the key file is missing.
    """
    try:
        key = PrivateKey(private_key.read_bytes(), HexEncoder)
        content = _opened(ciphertext, SealedBox(key))
    except FileNotFoundError as error:
        raise WorkspaceError(
            "no auditor key", expected=str(private_key.name), remedy="ask the auditor"
        ) from error
    except OSError as error:
        raise WorkspaceError(
            "the auditor's key cannot be read",
            expected=f"a file as {PRIVATE_NAME}",
            got=private_key.name,
            remedy="name the key's file",
        ) from error
    except (CryptoError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            "the annex cannot be opened",
            expected="the recipient's key and an unchanged annex",
            remedy="check both",
        ) from error
    if not isinstance(content, dict):
        raise VerificationError("the annex holds no figures", expected="names with figures")
    return content


def _opened(ciphertext: bytes, box: "SealedBox[PrivateKey]") -> Any:
    content = parse_json(box.decrypt(ciphertext), ANNEX_FILE)
    if not isinstance(content, dict) or _ENCLOSED not in content:
        return content
    inner = _opened(base64.b64decode(content[_ENCLOSED], validate=True), box)
    earlier = [_opened(base64.b64decode(one, validate=True), box) for one in content[_EARLIER]]
    return {**inner, ATTACKS: content[ATTACKS], **({DISCARDED: earlier} if earlier else {})}


def _public(folder: Path) -> PublicKey:
    try:
        return PublicKey((folder / PUBLIC_NAME).read_bytes(), HexEncoder)
    except FileNotFoundError as error:
        raise WorkspaceError(
            "the auditor's public key is missing", expected=PUBLIC_NAME, remedy="restore it to .expunge/keys"
        ) from error
