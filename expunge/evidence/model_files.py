"""A model's files and their digests, read a piece at a time, without what made them."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from expunge.errors import VerificationError

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
FROZEN_FILE = "frozen.safetensors"
CODE_FOLDER = "code"
MODEL_FILES = (
    MODEL_FILE,
    WEIGHTS_FILE,
)  # of every model; FROZEN_FILE and code/PATH.py of those that have them
_CODE = re.compile(rf"{CODE_FOLDER}(/[A-Za-z_][A-Za-z0-9_]*)+\.py")
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


def is_part(name: str) -> bool:
    """Whether a name is that of a file which a model may have besides :data:`MODEL_FILES`.

    Args:
        name: Relative to the model's folder.

    Returns:
        True for frozen tensors and source of own code.

    Example:
        >>> is_part("code/layers/rbf.py"), is_part("code/../rbf.py")
        (True, False)
    """
    return name == FROZEN_FILE or _CODE.fullmatch(name) is not None


def files_of(folder: Path) -> list[str]:
    """Names of all files in a model's folder, whatever they are.

    Args:
        folder: A model's folder.

    Returns:
        Relative to it, sorted.
    """
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def combined_digest(digests: Mapping[str, str]) -> str:
    """A model's digest from those of its files.

    Formula: SHA-256 over the lines ``name hexdigest`` of :data:`MODEL_FILES`, in this order, and of its other parts by
    name. What is no part of a model (:func:`is_part`) does not count.

    Args:
        digests: SHA-256 in hexadecimal by name.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.

    Example:
        >>> combined_digest({"model.json": "00", "weights.safetensors": "11"})[:15]
        'sha256:6915eea0'
    """
    names = [*MODEL_FILES, *sorted(name for name in digests if is_part(name))]
    lines = "".join(f"{name} {digests[name]}\n" for name in names)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def part_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a model has besides :data:`MODEL_FILES`.

    Args:
        folder: A model's folder.

    Returns:
        64 hexadecimal digits by name, of frozen tensors and source of own code.
    """
    return {name: file_digest(folder / name) for name in files_of(folder) if is_part(name)}


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that belongs to a model.

    Args:
        folder: A model's folder.

    Returns:
        64 hexadecimal digits by name.
    """
    return {**{name: file_digest(folder / name) for name in MODEL_FILES}, **part_digests(folder)}


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and SHA-256 digests of a model's files.

    Args:
        folder: A model's folder.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    return combined_digest(file_digests(folder))


def read_weights(folder: Path, name: str = "weights") -> Iterator[NDArray[np.float64]]:
    """The model's weights, some at a time.

    Args:
        folder: A model's folder.
        name: ``weights``, or ``origin`` for the initial ones.

    Yields:
        Pieces of the tensor, in order.

    Raises:
        VerificationError: If the file has no such tensor.
    """
    try:
        with (folder / WEIGHTS_FILE).open("rb") as file:
            size, header = _header(file)
            tensor = header[name]
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
            expected=f"a tensor `{name}` of float64 in one dimension",
            got=" ".join(str(error).split())[:100],
        ) from error


def weights_nonce(folder: Path) -> Any:
    """Read the nonce that the file of a model's weights carries.

    Args:
        folder: A model's folder.

    Returns:
        What stands in its place, of any type; None where the file carries none, or is not to be read.
    """
    try:
        with (folder / WEIGHTS_FILE).open("rb") as file:
            return _header(file)[1]["__metadata__"]["nonce"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _header(file: BinaryIO) -> tuple[int, Any]:
    """Read the length of a safetensors header, and the header."""
    size = int.from_bytes(file.read(8), "little")
    if size > _LARGEST_HEADER:
        raise ValueError(f"a header of {size} bytes")
    return size, json.loads(file.read(size))


def description(folder: Path) -> dict[str, Any]:
    """Read a model's own description.

    Args:
        folder: A model's folder.

    Returns:
        Its fields.

    Raises:
        TypeError: If it is JSON of another kind.
        ValueError: If it is no JSON.
        RecursionError: If it is nested without end.
    """
    content = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(type(content).__name__)
    return content


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
        spec = description(folder)["spec"]
        if not isinstance(spec, dict):
            raise TypeError(type(spec).__name__)
        return spec
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise VerificationError(
            f"{MODEL_FILE} has no spec that can be read", got=type(error).__name__
        ) from error
