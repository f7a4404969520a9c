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
    checked: tuple[str, ...] = ()

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
