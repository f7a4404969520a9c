"""The sequential account of a model lineage since its last exact training.

Published state (certificates build on released weights only): a later release is post-processing of an earlier one for
the earlier one's records, so each release keeps its own m. Several draws that saw the same records compose as
Gaussian DP: ``m = sqrt(sum m_k^2)`` (Dong, Roth and Su 2022, Corollary 3.3). All figures are in public units
(policy's error bound), never in realised ones, so that a limit reveals nothing about the forget set.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from expunge.errors import BudgetExceededError, InputError
from expunge.privacy.gaussian import gaussian_epsilon


def compose_m(ms: Iterable[float]) -> float:
    """Gaussian-DP parameter of several releases that each saw the same records.

    Formula: ``sqrt(sum m_k^2)``.

    Args:
        ms: Parameters of the single draws, each at least 0.

    Returns:
        The composed parameter.

    Example:
        >>> compose_m([0.3, 0.4])
        0.5
    """
    return math.sqrt(math.fsum(m * m for m in ms))


@dataclass(frozen=True)
class LedgerLimits:
    """Policy limits of a lineage: what may be spent before the model is retrained exactly.

    Args:
        accumulated_error: Largest sum of error bounds, in weight units.
        composed_epsilon: Largest epsilon of one batch's composed draws.
        releases: Largest number of releases.
    """

    accumulated_error: float
    composed_epsilon: float
    releases: int


@dataclass(frozen=True)
class SequentialAccount:
    """Where a lineage stands.

    Args:
        step: Releases since the last exact training.
        accumulated_error: Sum of their error bounds: a budget figure, not a distance.
        uniform_error: Largest single error bound: what holds for every release.
    """

    step: int = 0
    accumulated_error: float = 0.0
    uniform_error: float = 0.0

    def after_release(self, error_bound: float) -> "SequentialAccount":
        """The account with one more release of this error bound.

        Args:
            error_bound: The policy's bound of the release, in weight units.

        Returns:
            A new account.

        Raises:
            InputError: If the bound is negative or not a number: a budget never grows back.

        Example:
            >>> SequentialAccount().after_release(1e-5).after_release(1e-5).accumulated_error
            2e-05
        """
        if not error_bound >= 0:
            raise InputError("invalid error bound", expected="a number >= 0", got=repr(error_bound))
        return SequentialAccount(
            self.step + 1, self.accumulated_error + error_bound, max(self.uniform_error, error_bound)
        )

    def check(self, limits: LedgerLimits) -> None:
        """Refuse an account that is past its limits.

        Args:
            limits: The policy's limits.

        Raises:
            BudgetExceededError: If the sum or the number of releases is above its limit.
        """
        if self.step > limits.releases:
            raise BudgetExceededError(
                "the lineage's releases are spent",
                expected=f"at most {limits.releases}",
                got=str(self.step),
                remedy="retrain exactly: the ledger then starts anew",
            )
        if not self.accumulated_error <= limits.accumulated_error:
            raise BudgetExceededError(
                "the lineage's sequential error budget is spent",
                expected=f"at most {limits.accumulated_error:.6g}",
                got=f"{self.accumulated_error:.6g}",
                remedy="retrain exactly: the ledger then starts anew",
            )


def composed_epsilon(m: float, draws: int, delta: float) -> tuple[float, float]:
    """Composed m and epsilon of several noise draws that saw the same records.

    Args:
        m: Parameter of one draw.
        draws: Number of draws, at least 1.
        delta: In (0, 1).

    Returns:
        ``(m sqrt(draws), epsilon)``.

    Raises:
        InputError: If there is no draw, or another argument is out of range.

    Example:
        >>> composed_epsilon(0.26805, 1, 1e-5)[0]
        0.26805
    """
    if draws < 1:
        raise InputError("invalid draws", expected="at least 1", got=repr(draws), remedy="count every draw")
    composed = compose_m([m] * draws)
    return composed, gaussian_epsilon(delta, composed)
