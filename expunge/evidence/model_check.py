"""A model's folder held against the certificate that is said to be of it."""

import importlib
import logging
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from expunge import progress
from expunge.errors import InputError, VerificationError
from expunge.evidence.certificate import Certificate, Certificate2
from expunge.evidence.keyring import Keyring, standing
from expunge.evidence.model_files import (
    CODE_FOLDER,
    MODEL_FILES,
    combined_digest,
    file_digest,
    files_of,
    is_part,
    read_weights,
    stated_spec,
)
from expunge.evidence.model_form import verify_form
from expunge.evidence.public_parts import differing_parts
from expunge.evidence.result import VerificationResult
from expunge.evidence.verify import constants_of
from expunge.privacy.noise import GENERATOR, release_step

MODEL_SIGNATURE_FILE: Final = "model.sig"
_COARSE: Final = 2.0**-30  # a float64 of a weight's size goes 20 binary digits further
# Constants that are the model's own, by mechanism; those of the other mechanisms are policy's.
_OF_THE_MODEL: Final = {
    "convex": ("l2", "gradient_tolerance", "rounding_allowance"),
    "newton": ("l2", "norm_bound"),
    "retrain": ("seed",),
}
# Of the catalogue: networks of which nobody has proved how their gradients are rounded.
_UNPROVED: Final = ("all-cnn", "resnet-18", "vit")


def require_folder(folder: Path) -> None:
    """Refuse what is no folder, before anything long begins.

    Args:
        folder: That should be of a model.

    Raises:
        InputError: If it is none.
    """
    if not folder.is_dir():
        raise InputError("no such folder", expected=f"one with {' and '.join(MODEL_FILES)}", got=str(folder))


def verify_model(
    folder: Path, certificate: Certificate, signed: Mapping[str, str] | None
) -> tuple[VerificationResult, str | None]:
    """Digest a model's files, a piece at a time, and read what they say of themselves.

    Args:
        folder: Of the model.
        certificate: That should be of it.
        signed: SHA-256 of each file by name, as they were signed; None where nothing was.

    Returns:
        The outcome, and the model's digest if all files are there.

    Raises:
        InputError: If there is no folder.
    """
    require_folder(folder)
    there = set(files_of(folder)) - {MODEL_SIGNATURE_FILE}
    parts = {name for name in there if is_part(name)}
    expected = {*MODEL_FILES, *(signed or {})}
    findings = [f"model: {name} is missing" for name in sorted(expected - there)]
    findings += [
        f"model: {name} is not among the files of a model"
        for name in sorted(there - set(MODEL_FILES) - parts)
    ]
    digests = {}
    names = [name for name in (*MODEL_FILES, *sorted(parts)) if name in there]
    for done, name in enumerate(names):
        progress.report("digest of the model's files", done, len(names))
        try:
            digests[name] = file_digest(folder / name)
        except OSError as error:
            raise InputError("a model's file cannot be read", expected="a file", got=name) from error
        if signed is not None and signed.get(name) != digests[name]:
            findings.append(f"model: {name} is not the file that was signed")
    if not set(MODEL_FILES) <= set(digests):
        return VerificationResult(tuple(findings)), None
    form = verify_form(folder, certificate)
    checked = []
    try:
        findings += form.findings
        findings += (said := _disagreements(folder, certificate))
        if not said:
            checked.append(
                "number of weights, their grid, and constants of the objective, in the model's files"
            )
    except (VerificationError, InputError) as error:
        findings.append(f"model: {error}")
    return VerificationResult(tuple(findings), form.missing, tuple(checked)), combined_digest(digests)


def _disagreements(folder: Path, certificate: Certificate) -> list[str]:
    found, spec = [], stated_spec(folder)
    # Noised weights are released as they are by this mechanism alone: what was not noised lies on no grid.
    noised = certificate.mechanism == "convex" and certificate.noise == GENERATOR and certificate.sigma > 0
    step, count, on_grid = release_step(certificate.sigma) if noised else None, 0, True
    rounded, zero = True, True
    for piece in read_weights(folder):
        count += len(piece)
        on_grid = on_grid and (step is None or _lies_on(step, piece))
        rounded = rounded and _lies_on(_COARSE, piece)
        zero = zero and not piece.any()
    if count != certificate.parameters:
        found.append("model: the number of weights is another than the certificate's")
    if not on_grid:
        found.append("model: its weights are not on the grid of the noise that the certificate states")
    # What a solver returns in float64 has digits far below: weights on a grid were noised, and carry no such guarantee.
    if certificate.mechanism == "retrain" and rounded and not zero:
        found.append(
            "model: its weights are all on a coarse grid, as noised ones are, and not those of a retraining"
        )
    values = constants_of(certificate)
    for name in _OF_THE_MODEL.get(certificate.mechanism, ()):
        if name in values and spec.get(name) != values[name]:
            found.append(f"model: its {name} is another than the certificate's")
    if isinstance(certificate, Certificate2):
        found += differing_parts(certificate, folder)
        own = ":" in str(spec.get("name"))
        if own and not any(file.startswith(f"{CODE_FOLDER}/") for file in files_of(folder)):
            found.append("model: it is made by code that is not among its files")
    if certificate.mechanism == "convex" and spec.get("linearize") is not True:
        found.append("model: it is not linearised, so that its objective is not convex by construction")
    if certificate.version >= 2 and certificate.guarantee == "convex" and spec.get("name") in _UNPROVED:
        found.append("model: rounding of its gradient is proved by nobody, so that its class is not convex")
    return found


def _lies_on(step: float, weights: NDArray[np.float64]) -> bool:
    return bool((weights / step == np.rint(weights / step)).all())


def verify_model_signature(
    folder: Path, signature: Path, ring: Keyring, moment: datetime, *, covered: bool
) -> VerificationResult:
    """Verify the OpenSSF form of a model's signature.

    Args:
        folder: Of the model.
        signature: model.sig.
        ring: That is trusted.
        moment: When the certificate was issued: model.sig has no date, and is made after it.
        covered: Whether a signed certificate that counts names these very files.

    Returns:
        The outcome; what is missing where the library for it is not installed, or no key is known.
    """
    name, keys = MODEL_SIGNATURE_FILE, ring.of("model")
    if not keys:
        return VerificationResult((), missing=(f"{name} was not checked (no key for models given)",))
    try:
        verifying: Any = importlib.import_module("model_signing.verifying")
    except ModuleNotFoundError:
        told = f"{name} was not checked (pip install model-signing); the signed certificate's digests were"
        return VerificationResult((), missing=(told,))
    logging.getLogger("model_signing").setLevel(logging.CRITICAL)
    reasons = []
    with tempfile.TemporaryDirectory() as place:
        pem = Path(place) / "key.pem"
        for key in reversed(keys):  # the newest first
            pem.write_text(key.public, encoding="utf-8")
            # a file that nobody signed is found by its name, so that model.sig may lie among the others
            config = (
                verifying.Config().use_elliptic_key_verifier(public_key=pem).set_ignore_unsigned_files(True)
            )
            try:
                config.verify(folder, signature)
            except Exception as error:  # whatever a damaged file makes the library raise
                reasons.append(" ".join(str(error).split())[:150] or type(error).__name__)
                continue
            # A key that is newer than the certificate may have signed its model: the one before it was lost.
            dated = max(moment, key.valid_from or moment)
            found = standing(ring, [key.keyid], dated, covered=covered)
            if found.fault is not None and covered:  # as if it were not there
                told = f"{name} does not count: {found.fault}; the certificate's digests say the same"
                return VerificationResult((), missing=(told,))
            if found.fault is not None:
                return VerificationResult((f"{name} does not hold: {found.fault}",))
            missing = tuple(f"{name}: {line}" for line in found.missing)
            return VerificationResult((), missing, (f"{name}, by key {key.keyid[:16]}",))
    return VerificationResult((f"{name} does not hold: {reasons[0]}",))
