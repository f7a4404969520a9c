"""Rows embedded as numbers, wherever they lie in any file: tensors, arrays, pickles, raw memory.

A rolling hash finds them in one pass: with a secret odd r and S_i the sum of u_t r^t for t < i, all modulo 2^64, a
window of n words has the hash (S_{i+n} - S_i) r^{-i} whatever its place. What hashes like a removed row is compared
by HMAC, so that no row is kept. Words are 32 bits wide and read at each of the four byte offsets.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expunge.residue.fingerprints import row_fingerprints

_CHUNK = 1 << 16  # words at a time: the arrays stay in the processor's cache
_FILTER_BITS = 20
FEWEST = {"float32": 4, "float64": 4, "uint8": 8}  # distinct values: rows with fewer occur by chance
_MODULUS = 1 << 64


def embeddings(
    frame: pd.DataFrame, views: Sequence[tuple[Sequence[str], NDArray[np.float64]]], key: bytes
) -> dict[str, Any]:
    """What is needed to recognise rows that are embedded as numbers; no number of theirs.

    Args:
        frame: The rows.
        views: How they may look: which columns count, and the numbers made of them, shape (rows, width).
        key: Ephemeral secret of the batch.

    Returns:
        ``{columns, forms}``; forms are ``{unit, length, rows}`` of ``[hash, HMAC, fingerprint]``.
    """
    forms: dict[tuple[int, int], dict[str, list[str]]] = {}
    for names, numbers in views:
        owners = row_fingerprints(frame, names, key)
        for kind in FEWEST:
            with np.errstate(invalid="ignore", over="ignore"):
                typed = np.ascontiguousarray(numbers.astype(kind))
            if not typed.size:
                continue
            telling = _distinct(typed) >= FEWEST[kind]
            if kind == "uint8":
                telling &= (typed == numbers).all(axis=1)
            unit = 1 if kind == "uint8" else 4
            words = typed.view(f"<u{unit}").astype(np.uint64)
            form = forms.setdefault((unit, words.shape[1]), {})
            powers = _powers(_base(key), words.shape[1])
            for number in np.flatnonzero(telling):
                code = _code(key, typed[number].tobytes())
                hashed = int((words[number] * powers).sum(dtype=np.uint64))
                form[code] = [f"{hashed:016x}", code, owners[number]]
    return {
        "columns": [list(names) for names, _ in views],
        "forms": [
            {"unit": unit, "length": length, "rows": list(rows.values())}
            for (unit, length), rows in forms.items()
            if rows
        ],
    }


class Embedded:
    """Finds embedded rows.

    Args:
        saved: From :func:`embeddings`.
        key: The same secret.
    """

    def __init__(self, saved: Mapping[str, Any], key: bytes) -> None:
        self.columns: list[list[str]] = list(saved.get("columns", []))
        self._key = key
        forms = [_Form(form) for form in saved.get("forms", [])]
        self._units = {unit: [form for form in forms if form.unit == unit] for unit in (1, 4)}
        self.overlap = max((form.unit * form.length + 4 for form in forms), default=0)
        reach = _CHUNK + max((form.length for form in forms), default=0)
        base = _base(key)
        self._powers = _powers(base, reach if forms else 0)
        self._inverse = _powers(pow(base, -1, _MODULUS), reach if forms else 0)

    def find(self, content: bytes) -> set[str]:
        """Whose rows a block of bytes holds.

        Args:
            content: The block, with the end of the one before it.

        Returns:
            Fingerprints of the rows, over the columns of their representation.
        """
        found: set[str] = set()
        for unit, forms in self._units.items():
            for offset in range(unit) if forms else ():
                for form, start in self._candidates(content, unit, offset, forms):
                    code = _code(self._key, content[start : start + unit * form.length])
                    if code in form.owners:
                        found.add(form.owners[code])
        return found

    def _candidates(
        self, content: bytes, unit: int, offset: int, forms: list["_Form"]
    ) -> Iterator[tuple["_Form", int]]:
        if len(content) < offset + unit * min(form.length for form in forms):
            return
        words = np.frombuffer(content, f"<u{unit}", count=(len(content) - offset) // unit, offset=offset)
        longest = max(form.length for form in forms)
        sums, room = (np.zeros(_CHUNK + longest + 1, np.uint64) for _ in range(2))
        for start in range(0, len(words), _CHUNK):
            part = words[start : start + _CHUNK + longest - 1]
            size = len(part)
            if not part.any():
                continue
            np.multiply(part, self._powers[:size], out=sums[1 : size + 1])
            np.cumsum(sums[: size + 1], out=sums[: size + 1])
            for form in forms:
                windows = size + 1 - form.length
                if windows < 1:
                    continue
                hashes = np.subtract(sums[form.length : size + 1], sums[:windows], out=room[:windows])
                hashes *= self._inverse[:windows]
                for place in form.hits(hashes):
                    yield form, offset + unit * (start + int(place))


class _Form:
    """Rows of one width."""

    def __init__(self, saved: Mapping[str, Any]) -> None:
        self.unit, self.length = int(saved["unit"]), int(saved["length"])
        self.owners = {code: owner for _, code, owner in saved["rows"]}
        self._hashes = np.array(sorted(int(number, 16) for number, _, _ in saved["rows"]), np.uint64)
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[self._slots(self._hashes)] = True

    @staticmethod
    def _slots(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (hashes >> np.uint64(64 - _FILTER_BITS)).view(np.int64)

    def hits(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places whose hash is that of a row."""
        places = np.flatnonzero(self._filter[self._slots(hashes)])
        return places[np.isin(hashes[places], self._hashes)]


def _base(key: bytes) -> int:
    """The secret r: odd, so that it has an inverse."""
    return int.from_bytes(hmac.new(key, b"rolling", hashlib.sha256).digest()[:8]) | 1


def _powers(base: int, size: int) -> NDArray[np.uint64]:
    factors = np.full(size, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _distinct(rows: NDArray[Any]) -> NDArray[np.int64]:
    """How many different values each row has."""
    ordered = np.sort(rows, axis=1)
    return np.asarray(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1), dtype=np.int64)


def _code(key: bytes, content: bytes) -> str:
    return hmac.new(key, b"embedded:" + content, hashlib.sha256).hexdigest()[:32]
