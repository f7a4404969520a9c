"""What a verification answers."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VerificationResult:
    """Outcome of a verification.

    Args:
        findings: What does not hold, in words.
        missing: What could not be checked, in words.
        checked: What was recomputed and holds.
    """

    findings: tuple[str, ...]
    missing: tuple[str, ...] = ()
    checked: tuple[str, ...] = field(default_factory=tuple)

    @property
    def verified(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            ``{verified, findings, missing, checked}``.
        """
        return {
            "verified": self.verified,
            "findings": list(self.findings),
            "missing": list(self.missing),
            "checked": list(self.checked),
        }
