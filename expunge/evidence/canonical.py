"""Canonical JSON (RFC 8785) and digests: the same evidence has the same bytes everywhere."""

import hashlib
import json
from pathlib import Path
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


def read_json(path: Path) -> Any:
    """Parse evidence strictly: a name that stands twice in an object, NaN and Infinity are refused.

    Args:
        path: The file.

    Returns:
        Plain data.

    Raises:
        VerificationError: If it is not JSON, or JSON that others would read otherwise.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return made

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        got = " ".join(str(error).split())[:100]
        raise VerificationError(f"{path.name} is not JSON", got=got, remedy="ask for the original") from error
