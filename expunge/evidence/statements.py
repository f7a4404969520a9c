"""Signed statements: an in-toto statement in a DSSE envelope, by whatever key a signer holds.

A statement ties a *predicate* (a certificate, a ledger's head, a receipt, a key) to *subjects* known by their digests.
Formats: in-toto attestation framework, statement v1; DSSE v1 (``PAE(type, body)`` is what is signed).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import STATEMENT_TYPE_URI
from in_toto_attestation.v1.statement import Statement as InTotoStatement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer

from expunge.errors import VerificationError
from expunge.evidence.canonical import canonical_bytes, parse_json

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
CERTIFICATE_PREDICATE: Final = "https://expunge.dev/certificate/v1"
HEAD_PREDICATE: Final = "https://expunge.dev/ledger-head/v1"
RECEIPT_PREDICATE: Final = "https://expunge.dev/receipt/v1"
KEY_PREDICATE: Final = "https://expunge.dev/public-key/v1"


@dataclass(frozen=True)
class Statement:
    """What an envelope says.

    Args:
        predicate_type: URI of the predicate's type and version.
        subjects: SHA-256 in hexadecimal by name.
        predicate: Plain data.
        keyids: Of the keys whose signatures hold; empty where none was checked.
    """

    predicate_type: str
    subjects: Mapping[str, str]
    predicate: dict[str, Any]
    keyids: tuple[str, ...] = ()


def sign_statement(
    signer: Signer, predicate_type: str, subjects: Mapping[str, str], predicate: Mapping[str, Any]
) -> dict[str, Any]:
    """Sign a statement.

    Args:
        signer: Of the library securesystemslib: a file, a KMS, a PKCS#11 token.
        predicate_type: URI of the predicate's type and version.
        subjects: SHA-256 in hexadecimal by name; at least one.
        predicate: Plain data; its canonical JSON is what is signed.

    Returns:
        A DSSE envelope as plain data.

    Raises:
        VerificationError: If the statement is no valid in-toto statement, or has no canonical form.
    """
    content = {
        "_type": STATEMENT_TYPE_URI,
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    payload = canonical_bytes(content)
    _parse(payload)
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    made: dict[str, Any] = envelope.to_dict()
    return made


def read_statement(envelope: Any) -> Statement:
    """What an envelope says, whoever signed it: nothing of it is verified.

    Args:
        envelope: As plain data.

    Returns:
        The statement, without keys.

    Raises:
        VerificationError: If it is no envelope with an in-toto statement.
    """
    return _parse(_envelope(envelope).payload)


def open_statement(envelope: Any, keys: Sequence[Key], predicate_type: str) -> Statement:
    """Verify an envelope and read what it says.

    Args:
        envelope: As plain data.
        keys: That are trusted.
        predicate_type: That is expected.

    Returns:
        The statement, with the keys whose signatures hold.

    Raises:
        VerificationError: If no trusted key signed it, a trusted key's signature is wrong, or it is of another type.
    """
    opened = _envelope(envelope)
    trusted = {key.keyid: key for key in keys}
    good = []
    for keyid, signature in opened.signatures.items():
        if keyid not in trusted:
            continue
        try:
            trusted[keyid].verify_signature(signature, opened.pae())
        except UnverifiedSignatureError as error:
            raise VerificationError(
                "a signature does not match what it is on",
                expected="content as it was signed",
                got=f"key {keyid[:16]}: wrong signature",
                remedy="ask for the original",
            ) from error
        good.append(keyid)
    if not good:
        named = ", ".join(keyid[:16] for keyid in opened.signatures) or "none"
        raise VerificationError(
            "no signature by a trusted key",
            expected=f"one by {', '.join(keyid[:16] for keyid in trusted) or 'a key that was given'}",
            got=f"signatures by {named}",
            remedy="check the key, or ask for the current keyring",
        )
    said = _parse(opened.payload)
    if said.predicate_type != predicate_type:
        raise VerificationError(
            "the signed statement is of another type", expected=predicate_type, got=said.predicate_type
        )
    return Statement(said.predicate_type, said.subjects, said.predicate, tuple(good))


def _envelope(content: Any) -> Envelope:
    try:
        envelope = Envelope.from_dict(copy.deepcopy(content))  # which changes what it is given
        if envelope.payload_type != PAYLOAD_TYPE:
            raise ValueError(f"payload of type {envelope.payload_type}")
        bare = all(
            one.keys() == {"keyid", "sig"} and all(isinstance(value, str) for value in one.values())
            for one in content["signatures"]
        )
        if envelope.to_dict() != content or not bare:
            raise ValueError("other fields, or another encoding, than an envelope has")
        return envelope
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            "not a DSSE envelope with an in-toto statement",
            got=" ".join(str(error).split())[:200],
            remedy="ask for the original",
        ) from error


def _parse(payload: bytes) -> Statement:
    try:
        content = parse_json(payload, "the payload")
        if canonical_bytes(content) != payload:
            raise ValueError("the statement is not canonical JSON")
        if set(content) != {"_type", "subject", "predicateType", "predicate"}:
            raise ValueError("other fields than a statement has")
        subjects = {one["name"]: one["digest"]["sha256"] for one in content["subject"]}
        if len(subjects) != len(content["subject"]):
            raise ValueError("two subjects of one name")
        descriptors = [ResourceDescriptor(name=n, digest={"sha256": d}).pb for n, d in subjects.items()]
        statement = InTotoStatement(descriptors, content["predicateType"], content["predicate"])
        statement.pb.type = content["_type"]
        statement.validate()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            "not an in-toto statement", got=" ".join(str(error).split())[:200], remedy="ask for the original"
        ) from error
    return Statement(content["predicateType"], subjects, content["predicate"])
