"""Keyed fingerprints of rows: how removed rows are recognised without keeping them."""

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

_ROWS_AT_A_TIME = 4096


def row_fingerprints(frame: pd.DataFrame, columns: Sequence[str], key: bytes) -> list[str]:
    """Fingerprint of every row over its record id, label and features, whatever its subject column says.

    Numbers count as float64 whatever width or type a file gave them; anything else counts as text.

    Args:
        frame: Rows that have these columns.
        columns: Which columns count, in order.
        key: Ephemeral secret of the batch, forgotten when it closes.

    Returns:
        64 hexadecimal digits a row.
    """
    numeric = [c for c in columns if is_numeric_dtype(frame[c]) or is_bool_dtype(frame[c])]
    numbered = set(numeric)
    texts = [column for column in columns if column not in numbered]
    keyed = hmac.new(key, b"row:", hashlib.sha256)
    out = []
    for start in range(0, len(frame), _ROWS_AT_A_TIME):
        part = frame.iloc[start : start + _ROWS_AT_A_TIME]
        numbers = part[numeric].to_numpy(dtype="float64", na_value=np.nan) + 0.0  # -0.0 is 0.0
        numbers = np.ascontiguousarray(np.where(np.isnan(numbers), np.nan, numbers))  # one NaN of the many
        words = part[texts].astype(object)
        cells = words.where(words.notna(), "\x00").to_numpy().tolist()
        for row, text in zip(numbers, cells, strict=True):
            code = keyed.copy()
            code.update(row.tobytes())
            code.update("\x1f".join(map(str, text)).encode())
            out.append(code.hexdigest())
    return out
