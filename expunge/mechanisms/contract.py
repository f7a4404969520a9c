"""What every mechanism takes and returns.

A mechanism first *assesses* a request from public constants alone, then *unlearns* on the retain set. What it
returns is enough to write the certificate from; nothing else may enter one.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from expunge.models.spec import ModelSpec
from expunge.privacy.accountant import LedgerLimits, SequentialAccount
from expunge.privacy.gaussian import gaussian_m
from expunge.settings import GuaranteeClass, Policy

Provenance = Literal["policy", "measured", "bounded", "assumed"]


@dataclass(frozen=True)
class Context:
    """Everything a plan may look at: public, and independent of the people to be removed.

    Args:
        spec: The model.
        policy: policy.yaml.
        parameters: d, number of noised coordinates.
        training_seconds: What training from scratch took, the forecast's yardstick.
        account: Where the lineage stands.
        draws: Noise draws that this batch has already spent.
    """

    spec: ModelSpec
    policy: Policy
    parameters: int
    training_seconds: float
    account: SequentialAccount = field(default_factory=SequentialAccount)
    draws: int = 0

    @property
    def allowed_error(self) -> float:
        """Largest error bound that policy's release admits: ``Delta_max = m(epsilon, delta) sigma``."""
        release = self.policy.release
        return gaussian_m(release.epsilon, release.delta) * release.sigma

    @property
    def limits(self) -> LedgerLimits:
        """The lineage's limits."""
        ledger = self.policy.ledger
        return LedgerLimits(ledger.accumulated_error, ledger.composed_epsilon, ledger.releases)


@dataclass(frozen=True)
class Problem:
    """One request to unlearn.

    Args:
        context: As for the plan.
        features: Encoded retain set, float64, shape (n_r, in_features).
        labels: Shape (n_r,).
        start: The parent's released weights; None where the parameter space has changed (a category vanished).
        search: Folder of one's own model.
        seed: Of the random start of Lanczos; from the operating system.
    """

    context: Context
    features: Tensor
    labels: Tensor
    start: Tensor | None
    search: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Constant:
    """One constant that a certificate rests on, with where it came from.

    Args:
        name: In the field's terms.
        value: Finite, or None where no number is known.
        provenance: policy, measured, bounded or assumed.
        method: How it is enforced, measured or bounded, in words.
    """

    name: str
    value: float | None
    provenance: Provenance
    method: str


@dataclass(frozen=True)
class Unlearned:
    """Noiseless unlearned weights with their bound: lives in memory only, between unlearning and noise.

    Args:
        weights: Float64, shape (d,).
        origin: Initial weights, shape (d,).
        error_bound: Realised bound on the distance from the reference; sealed, never published.
        binding: What binds the bound: "theorem", "ball" or "exact".
        failure_probability: Added to delta.
        constants: Public constants.
        sealed: What depends on the forget set without noise; goes into the sealed annex.
    """

    weights: Tensor
    origin: Tensor
    error_bound: float
    binding: str
    failure_probability: float = 0.0
    constants: tuple[Constant, ...] = ()
    sealed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Assessment:
    """What a mechanism would certify, judged by policy.

    Args:
        mechanism: Its name.
        guarantee: Its class.
        epsilon: What it would state; the honest figure where refused, infinite where none exists.
        delta: Likewise.
        error_bound: Delta in weight units that it would state.
        seconds: Predicted unlearning time.
        refusal: Why policy or the mechanism says no; empty where admissible.
        remedy: What would change that.
    """

    mechanism: str
    guarantee: GuaranteeClass
    epsilon: float
    delta: float
    error_bound: float
    seconds: float
    refusal: str = ""
    remedy: str = ""

    @property
    def admissible(self) -> bool:
        """Whether it may close a ticket."""
        return not self.refusal

    def to_json(self) -> dict[str, Any]:
        """Plain data for the plan table.

        Returns:
            A JSON-able dict.
        """
        return {**asdict(self), "admissible": self.admissible}


class Mechanism(Protocol):
    """One way to unlearn.

    Attributes:
        name: As in certificates.
        guarantee: Guarantee class.
        reference: The process that the certificate compares with, in words.
        formula: Of the error bound.
        noised: Whether the release is noised (all but exact ones).
        assumptions: What must hold besides the constants, in words.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def guarantee(self) -> GuaranteeClass: ...  # noqa: D102
    @property
    def reference(self) -> str: ...  # noqa: D102
    @property
    def formula(self) -> str: ...  # noqa: D102
    @property
    def noised(self) -> bool: ...  # noqa: D102
    @property
    def assumptions(self) -> tuple[str, ...]: ...  # noqa: D102

    def assess(self, context: Context) -> Assessment:
        """Judge a request from public constants alone."""

    def unlearn(self, problem: Problem) -> Unlearned:
        """Compute noiseless unlearned weights and their bound, or refuse."""
