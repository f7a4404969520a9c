"""Public keys, and the one rule by which a signature of theirs counts.

A keyring that is given is the whole truth. The rule is :func:`standing`: certificates, heads, witnesses, receipts and
model files are all held against it. A key may *end*, after which nothing it signs counts, or be *revoked*: then even
what it dated before counts only if something else proves that it was there, since whoever has the key writes any date.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import Certificate as AuthorityCertificate
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from securesystemslib.signer import Key, SSlibKey

from expunge.errors import InputError, VerificationError
from expunge.evidence.canonical import canonical_bytes, read_json
from expunge.evidence.statements import KEY_PREDICATE, open_statement
from expunge.evidence.time_stamp import stamped_at

KEYRING_TYPE: Final = "https://expunge.dev/public-keys"
KEYRING_FILE: Final = "public-keys.json"
UNDATED_KEY: Final = "validity of the key (a bare public key states none: ask for the keyring)"
_SINCE_2: Final = ("revoked", "endorsement_stamp")  # fields that keyrings of version 1 do not have
Use = Literal["evidence", "model"]


class Revocation(BaseModel):
    """That a private key may be in other hands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: AwareDatetime
    reason: str = Field(min_length=1)


class PublicKey(BaseModel):
    """A public key: what it may sign, and from when until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: str
    use: Use
    public: str  # PEM
    valid_from: AwareDatetime | None  # None: nobody said
    valid_until: AwareDatetime | None = None
    endorsement: dict[str, Any] | None = None  # DSSE envelope by the key before it
    endorsement_stamp: str | None = None  # RFC 3161 over its canonical JSON: DER in base64
    revoked: Revocation | None = None

    @property
    def key(self) -> Key:
        """What verifies signatures.

        Raises:
            VerificationError: If the text is no public key, or has another id.
        """
        key = public_key(self.public)
        if key.keyid != self.keyid:
            raise VerificationError("a key's id is not its own", expected=key.keyid[:16], got=self.keyid[:16])
        return key

    @property
    def ends(self) -> bool:
        """Whether it has an end or was revoked."""
        return self.valid_until is not None or self.revoked is not None

    def fault_at(
        self, dated: datetime, *, stamped: datetime | None = None, covered: bool = False
    ) -> str | None:
        """Why a signature does not count.

        Args:
            dated: When it was made, by what it is on: whoever has the private key writes what they like.
            stamped: When an authority that is trusted saw it.
            covered: Whether a statement that counts, by another key, names the digest of what is signed.

        Returns:
            In words; None if it counts.
        """
        moment, name = stamped or dated, f"key {self.keyid[:16]}"
        since = self.revoked.since if self.revoked else None
        if since is not None and (late := max(moment, dated)) >= since:
            return f"{name} is revoked since {since.isoformat()}, and this is of {late.isoformat()}"
        if self.valid_from is not None and moment < self.valid_from:
            return f"{name} was not valid before {self.valid_from.isoformat()}"
        if self.valid_until is not None and moment > self.valid_until:
            return f"{name} expired at {self.valid_until.isoformat()}"
        if since is not None and stamped is None and not covered:
            return (
                f"{name} is revoked since {since.isoformat()}, and neither a time stamp nor a ledger that another key "
                "signs proves this older: ask for the newest ledger or a new signature"
            )
        return None

    def claim(self) -> dict[str, Any]:
        """What an endorsement is about: not when the key ends, which is known only later.

        Returns:
            Plain data.
        """
        return self.model_dump(mode="json", include={"keyid", "use", "public", "valid_from"})


class Keyring(BaseModel):
    """Public keys, the oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["https://expunge.dev/public-keys"] = KEYRING_TYPE
    version: Literal[1, 2] = 1
    keys: list[PublicKey]
    _endorsed: frozenset[str] = PrivateAttr(frozenset())  # ids of keys that only another one vouches for

    def of(self, use: Use) -> list[PublicKey]:
        """Keys for a use, the oldest first.

        Args:
            use: What for.

        Returns:
            Of any age.
        """
        return [key for key in self.keys if key.use == use]

    def find(self, keyid: str) -> PublicKey | None:
        """A key by its id.

        Args:
            keyid: In full.

        Returns:
            The key, if it is here.
        """
        return next((key for key in self.keys if key.keyid == keyid), None)

    def only_endorsed(self, keyid: str) -> bool:
        """Whether a key is trusted only because another one vouches for it.

        Args:
            keyid: In full.

        Returns:
            Of such a key nobody signs when it ends.
        """
        return keyid in self._endorsed

    def with_endorsed(self, others: "Keyring", authorities: Sequence[AuthorityCertificate] = ()) -> "Keyring":
        """This keyring, and those of another's keys that it vouches for, directly or through others.

        Only who asks for it gets it: a key that was stolen endorses whatever its thief likes, and dates it at will.
        So what a key endorsed that has an end here counts only if a time stamp proves it older than that end.

        Args:
            others: Whose keys are trusted only if they are endorsed.
            authorities: Roots of time-stamping authorities that are trusted.

        Returns:
            The larger keyring.
        """
        keys = list(self.keys)
        for candidate in others.keys:
            known = any(key.keyid == candidate.keyid for key in keys)
            if not known and self._vouches(candidate, keys, authorities):
                keys.append(candidate)
        ring = self.model_copy(update={"keys": keys})
        ring._endorsed = self._endorsed | {key.keyid for key in keys[len(self.keys) :]}
        return ring

    def _vouches(
        self, candidate: PublicKey, keys: Sequence[PublicKey], authorities: Sequence[AuthorityCertificate]
    ) -> bool:
        of_same_use = [key for key in keys if key.use == candidate.use]
        if candidate.endorsement is None or candidate.valid_from is None:
            return False
        try:
            said = open_statement(candidate.endorsement, [key.key for key in of_same_use], KEY_PREDICATE)
            stamped = _stamped(candidate, authorities)
        except VerificationError:
            return False
        endorser = next(key for key in of_same_use if key.keyid in said.keyids)
        # An end that only the other keyring states stops nobody: a thief leaves it out.
        ended = self.find(endorser.keyid) is not None and endorser.ends
        if said.predicate != candidate.claim() or (ended and stamped is None):
            return False
        return endorser.fault_at(candidate.valid_from, stamped=stamped) is None

    def before_revocations(self) -> "Keyring":
        """This keyring as if no key had been revoked.

        Returns:
            For the operator, who looks at what was signed before signing it anew.
        """
        return self.model_copy(
            update={"keys": [key.model_copy(update={"revoked": None}) for key in self.keys]}
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, of version 1 where version 1 can say it: verifiers of earlier releases read that.

        Returns:
            ``{type, version, keys}``.
        """
        keys = [key.model_dump(mode="json") for key in self.keys]
        later = any(key[name] is not None for key in keys for name in _SINCE_2)
        bare = [{n: v for n, v in key.items() if n not in _SINCE_2 or v is not None} for key in keys]
        return {"type": self.type, "version": 2 if later else 1, "keys": bare}


def _stamped(candidate: PublicKey, authorities: Sequence[AuthorityCertificate]) -> datetime | None:
    if candidate.endorsement_stamp is None or not authorities:
        return None
    try:
        stamp = base64.b64decode(candidate.endorsement_stamp, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerificationError("a stamp is not base64", got=candidate.keyid[:16]) from error
    return stamped_at(stamp, canonical_bytes(candidate.endorsement), list(authorities))


@dataclass(frozen=True)
class Standing:
    """Whether what was signed counts.

    Args:
        fault: Why it does not, in words; None if it does.
        missing: What of that could not be checked, in words.
    """

    fault: str | None
    missing: tuple[str, ...] = ()


def standing(
    ring: Keyring,
    keyids: Sequence[str],
    dated: datetime,
    *,
    stamped: datetime | None = None,
    covered: bool = False,
) -> Standing:
    """Whether a signature counts, by any of the keys that made it. Everything that is signed is held against this.

    Args:
        ring: That is trusted.
        keyids: Of keys whose signatures match.
        dated: When they signed, by what they signed.
        stamped: When an authority that is trusted saw it.
        covered: Whether a statement that counts, by another key, names the digest of what is signed.

    Returns:
        The answer.
    """
    keys = [key for keyid in keyids if (key := ring.find(keyid)) is not None]
    faults = {key.keyid: key.fault_at(dated, stamped=stamped, covered=covered) for key in keys}
    good = [key for key in keys if faults[key.keyid] is None]
    if not good:
        return Standing("; ".join(filter(None, faults.values())) or "no key that is trusted")
    named, missing = good[0].keyid[:16], []
    if all(key.valid_from is None for key in good):
        missing.append(UNDATED_KEY)
    if all(ring.only_endorsed(key.keyid) for key in good):
        # The end would stand in the keyring that nobody vouches for.
        missing.append(
            f"end of key {named}, which another key vouches for: nobody signs when a key ends "
            "(ask for the newest keyring)"
        )
    if stamped is None and all(key.revoked is not None for key in good):
        missing.append(
            f"date of the signature by key {named}, which is revoked: another key's vouches for the rest"
        )
    return Standing(None, tuple(missing))


def load_keyring(path: Path) -> Keyring:
    """Read what is trusted: a keyring, or one public key as PEM, whose validity nobody states.

    Args:
        path: The file.

    Returns:
        The keyring.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("-----BEGIN"):
            elliptic = isinstance(load_pem_public_key(text.encode()), EllipticCurvePublicKey)
            alone = {"keyid": public_key(text).keyid, "use": "model" if elliptic else "evidence"}
            content: Any = {"keys": [{**alone, "public": text, "valid_from": None}]}
        else:
            content = read_json(path)
        keyring = Keyring.model_validate(content)
        if len({one.key.keyid for one in keyring.keys}) < len(keyring.keys):
            raise ValueError("a key is named twice: which of its ends holds?")
        return keyring
    except (OSError, ValueError, ValidationError, VerificationError, InputError) as error:
        raise InputError(
            "the public key cannot be read",
            expected="a keyring of `expunge keys export-public`, or a public key as PEM",
            got=f"{path.name}: {' '.join(str(error).split())[:200]}",
            remedy="ask the operator for it, on another way than the evidence itself",
        ) from error


def public_key(text: str) -> Key:
    """A public key from its text.

    Args:
        text: PEM.

    Returns:
        What verifies signatures.

    Raises:
        InputError: If it is none.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(text.encode()))
    except (ValueError, TypeError) as error:
        raise InputError("not a public key", expected="a PEM text", got=str(error)[:100]) from error
