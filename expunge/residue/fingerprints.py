"""Keyed fingerprints of rows: how removed rows are recognised without keeping them."""

import hashlib
import hmac
from collections.abc import Sequence

import pandas as pd


def row_fingerprints(frame: pd.DataFrame, columns: Sequence[str], key: bytes) -> list[str]:
    """Fingerprint of every row over its record id, label and features, whatever its subject column says.

    Args:
        frame: Rows that have these columns.
        columns: Which columns count, in order.
        key: Ephemeral secret of the batch, forgotten when it closes.

    Returns:
        64 hexadecimal digits a row.
    """
    keyed = hmac.new(key, b"row:", hashlib.sha256)
    out = []
    for values in zip(*(frame[column].tolist() for column in columns), strict=True):
        code = keyed.copy()
        code.update("\x1f".join(_text(value) for value in values).encode())
        out.append(code.hexdigest())
    return out


def _text(value: object) -> str:
    """The same text for a number whatever width or type a file gave it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return str(value)
