"""The form of a model's files: from version 2 on nothing is in them but what a release may tell, and a nonce each."""

import re
from pathlib import Path
from typing import Final

from expunge.evidence.certificate import Certificate
from expunge.evidence.model_files import description, part_digests, weights_nonce
from expunge.evidence.result import VerificationResult

_FIELDS: Final = {"version", "nonce", "spec", "preprocessing", "parts"}
_NONCE: Final = re.compile("[0-9a-f]{32}")
_EARLIER: Final = (
    "model: its files have the form of an earlier release, which told in them what the first training took"
)
_ORIGIN: Final = (
    "model: that its initial weights come from its seed alone was not recomputed (that needs what trains it)"
)


def verify_form(folder: Path, certificate: Certificate) -> VerificationResult:
    """Hold the fields of a model's description, and its nonces, against the version of its certificate.

    Args:
        folder: Of the model.
        certificate: That should be of it.

    Returns:
        The outcome.
    """
    try:
        content = description(folder)
    except (TypeError, ValueError, RecursionError):
        content = {}
    version = content.get("version")
    if certificate.version < 2:
        later = version != 1 or bool(part_digests(folder))
        told = "model: its files have a later form than its certificate, which states nothing of what is new in it"
        return VerificationResult((told,) if later else ())
    if version == 1:
        return VerificationResult((), (_EARLIER, _ORIGIN))
    findings = []
    if version != 2 or set(content) != _FIELDS:
        findings.append("model: its description has other fields than a release has")
    if not all(
        isinstance(one, str) and _NONCE.fullmatch(one)
        for one in (content.get("nonce"), weights_nonce(folder))
    ):
        findings.append(
            "model: a file of it carries no nonce, so that its digest is a function of rows alone"
        )
    return VerificationResult(tuple(findings), (_ORIGIN,))
