"""Source files of the catalogue: found by path, or downloaded, and always checked against a digest."""

import gzip
import hashlib
import http.client
import io
import lzma
import os
import tempfile
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from expunge import progress
from expunge.errors import DatasetError

_TIMEOUT_S = 60
_CHUNK = 1 << 20
_MOST = (
    1 << 28
)  # bytes: five times the largest file of the catalogue; a few compressed ones can unfold to any number
_XZ_MEMORY = 1 << 28  # what a file's head may ask for, whatever its size


@dataclass(frozen=True)
class SourceFile:
    """One file of a dataset.

    Args:
        name: File name without the suffix of its compression.
        sha256: Of the uncompressed bytes; for a zip file, of the member that is read.
        url: Where it can be downloaded; empty where nobody serves it in this form.
        member: End of the member's name, for a zip file.
    """

    name: str
    sha256: str
    url: str = ""
    member: str = ""


def read_source(file: SourceFile, source: Path | None) -> bytes:
    """Uncompressed bytes of a source file, checked.

    Args:
        file: Which file.
        source: The file itself or the folder that holds it (plain, .gz or .xz); None to download it.

    Returns:
        The bytes.

    Raises:
        DatasetError: If it is not there, cannot be downloaded, or its digest differs.
    """
    return _checked(file, _find(file, source)) if source is not None else _download(file)


def _checked(file: SourceFile, path: Path) -> bytes:
    content = _member(path, file) if file.member else _uncompressed(path, file)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DatasetError(
            f"wrong checksum of {file.name}",
            expected=f"sha256 {file.sha256}",
            got=f"{found} ({len(content)} bytes)",
            remedy="fetch the original file again",
        )
    return content


def _find(file: SourceFile, source: Path) -> Path:
    candidates = (
        [source] if source.is_file() else [source / f"{file.name}{end}" for end in ("", ".gz", ".xz")]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DatasetError(
        "the source file is not there",
        expected=f"{file.name} (plain, .gz or .xz)",
        got=f"nothing of that name at {source}",
        remedy="check --source",
    )


def _uncompressed(path: Path, file: SourceFile) -> bytes:
    try:
        if path.stat().st_size > _MOST:
            raise _too_large(file)
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as unfolded:
                return _within(unfolded.read(_MOST + 1), file)
        if content[:6] == b"\xfd7zXZ\x00":
            stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            found = _within(stream.decompress(content, _MOST + 1), file)
            if not stream.eof:
                raise EOFError("it ends early")
            return found
        return content
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DatasetError(
            f"cannot read {file.name}", got=f"{type(error).__name__}: {error}", remedy="fetch the file again"
        ) from error


def _within(content: bytes, file: SourceFile) -> bytes:
    if len(content) > _MOST:
        raise _too_large(file)
    return content


def _too_large(file: SourceFile) -> DatasetError:
    return DatasetError(
        f"{file.name} is not the original file",
        expected=f"at most {_MOST >> 20} MiB, uncompressed",
        got="more",
        remedy="check --source",
    )


def _member(path: Path, file: SourceFile) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith(file.member))
            with archive.open(name) as unfolded:
                return _within(unfolded.read(_MOST + 1), file)
    # RuntimeError: an encrypted member, or a compression that Python does not know
    except (
        zipfile.BadZipFile,
        StopIteration,
        OSError,
        EOFError,
        RuntimeError,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise DatasetError(
            f"cannot read {file.name}",
            expected=f"a zip file with {file.member}",
            got=type(error).__name__,
            remedy="check --source",
        ) from error


def _download(file: SourceFile) -> bytes:
    """From the cache if it is sound there, else from the network; only checked bytes enter the cache."""
    cache = Path(os.environ.get("EXPUNGE_CACHE") or Path.home() / ".cache" / "expunge")
    path = cache / file.sha256[:16] / file.name
    if path.is_file():
        try:
            return _checked(file, path)
        except DatasetError:  # damaged since it was stored: fetch it again
            path.unlink()
    if not file.url:
        raise DatasetError(
            f"{file.name} cannot be downloaded", expected="the file by path", remedy="pass --source PATH"
        )
    staging: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        staging = Path(name)
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while block := response.read(_CHUNK):
                out.write(block)
                done += len(block)
                if done > _MOST:
                    raise _too_large(file)
                progress.report(f"downloading {file.name}", done, total)
        content = _checked(file, staging)
        os.replace(staging, path)
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise DatasetError(
            f"cannot download {file.name}",
            expected=f"an answer from {file.url.split('/')[2]} and a writable cache (EXPUNGE_CACHE)",
            got=f"{type(error).__name__}: {error}",
            remedy="pass the file with --source PATH",
        ) from error
    finally:
        if staging is not None:
            staging.unlink(missing_ok=True)
    return content
