"""What a verification answers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Voucher = Literal["nobody", "own keys", "given keys"]
_ORDER: tuple[Voucher, ...] = ("nobody", "own keys", "given keys")


@dataclass(frozen=True)
class VerificationResult:
    """Outcome of a verification.

    Args:
        findings: What does not hold, in words.
        missing: What could not be checked, in words.
        checked: What was recomputed and holds.
        vouched: Whose keys the signature was checked with; ``own keys`` are those that the workspace itself keeps:
            the operator's own word. Without any, anybody can have written what is consistent.
    """

    findings: tuple[str, ...]
    missing: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    vouched: Voucher = "nobody"

    @property
    def consistent(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    @property
    def verified(self) -> bool:
        """Whether nothing was found wrong, and a signature by a trusted key says whose it is."""
        return self.consistent and self.vouched != "nobody"

    @property
    def verdict(self) -> str:
        """The answer in words."""
        if not self.consistent:
            return "DOES NOT HOLD"
        return {
            "nobody": "CONSISTENT, SIGNATURE NOT CHECKED",
            "own keys": "VERIFIED with this workspace's own keys",
            "given keys": "VERIFIED",
        }[self.vouched]

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            ``{verified, consistent, signature_checked, own_keys, findings, missing, checked}``.
        """
        return {
            "verified": self.verified,
            "consistent": self.consistent,
            "signature_checked": self.vouched != "nobody",
            "own_keys": self.vouched == "own keys",
            "findings": list(self.findings),
            "missing": list(self.missing),
            "checked": list(self.checked),
        }


def least(vouchers: Iterable[Voucher]) -> Voucher:
    """Who vouches for all of several.

    Args:
        vouchers: Of each.

    Returns:
        The weakest of them.

    Example:
        >>> least(["given keys", "own keys"])
        'own keys'
    """
    given = list(vouchers)
    return min(given, key=_ORDER.index) if given else "nobody"


@dataclass
class Answer:
    """An outcome in the making.

    Args:
        findings: What does not hold, in words.
        missing: What could not be checked, in words.
        checked: What was recomputed and holds.
    """

    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def add(self, outcome: VerificationResult) -> None:
        """Take another outcome in.

        Args:
            outcome: Of a part.
        """
        self.findings += outcome.findings
        self.missing += outcome.missing
        self.checked += outcome.checked

    def result(self) -> VerificationResult:
        """The outcome as it stands.

        Returns:
            What does not hold, what is missing, what holds.
        """
        return VerificationResult(tuple(self.findings), tuple(self.missing), tuple(self.checked))
