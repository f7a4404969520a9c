"""The sealed annex: what was computed from the forget set without noise, readable by the auditor alone.

A libsodium sealed box (X25519, XSalsa20-Poly1305) to the auditor's public key; the sender keeps no key.
"""

import hashlib
from pathlib import Path
from typing import Any

from nacl.encoding import HexEncoder
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from expunge.errors import VerificationError, WorkspaceError
from expunge.evidence.canonical import canonical_bytes, parse_json

ANNEX_FILE = "annex.sealed"
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
    box = SealedBox(_public(folder)).encrypt(canonical_bytes(content))
    return bytes(box), annex_digest(bytes(box))


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
        The content.

    Raises:
        VerificationError: If the key is not the recipient's or the annex was changed.
        WorkspaceError: If the key file is missing.
    """
    try:
        key = PrivateKey(private_key.read_bytes(), HexEncoder)
        content = parse_json(SealedBox(key).decrypt(ciphertext), ANNEX_FILE)
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
    except (CryptoError, ValueError) as error:
        raise VerificationError(
            "the annex cannot be opened",
            expected="the recipient's key and an unchanged annex",
            remedy="check both",
        ) from error
    if not isinstance(content, dict):
        raise VerificationError("the annex holds no figures", expected="names with figures")
    return content


def _public(folder: Path) -> PublicKey:
    try:
        return PublicKey((folder / PUBLIC_NAME).read_bytes(), HexEncoder)
    except FileNotFoundError as error:
        raise WorkspaceError(
            "the auditor's public key is missing", expected=PUBLIC_NAME, remedy="restore it to .expunge/keys"
        ) from error
