"""Keys that sign evidence: made, rotated with an overlap, revoked, and told apart by what they are for.

Private keys are named by a URI: ``file2:NAME`` beside the keyring, ``env:VARIABLE`` with a PEM text, or any that
securesystemslib knows (``awskms:``, ``azurekms:``, ``gcpkms:``, ``hsm:`` for PKCS#11, ``hv:``). The keyring holds
public keys only; what they vouch for: :mod:`expunge.evidence.keyring`.
"""

import base64
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer

from expunge.errors import ExpungeError, InputError, WorkspaceError
from expunge.evidence.canonical import canonical_bytes
from expunge.evidence.keyring import (
    KEYRING_FILE,
    Keyring,
    PublicKey,
    Revocation,
    Use,
    load_keyring,
    public_key,
)
from expunge.evidence.statements import KEY_PREDICATE, sign_statement
from expunge.evidence.time_stamp import claimed_moment
from expunge.files import write_json

_SIGNERS_FILE: Final = "signers.json"


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
        stamp: Callable[[bytes], bytes] | None = None,
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
            stamp: Has bytes stamped by an authority; what the old key vouches for counts after its end only if it was.

        Returns:
            The new key.

        Raises:
            InputError: If the new key is in the keyring already.
            WorkspaceError: If the old private key cannot be used.
            ServiceUnavailableError: If the authority gives no stamp.
        """
        keyring, uris = self.keyring(), self._uris()
        old = keyring.of(use)[-1]
        signer = None if lost else self._signer(old)
        new, pair = self._take(use, now.replace(microsecond=0), uri, public)
        ends = now + overlap
        try:
            if keyring.find(new.keyid) is not None:
                raise InputError(
                    "this key is in the keyring already", expected="another key", got=new.keyid[:16]
                )
            if signer is not None:
                said = sign_statement(signer, KEY_PREDICATE, {"public key": new.keyid}, new.claim())
                new = new.model_copy(update={"endorsement": said})
                if stamp is not None:
                    answer = stamp(canonical_bytes(said))
                    # An end before the authority's clock would undo the stamp that was made for it.
                    ends = max(ends, claimed_moment(answer))
                    text = base64.b64encode(answer).decode()
                    new = new.model_copy(update={"endorsement_stamp": text})
        except ExpungeError:
            if uri is None:
                (self._folder / pair[1].partition(":")[2]).unlink()
            raise
        ends = min(ends, old.valid_until) if old.valid_until else ends
        keys = [key.model_copy(update={"valid_until": ends}) if key is old else key for key in keyring.keys]
        self._write([*keys, new], {**uris, **dict([pair])})
        return new

    def revoke(self, keyid: str, since: datetime, reason: str, now: datetime) -> PublicKey:
        """Say that a private key may be in other hands; saying it again changes nothing.

        Args:
            keyid: Of a key that does not sign any more; its beginning will do.
            since: From when on nothing that it signed counts; what it dated before does only if it is proved older.
            reason: For auditors, in words.
            now: When.

        Returns:
            The revoked key.

        Raises:
            InputError: If there is no such key, it signs now, or it is revoked since an earlier moment.
        """
        keyring = self.keyring()
        named = [key for key in keyring.keys if keyid and key.keyid.startswith(keyid)]
        if len(named) != 1:
            raise InputError(
                "no such key" if not named else "more than one key begins like this",
                expected="a key's id, or its beginning",
                got=keyid,
                remedy="see `expunge keys list`",
            )
        (key,) = named
        if key is keyring.of(key.use)[-1]:
            raise InputError(
                "this key signs now",
                expected="one that another has replaced",
                got=key.keyid[:16],
                remedy=f"run `expunge keys rotate --use {key.use} --overlap-days 0` first",
            )
        if since > now:
            raise InputError(
                "a revocation that begins in the future", expected="a moment that is past", got=str(since)
            )
        if key.revoked is not None and key.revoked.since <= since:
            if key.revoked.since == since:
                return key
            raise InputError(
                "the key is revoked since an earlier moment",
                expected=f"{key.revoked.since.isoformat()} or before: a revocation is not taken back",
                got=since.isoformat(),
            )
        gone = PublicKey.model_validate(
            {**key.model_dump(), "revoked": Revocation(since=since, reason=reason).model_dump()}
        )
        self._write([gone if one is key else one for one in keyring.keys], self._uris())
        return gone

    def signer(self, use: Use = "evidence") -> Signer:
        """What signs now.

        Args:
            use: What for.

        Returns:
            The newest key's signer.

        Raises:
            WorkspaceError: If the private key is not where it should be, or its time is over.
        """
        return self._signer(self._newest(use))

    def model_key(self) -> tuple[PublicKey, bytes]:
        """The private key for model files, which the model-signing library wants as a file.

        Returns:
            The public key, and the private one as PEM.

        Raises:
            WorkspaceError: If the private key is not where it should be, or its time is over.
        """
        key = self._newest("model")
        return key, _pem(self._uris()[key.keyid], self._folder)

    def _newest(self, use: Use) -> PublicKey:
        key = self.keyring().of(use)[-1]
        now = datetime.now(UTC)
        if (fault := key.fault_at(now)) is not None:
            early = key.valid_from is not None and now < key.valid_from
            raise WorkspaceError(
                "the signing key is not valid yet: this machine's clock is behind"
                if early
                else "the signing key is not valid",
                expected=f"a time after {key.valid_from}" if early else "",
                got=now.isoformat(timespec="seconds") if early else fault,
                remedy="set the clock, or wait until then; another key would not help"
                if early
                else "run `expunge keys rotate`, if this machine's clock is right",
            )
        return key

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
        key = public_key(text)
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
        write_json(self._folder / KEYRING_FILE, keyring.to_json(), 0o600)
        return keyring


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
