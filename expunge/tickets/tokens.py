"""Access tokens of the HTTP intake: made once, kept as digests, revoked by id."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, mapped_column

from expunge.database import Base, Database, UtcTime, plain
from expunge.errors import InputError

_PREFIX = "expunge"
_SECRET_BYTES = 32
_LONGEST_NAME = 100
# Compared with when there is no such token, so that an unknown id takes the same path as a wrong secret.
_NOBODY = "0" * 64


class Role(StrEnum):
    """What a token may do."""

    INTAKE = "intake"
    OFFICER = "officer"
    AUDITOR = "auditor"


class TokenRow(Base):
    """One access token; the token itself is nowhere."""

    __tablename__ = "access_tokens"

    token_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(_LONGEST_NAME))
    last_four: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)


@dataclass(frozen=True)
class Token:
    """A token as anyone may see it.

    Args:
        token_id: ``a-`` and 12 hexadecimal digits.
        role: What it may do.
        name: Who uses it.
        last_four: Its last characters, to recognise it by.
        created_at: UTC.
        revoked_at: UTC, once it is revoked.
    """

    token_id: str
    role: Role
    name: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict, times in ISO 8601.
        """
        return plain(self)


class TokenStore:
    """All access tokens of a workspace.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def create(self, role: str, name: str) -> tuple[Token, str]:
        """Make a token.

        Args:
            role: intake, officer or auditor.
            name: Who will use it; at most 100 characters.

        Returns:
            Its record, and the token itself: it cannot be had again.

        Raises:
            InputError: If the role is unknown or the name cannot be kept.
        """
        if role not in list(Role):
            raise InputError("unknown role", expected=" or ".join(Role), got=role, remedy="correct --role")
        name = name.strip()
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise InputError(
                "this cannot be a token's name",
                expected=f"1 to {_LONGEST_NAME} printable characters",
                got=f"{len(name)} characters",
                remedy="correct --name",
            )
        token_id = f"a-{secrets.token_hex(6)}"
        token = f"{_PREFIX}_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        row = TokenRow(
            token_id=token_id,
            digest=_digest(token),
            role=role,
            name=name,
            last_four=token[-4:],
            created_at=datetime.now(UTC),
        )
        with self._database.transaction() as session:
            session.add(row)
            return _token(row), token

    def every(self) -> list[Token]:
        """All tokens, oldest first, revoked ones too.

        Returns:
            Tokens.
        """
        with self._database.transaction() as session:
            query = select(TokenRow).order_by(TokenRow.created_at, TokenRow.token_id)
            return [_token(row) for row in session.scalars(query)]

    def revoke(self, token_id: str) -> Token:
        """Revoke a token, from the next request on; doing it twice changes nothing.

        Args:
            token_id: Its id.

        Returns:
            The token.

        Raises:
            InputError: If there is none.
        """
        with self._database.transaction() as session:
            # An id that PostgreSQL could not even look up is unknown too.
            row = None if "\x00" in token_id else session.get(TokenRow, token_id)
            if row is None:
                raise InputError(
                    "no such token",
                    expected="a token id such as a-0123456789ab",
                    remedy="see `expunge token list`",
                )
            row.revoked_at = row.revoked_at or datetime.now(UTC)
            return _token(row)

    def authenticate(self, presented: str) -> Token | None:
        """Whose token this is.

        Args:
            presented: What a caller sent, any text.

        Returns:
            The token, or None if it is unknown, wrong or revoked.
        """
        prefix, _, rest = presented.partition("_")
        token_id = rest.partition("_")[0]
        if prefix != _PREFIX or not presented.isascii() or "\x00" in presented:
            return None
        with self._database.transaction() as session:
            row = session.get(TokenRow, token_id)
            same = hmac.compare_digest(_digest(presented), row.digest if row else _NOBODY)
            return _token(row) if row is not None and same and row.revoked_at is None else None


def _digest(token: str) -> str:
    # SHA-256 without salt or stretching is right here: those slow down guessing a password, but a token has 256 bits
    # from the operating system, which nobody guesses at any speed. Comparison takes the same time wherever two
    # digests differ, so that answers' times do not spell one out.
    return hashlib.sha256(token.encode()).hexdigest()


def _token(row: TokenRow) -> Token:
    return Token(
        token_id=row.token_id,
        role=Role(row.role),
        name=row.name,
        last_four=row.last_four,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
