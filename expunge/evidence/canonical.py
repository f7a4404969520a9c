"""Canonical JSON (RFC 8785) and digests: the same evidence has the same bytes everywhere."""

import hashlib
import json
from pathlib import Path
from typing import Any

import rfc8785

from expunge.errors import VerificationError

_DEEPEST = 64  # levels of lists and objects; ours have about ten


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
    """Parse a file of evidence strictly, as :func:`parse_json` does.

    Args:
        path: The file.

    Returns:
        Plain data.

    Raises:
        VerificationError: If it is not JSON, or JSON that others would read otherwise.
    """
    return parse_json(path.read_bytes(), path.name)


def parse_json(text: bytes, name: str) -> Any:
    """Parse evidence strictly: UTF-8, no name twice in an object, no NaN nor Infinity, nothing deeper than 64 levels.

    Args:
        text: As it was stored or signed.
        name: What an error calls it.

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
        content = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
        if _deep(content):
            raise ValueError(f"nested deeper than {_DEEPEST} levels")
        return content
    except (ValueError, RecursionError) as error:
        got = " ".join(str(error).split())[:100]
        raise VerificationError(f"{name} is not JSON", got=got, remedy="ask for the original") from error


def _deep(content: Any) -> bool:
    """Whether it is nested deeper than any evidence; level by level, so that depth cannot exhaust the stack."""
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)
