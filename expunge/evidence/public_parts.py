"""Parts of a model that no batch changes, and the assumption that a certificate makes of each: that it is public."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from expunge.evidence.certificate import Certificate2, PublicPart
from expunge.evidence.model_files import CODE_FOLDER, WEIGHTS_FILE, is_part, part_digests, read_weights

INITIAL: Final = f"{WEIGHTS_FILE}#origin"  # the tensor of initial weights, without the trained ones beside it
_ZONES: Final = timedelta(days=1)  # a date has no time zone
_PUBLIC: Final = ", is public: declared by the operator on "


def parts_in(folder: Path) -> dict[str, str]:
    """Parts of a model's folder that have to be public.

    Args:
        folder: A model's folder.

    Returns:
        ``sha256:...`` by name, of one's own code, frozen tensors and initial weights; none for a network of the
        catalogue, whose code is Expunge's and whose tensors come from the seed alone.

    Raises:
        VerificationError: If the initial weights cannot be read.
    """
    digests = part_digests(folder)
    if not any(name.startswith(f"{CODE_FOLDER}/") for name in digests):
        return {}
    initial = hashlib.sha256()
    for piece in read_weights(folder, "origin"):
        initial.update(piece.tobytes())
    return {name: f"sha256:{digest}" for name, digest in {**digests, INITIAL: initial.hexdigest()}.items()}


def declare(folder: Path, source: str, declared_on: str) -> list[dict[str, Any]]:
    """The parts of a model's folder as a certificate states them.

    Args:
        folder: A model's folder.
        source: Where they came from, in the operator's words.
        declared_on: When the operator declared them, YYYY-MM-DD.

    Returns:
        Plain data, one for each part.

    Raises:
        VerificationError: As :func:`parts_in`.
    """
    return [
        {"name": name, "digest": digest, "source": source, "declared_on": declared_on}
        for name, digest in parts_in(folder).items()
    ]


def assumption_of(part: PublicPart) -> str:
    """What a certificate assumes of a part, in plain words.

    Args:
        part: The part.

    Returns:
        A sentence.

    Example:
        >>> part = PublicPart(name="code/net.py", digest="sha256:00", source="us", declared_on="2026-01-31")
        >>> assumption_of(part)
        'The code net.py, digest sha256:00, is public: declared by the operator on 2026-01-31, from us.'
    """
    if part.name == INITIAL:
        what = f"The initial weights {part.name}"
    elif part.name.startswith(f"{CODE_FOLDER}/"):
        what = f"The code {part.name.removeprefix(f'{CODE_FOLDER}/')}"
    else:
        what = f"The frozen part {part.name}"
    return f"{what}, digest {part.digest}{_PUBLIC}{part.declared_on}, from {part.source}."


def assumptions_of(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a certificate assumes of the parts that it states.

    Args:
        parts: Plain data of each.

    Returns:
        Sentences.
    """
    return [assumption_of(PublicPart.model_validate(part)) for part in parts]


def unstated(certificate: Certificate2) -> Iterator[str]:
    """Where the parts of a certificate, and what it assumes of them, do not fit together.

    Args:
        certificate: Of version 2 or later.

    Yields:
        Findings.
    """
    parts = certificate.public_parts
    if len({part.name for part in parts}) != len(parts):
        yield "a public part is stated twice"
    said = [assumption_of(part) for part in parts]
    if any(line not in certificate.assumptions for line in said):
        yield "a part of the model is called public, and this is not among the assumptions"
    if any(_PUBLIC in line and line not in said for line in certificate.assumptions):
        yield "it is assumed that a part of the model is public, and the part is not stated"
    for part in parts:
        if not part.source.strip():
            yield f"nobody says where the public part {part.name} came from"
        try:
            issued = datetime.fromisoformat(certificate.issued_at).date()
            if date.fromisoformat(part.declared_on) > issued + _ZONES:
                yield f"the part {part.name} was declared public after the certificate was issued"
        except ValueError:
            yield f"the public part {part.name} was declared on no date"


def differing_parts(certificate: Certificate2, folder: Path) -> Iterator[str]:
    """Parts of a model's folder that are not those which a certificate states.

    Args:
        certificate: Of version 2 or later.
        folder: A model's folder.

    Yields:
        Findings.

    Raises:
        VerificationError: As :func:`parts_in`.
    """
    stated = {part.name: part.digest for part in certificate.public_parts}
    there = parts_in(folder)
    for name in sorted({*stated, *there}):
        if name not in there:
            yield f"model: {name} is called a public part, and the model has none"
        elif name not in stated:
            yield f"model: nobody declared that {name} is public"
        elif stated[name] != there[name]:
            yield f"model: {name} is another than the public part of the certificate"


def unsigned_parts(certificate: Certificate2, signed: Mapping[str, str]) -> Iterator[str]:
    """Stated parts that are not files which were signed with the certificate, and signed code that is not stated.

    Args:
        certificate: Of version 2 or later.
        signed: SHA-256 of each of the model's files by name, as they were signed.

    Yields:
        Findings.
    """
    stated = {part.name: part.digest for part in certificate.public_parts}
    own = any(name.startswith(f"{CODE_FOLDER}/") for name in signed)
    files = {name: f"sha256:{digest}" for name, digest in signed.items() if own and is_part(name)}
    for name in sorted({*stated, *files} - {INITIAL}):
        if stated.get(name) != files.get(name):
            yield f"the public part {name} is another than the file that was signed"
    if own and INITIAL not in stated:
        yield "nobody declared that the model's initial weights are public"
