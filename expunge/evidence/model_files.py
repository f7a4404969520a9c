"""A model's files and their digests, read a piece at a time, without what made them."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.errors import VerificationError

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
MODEL_FILES = (MODEL_FILE, WEIGHTS_FILE)
_BLOCK = 1 << 16  # weights read at a time
_LARGEST_HEADER = 1 << 20  # bytes; ours has two tensors


def file_digest(path: Path) -> str:
    """SHA-256 of a file of any size.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combined_digest(digests: Mapping[str, str]) -> str:
    """A model's digest from those of its files.

    Formula: SHA-256 over the lines ``name hexdigest`` of :data:`MODEL_FILES`, in this order.

    Args:
        digests: SHA-256 in hexadecimal by name.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.

    Example:
        >>> combined_digest({"model.json": "00", "weights.safetensors": "11"})[:15]
        'sha256:6915eea0'
    """
    lines = "".join(f"{name} {digests[name]}\n" for name in MODEL_FILES)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and SHA-256 digests of a model's files.

    Args:
        folder: A model's folder.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    return combined_digest({name: file_digest(folder / name) for name in MODEL_FILES})


def read_weights(folder: Path) -> Iterator[NDArray[np.float64]]:
    """The model's weights, some at a time.

    Args:
        folder: A model's folder.

    Yields:
        Pieces of the tensor ``weights``, in order.

    Raises:
        VerificationError: If the file has no such tensor.
    """
    try:
        with (folder / WEIGHTS_FILE).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _LARGEST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            tensor = json.loads(file.read(size))["weights"]
            (count,), (begin, end) = tensor["shape"], tensor["data_offsets"]
            whole = all(type(value) is int for value in (count, begin, end))
            if not whole or tensor["dtype"] != "F64" or end - begin != 8 * count or begin < 0:
                raise ValueError("another tensor than one of float64")
            if 8 + size + end > os.fstat(file.fileno()).st_size:
                raise ValueError(f"{count} weights, which the file is too short for")
            file.seek(8 + size + begin)
            for start in range(0, count, _BLOCK):
                piece = file.read(8 * min(_BLOCK, count - start))
                yield np.frombuffer(piece, dtype="<f8")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise VerificationError(
            f"{WEIGHTS_FILE} cannot be read",
            expected="a tensor `weights` of float64 in one dimension",
            got=" ".join(str(error).split())[:100],
        ) from error


def stated_spec(folder: Path) -> dict[str, Any]:
    """What the model's own description says of its training.

    Args:
        folder: A model's folder.

    Returns:
        The fields of its spec.

    Raises:
        VerificationError: If there is none.
    """
    try:
        spec = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))["spec"]
        if not isinstance(spec, dict):
            raise TypeError(type(spec).__name__)
        return spec
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise VerificationError(
            f"{MODEL_FILE} has no spec that can be read", got=type(error).__name__
        ) from error
