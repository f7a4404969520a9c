"""Canonical JSON (RFC 8785) and digests: the same evidence has the same bytes everywhere."""

import hashlib
from typing import Any

import rfc8785

from expunge.errors import VerificationError


def canonical_bytes(value: Any) -> bytes:
    """Canonical JSON of plain data (RFC 8785).

    Args:
        value: Dicts, lists, strings, finite numbers, booleans, None.

    Returns:
        UTF-8 bytes.

    Raises:
        VerificationError: If the value has no canonical form (NaN, infinity, other types).

    Example:
        >>> canonical_bytes({"b": 1, "a": 0.5})
        b'{"a":0.5,"b":1}'
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise VerificationError(
            "evidence has no canonical form",
            expected="finite plain JSON",
            got=str(error),
            remedy="report this",
        ) from error


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON.

    Args:
        value: Plain data.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.

    Example:
        >>> digest({})[:15]
        'sha256:44136fa3'
    """
    return f"sha256:{hashlib.sha256(canonical_bytes(value)).hexdigest()}"
