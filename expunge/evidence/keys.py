"""Keys that sign evidence: made, rotated with an overlap, and told apart by what they are for.

Private keys are named by a URI: ``file2:NAME`` beside the keyring, ``env:VARIABLE`` with a PEM text, or any that
securesystemslib knows (``awskms:``, ``azurekms:``, ``gcpkms:``, ``hsm:`` for PKCS#11, ``hv:``). The keyring holds
public keys only. A new key is *endorsed* by the one before it, so that whoever trusts the
old one can trust the new one.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from expunge.errors import InputError, VerificationError, WorkspaceError
from expunge.evidence.canonical import read_json
from expunge.evidence.statements import KEY_PREDICATE, open_statement, sign_statement
from expunge.files import write_json

KEYRING_TYPE: Final = "https://expunge.dev/public-keys"
KEYRING_FILE, _SIGNERS_FILE = "public-keys.json", "signers.json"
Use = Literal["evidence", "model"]


class PublicKey(BaseModel):
    """A public key: what it may sign, and from when until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keyid: str
    use: Use
    public: str  # PEM
    valid_from: AwareDatetime | None  # None: nobody said
    valid_until: AwareDatetime | None = None
    endorsement: dict[str, Any] | None = None  # DSSE envelope by the key before it

    @property
    def key(self) -> Key:
        """What verifies signatures.

        Raises:
            VerificationError: If the text is no public key, or has another id.
        """
        key = _public(self.public)
        if key.keyid != self.keyid:
            raise VerificationError("a key's id is not its own", expected=key.keyid[:16], got=self.keyid[:16])
        return key

    def fault_at(self, moment: datetime) -> str | None:
        """Why a signature of a moment does not count.

        Args:
            moment: When it was made.

        Returns:
            In words; None if the key was valid.
        """
        if self.valid_from is not None and moment < self.valid_from:
            return f"key {self.keyid[:16]} was not valid before {self.valid_from.isoformat()}"
        if self.valid_until is not None and moment > self.valid_until:
            return f"key {self.keyid[:16]} expired at {self.valid_until.isoformat()}"
        return None

    def claim(self) -> dict[str, Any]:
        """What an endorsement is about: everything but when the key ends, which is known only later.

        Returns:
            Plain data.
        """
        return self.model_dump(mode="json", exclude={"endorsement", "valid_until"})


class Keyring(BaseModel):
    """Public keys, the oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["https://expunge.dev/public-keys"] = KEYRING_TYPE
    version: Literal[1] = 1
    keys: list[PublicKey]

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

    def with_endorsed(self, others: "Keyring") -> "Keyring":
        """This keyring, and those of another's keys that it vouches for, directly or through others.

        Args:
            others: Whose keys are trusted only if they are endorsed.

        Returns:
            The larger keyring.
        """
        keys = list(self.keys)
        for candidate in others.keys:
            if self.find(candidate.keyid) is None and _endorsed(candidate, keys):
                keys.append(candidate)
        return self.model_copy(update={"keys": keys})


def _endorsed(candidate: PublicKey, keys: Sequence[PublicKey]) -> bool:
    of_same_use = [key for key in keys if key.use == candidate.use]
    if candidate.endorsement is None or candidate.valid_from is None:
        return False
    try:
        said = open_statement(candidate.endorsement, [key.key for key in of_same_use], KEY_PREDICATE)
    except VerificationError:
        return False
    endorser = next(key for key in of_same_use if key.keyid in said.keyids)
    return said.predicate == candidate.claim() and endorser.fault_at(candidate.valid_from) is None


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
            alone = {"keyid": _public(text).keyid, "use": "model" if elliptic else "evidence"}
            content: Any = {"keys": [{**alone, "public": text, "valid_from": None}]}
        else:
            content = read_json(path)
        keyring = Keyring.model_validate(content)
        for one in keyring.keys:
            _ = one.key
        return keyring
    except (OSError, ValueError, ValidationError, VerificationError) as error:
        raise InputError(
            "the public key cannot be read",
            expected="a keyring of `expunge keys export-public`, or a public key as PEM",
            got=f"{path.name}: {' '.join(str(error).split())[:200]}",
            remedy="ask the operator for it, on another way than the evidence itself",
        ) from error


class SigningKeys:
    """The signing keys of a workspace.

    Args:
        folder: Holds the keyring, and private keys that are files.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the folder."""
        self._folder = folder

    @property
    def exist(self) -> bool:
        """Whether there is a keyring."""
        return (self._folder / KEYRING_FILE).exists()

    def keyring(self) -> Keyring:
        """The public keys.

        Raises:
            WorkspaceError: If none was made.
        """
        if not self.exist:
            raise WorkspaceError(
                "this workspace has no signing keys",
                expected=f".expunge/keys/{KEYRING_FILE}",
                remedy="make them: `expunge keys init`",
            )
        return load_keyring(self._folder / KEYRING_FILE)

    def create(
        self, now: datetime, uris: dict[Use, str] | None = None, publics: dict[Use, str] | None = None
    ) -> Keyring:
        """Make an Ed25519 key for evidence and a P-256 key for model files, unless there is a keyring.

        Args:
            now: From when they are valid.
            uris: Of private keys that lie elsewhere, by use; others are made as files.
            publics: Their public halves as PEM; not needed where the private one can be read here.

        Returns:
            The keyring.
        """
        if self.exist:
            return self.keyring()
        now = now.replace(microsecond=0)  # certificates are dated by the second
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = [
            self._take(use, now, (uris or {}).get(use), (publics or {}).get(use))
            for use in ("evidence", "model")
        ]
        return self._write([one for one, _ in made], dict(pair for _, pair in made))

    def rotate(
        self,
        use: Use,
        now: datetime,
        overlap: timedelta,
        uri: str | None = None,
        public: str | None = None,
        *,
        lost: bool = False,
    ) -> PublicKey:
        """Let a new key sign from now on; what the old one signs counts for a while.

        Args:
            use: Of the key.
            now: From when the new one is valid.
            overlap: How long the old one stays valid; zero where it may be in somebody's hands.
            uri: Of a private key that lies elsewhere.
            public: Its public half as PEM.
            lost: The old private key cannot be used any more: nobody vouches for the new one, and auditors have to be
                given the new keyring.

        Returns:
            The new key.
        """
        keyring, uris = self.keyring(), self._uris()
        old = keyring.of(use)[-1]
        new, pair = self._take(use, now.replace(microsecond=0), uri, public)
        if keyring.find(new.keyid) is not None:
            raise InputError("this key is in the keyring already", expected="another key", got=new.keyid[:16])
        if not lost:
            signer, subject = self._signer(old), {"public key": new.keyid}
            endorsement = sign_statement(signer, KEY_PREDICATE, subject, new.claim())
            new = new.model_copy(update={"endorsement": endorsement})
        ends = min(now + overlap, old.valid_until) if old.valid_until else now + overlap
        keys = [key.model_copy(update={"valid_until": ends}) if key is old else key for key in keyring.keys]
        self._write([*keys, new], {**uris, **dict([pair])})
        return new

    def signer(self, use: Use = "evidence") -> Signer:
        """What signs now.

        Args:
            use: What for.

        Returns:
            The newest key's signer.

        Raises:
            WorkspaceError: If the private key is not where it should be, or its time is over.
        """
        key = self.keyring().of(use)[-1]
        if (fault := key.fault_at(datetime.now(UTC))) is not None:
            raise WorkspaceError(
                "the signing key is not valid", got=fault, remedy="run `expunge keys rotate`"
            )
        return self._signer(key)

    def model_key(self) -> tuple[PublicKey, bytes]:
        """The private key for model files, which the model-signing library wants as a file.

        Returns:
            The public key, and the private one as PEM.
        """
        key = self.keyring().of("model")[-1]
        return key, _pem(self._uris()[key.keyid], self._folder)

    def _signer(self, key: PublicKey) -> Signer:
        uri = self._uris().get(key.keyid, "")
        try:
            if uri.startswith(("file2:", "env:")):
                private = load_pem_private_key(_pem(uri, self._folder), None)
                return CryptoSigner(private, key.key)  # type: ignore[arg-type]
            return Signer.from_priv_key_uri(uri, key.key)
        except WorkspaceError:
            raise
        except Exception as error:  # of whatever service holds it
            raise WorkspaceError(
                "the private signing key cannot be used",
                expected=f"key {key.keyid[:16]} at {uri.split(':')[0]}:",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                remedy="restore it, or run `expunge keys rotate --lost`",
            ) from error

    def _take(
        self, use: Use, now: datetime, uri: str | None, public: str | None
    ) -> tuple[PublicKey, tuple[str, str]]:
        """A key that is made here, or one that lies elsewhere."""
        if uri is None:
            signer = CryptoSigner.generate_ed25519() if use == "evidence" else CryptoSigner.generate_ecdsa()
            name = f"signing-{use}-{signer.public_key.keyid[:16]}.key"
            file = self._folder / name
            file.touch(mode=0o600)
            file.write_bytes(signer.private_bytes)
            uri = f"file2:{name}"
        text = public if public is not None else _pem_of(_pem(uri, self._folder))
        key = _public(text)
        return PublicKey(keyid=key.keyid, use=use, public=text, valid_from=now), (key.keyid, uri)

    def _uris(self) -> dict[str, str]:
        path = self._folder / _SIGNERS_FILE
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def _write(self, keys: list[PublicKey], uris: dict[str, str]) -> Keyring:
        keyring = Keyring(keys=keys)
        write_json(
            self._folder / _SIGNERS_FILE, uris, 0o600
        )  # first: a keyring names no key that nobody finds
        write_json(self._folder / KEYRING_FILE, keyring.model_dump(mode="json"), 0o600)
        return keyring


def _public(text: str) -> Key:
    try:
        return SSlibKey.from_crypto(load_pem_public_key(text.encode()))
    except (ValueError, TypeError) as error:
        raise InputError("not a public key", expected="a PEM text", got=str(error)[:100]) from error


def _pem(uri: str, folder: Path) -> bytes:
    scheme, _, rest = uri.partition(":")
    if scheme == "env":
        if (text := os.environ.get(rest)) is None:
            raise WorkspaceError("a private key is missing", expected=f"a PEM text in {rest}", got="nothing")
        return text.encode()
    if scheme != "file2":
        raise InputError(
            "a private key elsewhere needs its public half", expected="--public FILE", got=f"{scheme}:"
        )
    try:
        return (folder / rest).read_bytes()
    except OSError as error:
        raise WorkspaceError(
            "a private key is missing",
            expected=f".expunge/keys/{Path(rest).name}",
            remedy="restore it, or run `expunge keys rotate --lost`",
        ) from error


def _pem_of(private: bytes) -> str:
    public = load_pem_private_key(private, None).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
