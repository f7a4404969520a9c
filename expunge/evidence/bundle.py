"""An evidence folder read and verified alone: no workspace, no server, no network.

Nothing in the folder is trusted. What is trusted is given: the operator's public keys, an authority's root, a witness.
Whatever is given has to be met: with a key, a signature that is missing is a finding, or else to strip it would pass.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography.x509 import Certificate as AuthorityCertificate

from expunge.errors import InputError, VerificationError
from expunge.evidence.annex import ANNEX_FILE, annex_digest, open_annex
from expunge.evidence.canonical import canonical_bytes, read_json
from expunge.evidence.certificate import Certificate, Certificate2, parse_certificate
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.keyring import KEYRING_FILE, Keyring, standing
from expunge.evidence.ledger_file import LEDGER_FILE, parse_ledger
from expunge.evidence.model_check import (
    MODEL_SIGNATURE_FILE,
    require_folder,
    verify_model,
    verify_model_signature,
)
from expunge.evidence.model_files import MODEL_FILES, combined_digest, is_part, stated_spec
from expunge.evidence.public_parts import unsigned_parts
from expunge.evidence.realised import verify_realised
from expunge.evidence.result import Answer, VerificationResult
from expunge.evidence.statements import CERTIFICATE_PREDICATE, Statement, open_statement, read_statement
from expunge.evidence.time_stamp import stamped_at
from expunge.evidence.verify import EARLIER_GENERATORS, verify_certificate
from expunge.evidence.verify_ledger import verify_ledger

CERTIFICATE_FILE: Final = "certificate.json"
ENVELOPE_FILE: Final = "certificate.dsse.json"
STAMP_FILE: Final = "certificate.tsr"
_BESIDE = (LEDGER_FILE, ANNEX_FILE, KEYRING_FILE, MODEL_SIGNATURE_FILE, STAMP_FILE)
_NO_KEY = "signature (no key given: --key)"
NOT_VALID_THEN: Final = "signature: not by a key that was valid then"
_NAMED = 8  # fields that a finding names


@dataclass(frozen=True)
class Evidence:
    """What lies in an evidence folder: nothing of it is believed yet.

    Args:
        certificate: The bare certificate's file, if there is one.
        envelope: The signed certificate's file, if there is one.
        beside: Other files of evidence, by their usual names.
    """

    certificate: Path | None
    envelope: Path | None
    beside: Mapping[str, Path]

    @property
    def taken(self) -> list[str]:
        """Names of the files."""
        return [path.name for path in (self.certificate, self.envelope, *self.beside.values()) if path]


@dataclass(frozen=True)
class Trust:
    """What an auditor trusts, and what they were given on another way than the evidence.

    Args:
        keys: The operator's public keys. No key in the evidence is added to them: see :meth:`Keyring.with_endorsed`.
        ledger: A ledger that takes the place of the one beside the certificate; checked already where it was read.
        witnesses: Envelopes of earlier heads of the ledger.
        annex_key: The auditor's private key.
        authorities: Roots of time-stamping authorities.
    """

    keys: Keyring | None = None
    ledger: Path | CheckedLedger | None = None
    witnesses: Sequence[Mapping[str, Any]] = ()
    annex_key: Path | None = None
    authorities: Sequence[AuthorityCertificate] = ()


def find_evidence(path: Path) -> Evidence:
    """Find a certificate and what lies beside it.

    Args:
        path: certificate.json, certificate.dsse.json (under whatever names), or their folder.

    Returns:
        The evidence.

    Raises:
        InputError: If there is no certificate, or it is not JSON.
    """
    folder = path if path.is_dir() else path.parent
    usual = [folder / CERTIFICATE_FILE, folder / ENVELOPE_FILE]
    file = next((one for one in usual if one.is_file()), path) if path.is_dir() else path
    try:
        content = read_json(file)
    except (OSError, VerificationError) as error:
        fault = "is not JSON" if isinstance(error, VerificationError) else "cannot be read"
        raise InputError(
            f"the certificate {fault}",
            expected=f"{CERTIFICATE_FILE}, {ENVELOPE_FILE}, or their folder",
            got=f"{path.name}: {' '.join(str(error).split())[:200]}",
            remedy="ask for the original",
        ) from error
    signed = isinstance(content, dict) and "payload" in content
    bare, envelope = (usual[0], file) if signed else (file, usual[1])
    return Evidence(
        bare if bare.is_file() else None,
        envelope if envelope.is_file() else None,
        {name: folder / name for name in _BESIDE if (folder / name).is_file()},
    )


class Verifier:
    """Verifies any number of certificates; a ledger that they share is checked once.

    Args:
        trust: What is trusted.
    """

    def __init__(self, trust: Trust) -> None:
        """Keep what is trusted."""
        self._trust = trust
        self._ledger: tuple[Any, CheckedLedger] | None = None  # the last one, by its digest and the keys

    def verify(
        self, evidence: Evidence, *, model: Path | None = None, rolled_back: bool = False
    ) -> VerificationResult:
        """Verify a certificate with what lies beside it.

        Args:
            evidence: The files.
            model: Folder of the model's files, if they are at hand.
            rolled_back: Whether its release is known to have been undone.

        Returns:
            What holds, what is missing, what does not hold.

        Raises:
            InputError: If a file or folder that was named cannot be read.
        """
        answer, ring = Answer(), self._trust.keys
        if model is not None:
            require_folder(model)
        statement = self._statement(evidence, ring, answer)
        try:
            certificate = _certificate(evidence, statement, answer)
        except VerificationError as error:
            answer.findings.append(str(error))
            return answer.result()
        ledger_answer = Answer()
        ledger = self._ledger_of(evidence, ring, ledger_answer)
        moment, counts = self._counts(evidence, certificate, statement, ledger, answer)
        if statement is not None and _combined(statement) != certificate.model.digest:
            answer.findings.append(
                "the signed digests of the model's files are not those of the certificate's model"
            )
        if statement is not None and isinstance(certificate, Certificate2):
            answer.findings += unsigned_parts(certificate, statement.subjects)
        if statement is not None and certificate.noise in EARLIER_GENERATORS:
            answer.findings.append("the noise is of a generator that no signed certificate ever named")
        signed = _Signed(statement, ring, moment, counts)
        digest, spec = _model(evidence, certificate, signed, model, answer)
        path = evidence.beside.get(ANNEX_FILE)
        annex = path.read_bytes() if path else None
        answer.add(ledger_answer.result())
        outcome = verify_certificate(
            certificate, ledger=ledger, annex=annex, model_digest=digest, rolled_back=rolled_back
        )
        answer.add(outcome)
        self._annex(certificate, annex, spec, answer)
        return replace(answer.result(), vouched="given keys" if counts else "nobody")

    def _statement(self, evidence: Evidence, ring: Keyring | None, answer: Answer) -> Statement | None:
        """What the envelope says; signed where there is a key, and never believed otherwise."""
        if evidence.envelope is None:
            if ring is None:
                answer.missing.append(_NO_KEY)
            else:
                answer.findings.append(f"signature: there is no {ENVELOPE_FILE}: nobody signed this")
            return None
        try:
            content = read_json(evidence.envelope)
            if ring is not None:
                signed = open_statement(
                    content, [key.key for key in ring.of("evidence")], CERTIFICATE_PREDICATE
                )
                answer.checked.append(f"signature by key {', '.join(keyid[:16] for keyid in signed.keyids)}")
                return signed
            answer.missing.append(_NO_KEY)
        except VerificationError as error:
            answer.findings.append(f"signature: {error}")
        return _read(evidence.envelope, answer)

    def _counts(
        self,
        evidence: Evidence,
        certificate: Certificate,
        statement: Statement | None,
        ledger: CheckedLedger | None,
        answer: Answer,
    ) -> tuple[datetime | None, bool]:
        """When it was issued: by the time stamp, else by what it says; and whether a signature by then counts."""
        dated, ring = _date(certificate.issued_at), self._trust.keys
        if (stamped := self._stamped(evidence, answer)) is not None and dated is not None and stamped < dated:
            answer.findings.append("time stamp: it is older than the certificate says that it is")
        if (moment := stamped or dated) is None:
            return None, False
        if statement is None or ring is None or not statement.keyids:
            return moment, False
        covered = ledger is not None and ledger.vouches_for(certificate)
        found = standing(ring, statement.keyids, dated or moment, stamped=stamped, covered=covered)
        if found.fault is not None:
            answer.findings.append(f"{NOT_VALID_THEN}: {found.fault}")
        elif found.missing:
            answer.missing += found.missing
        else:
            answer.checked.append("validity of the key when the certificate was issued")
        return moment, found.fault is None

    def _stamped(self, evidence: Evidence, answer: Answer) -> datetime | None:
        path, roots = evidence.beside.get(STAMP_FILE), self._trust.authorities
        if not roots:
            if path is not None:
                answer.missing.append("time stamp (no authority given: --tsa-root)")
            return None
        if path is None or evidence.envelope is None:
            answer.findings.append(f"time stamp: there is no {STAMP_FILE} on an envelope")
            return None
        try:
            message = canonical_bytes(read_json(evidence.envelope))
            moment = stamped_at(path.read_bytes(), message, list(roots))
        except VerificationError as error:
            answer.findings.append(f"time stamp: {error}")
            return None
        answer.checked.append(f"time stamp of {moment.isoformat(timespec='seconds')}")
        return moment

    def _ledger_of(self, evidence: Evidence, ring: Keyring | None, answer: Answer) -> CheckedLedger | None:
        given = self._trust.ledger
        if isinstance(given, CheckedLedger):
            return given
        path = given or evidence.beside.get(LEDGER_FILE)
        if path is None:
            if self._trust.witnesses:
                answer.findings.append(f"ledger: there is no {LEDGER_FILE} to hold against the witness")
            return None
        try:
            # the one that was given is read once; those beside certificates are told apart by what is in them
            same = hashlib.sha256(path.read_bytes()).digest() if given is None else path
            known = same, tuple(key.keyid for key in ring.keys) if ring else ()
            if self._ledger is None or self._ledger[0] != known:
                ledger = parse_ledger(read_json(path))
                outcome = verify_ledger(ledger, keys=ring, witnesses=self._trust.witnesses)
                self._ledger = known, CheckedLedger.of(ledger.entries, outcome)
        except VerificationError as error:
            answer.findings.append(f"ledger: {error}")
            return None
        except OSError as error:
            raise InputError("the ledger cannot be read", expected="a file", got=path.name) from error
        return self._ledger[1]

    def _annex(
        self, certificate: Certificate, annex: bytes | None, spec: dict[str, Any] | None, answer: Answer
    ) -> None:
        key = self._trust.annex_key
        if key is None:
            answer.missing.append("realised figures (no auditor's key given: --annex-key)")
        elif annex is None:
            answer.findings.append(f"annex: there is no {ANNEX_FILE} for the key to open")
        elif annex_digest(annex) == certificate.sealed_annex.digest:
            try:
                answer.add(verify_realised(certificate, open_annex(annex, key), spec))
            except VerificationError as error:
                answer.findings.append(f"annex: {error}")


def _read(envelope: Path, answer: Answer) -> Statement | None:
    """What an envelope says, though nothing vouches for it: what differs from it is told all the same."""
    try:
        said = read_statement(read_json(envelope))
    except VerificationError as error:
        if not answer.findings:
            answer.findings.append(f"signature: {error}")
        return None
    if said.predicate_type != CERTIFICATE_PREDICATE:
        answer.findings.append(f"signature: {envelope.name} is of {said.predicate_type}")
    return said


@dataclass(frozen=True)
class _Signed:
    """What is signed of a certificate, and whether that counts."""

    statement: Statement | None
    ring: Keyring | None
    moment: datetime | None
    counts: bool


def _model(
    evidence: Evidence, certificate: Certificate, signed: _Signed, folder: Path | None, answer: Answer
) -> tuple[str | None, dict[str, Any] | None]:
    """The digest of a model's files, and what they say of its training if they are the certificate's."""
    signature = evidence.beside.get(MODEL_SIGNATURE_FILE)
    if folder is None:
        if signature is not None:
            answer.missing.append("model.sig was not checked (no --model)")
        return None, None
    subjects = signed.statement.subjects if signed.statement else None
    outcome, digest = verify_model(folder, certificate, subjects)
    answer.add(outcome)
    if signature is None:
        answer.missing.append(
            f"{MODEL_SIGNATURE_FILE}: there is none; the certificate's digests say the same"
        )
    elif signed.ring is None:
        answer.missing.append(f"{MODEL_SIGNATURE_FILE} (no key given: --key)")
    elif signed.moment is not None:  # a certificate without a date is a finding already
        covered = signed.counts and outcome.consistent
        answer.add(verify_model_signature(folder, signature, signed.ring, signed.moment, covered=covered))
    return digest, stated_spec(folder) if digest == certificate.model.digest else None


def _certificate(evidence: Evidence, statement: Statement | None, answer: Answer) -> Certificate:
    """The bare certificate, which has to be the one in the envelope; or that, where there is no bare one."""
    said = statement.predicate if statement is not None else None
    content = read_json(evidence.certificate) if evidence.certificate is not None else said
    canonical_bytes(content)  # what has no canonical form has no digest
    if content is None:
        raise VerificationError("there is no certificate that can be read", remedy="ask for the original")
    if said is not None and canonical_bytes(content) != canonical_bytes(said):
        fields = differing(content, said)
        more = f" and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
        answer.findings.append(
            f"certificate.json differs from what was signed in {', '.join(fields[:_NAMED])}{more}"
        )
    return parse_certificate(content)


def differing(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two pieces of plain data differ.

    Args:
        one: Plain data.
        other: Plain data.
        path: Of both, in what they are part of.

    Returns:
        Dotted paths.

    Example:
        >>> differing({"a": [1, 2], "b": 0}, {"a": [1, 3], "b": 0})
        ['a.1']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = list(dict.fromkeys([*one, *other]))
        return [
            found
            for name in names
            for found in (
                differing(one[name], other[name], f"{path}.{name}".lstrip("."))
                if name in one and name in other
                else [f"{path}.{name}".lstrip(".")]
            )
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, (a, b) in pairs for found in differing(a, b, f"{path}.{index}".lstrip("."))]
    same = (
        isinstance(one, bool) == isinstance(other, bool) and one == other
    )  # 1.0 is 1 in canonical form, true is not
    return [] if same else [path or "everything"]


def _combined(statement: Statement) -> str | None:
    named = statement.subjects
    whole = set(MODEL_FILES) <= set(named) and all(name in MODEL_FILES or is_part(name) for name in named)
    return combined_digest(named) if whole else None


def _date(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None  # a finding already
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
