"""What every mechanism takes and returns.

A mechanism first *assesses* a request from public constants alone, then *unlearns* on the retain set. What it
returns is enough to write the certificate from; nothing else may enter one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from expunge.curvature.preconditioner import KeptCurvature
from expunge.devices import CPU
from expunge.errors import CertificateRefusedError
from expunge.models.parts import Source
from expunge.models.spec import ModelSpec
from expunge.privacy.accountant import LedgerLimits, SequentialAccount, composed_epsilon
from expunge.privacy.gaussian import admitted_sensitivity
from expunge.privacy.noise import GRID, GaussianNoise, rounding_m
from expunge.settings import GuaranteeClass, Policy

Provenance = Literal["policy", "measured", "bounded", "assumed"]


@dataclass(frozen=True)
class Draw:
    """What one noise draw spends, recorded before it is made: later draws for the same records are composed with it.

    Args:
        m: Gaussian-DP parameter; None where it composes with no other draw, or nothing is known of it.
        coordinates: That the generator was charged for, over all noisy steps.
        failure_probability: Of the bounds it rests on.
    """

    m: float | None = None
    coordinates: int = 0
    failure_probability: float = 0.0


@dataclass(frozen=True)
class Context:
    """Everything a plan may look at: no row, and nothing that depends on people who left before.

    Args:
        spec: The model.
        policy: policy.yaml.
        parameters: d, number of noised coordinates.
        training_seconds: What training from scratch took; 1 where not known: forecasts are in trainings then.
        training_products: Curvature products (linearised) or optimiser steps (deep) that it took; 0 where not known.
        records: Training records.
        account: Where the lineage stands.
        draws: Noise draws that this batch has already spent.
        spent: What is recorded of each of them.
        same_data: Whether the parent was trained on the very version of the dataset that the batch begins with.
        suspects: Mechanisms that an attack contradicted and nobody cleared, with the ledger's entry that says so.
        search: Folder of one's own model, or parts saved with a model.
    """

    spec: ModelSpec
    policy: Policy
    parameters: int
    training_seconds: float
    training_products: int = 0
    records: int = 0
    account: SequentialAccount = field(default_factory=SequentialAccount)
    draws: int = 0
    spent: tuple[Draw, ...] = ()
    same_data: bool = True
    suspects: Mapping[str, int] = field(default_factory=dict)
    search: Source = None

    @property
    def timed(self) -> bool:
        """Whether it is known what training takes: what saw people who left since is destroyed with them."""
        return self.training_products > 0

    @property
    def allowed_error(self) -> float:
        """Largest distance that policy's release admits: ``m(epsilon, delta) sigma``, less rounding's share."""
        return policy_calibration(self).allowed_error

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
        kept: Curvature kept from the parent's release, to be used for this one request; None where there is none.
        search: Folder of one's own model, or parts saved with a model.
        device: Where to compute; every tensor given and returned lies on the CPU.
        seed: Of the random start of Lanczos and of LiSSA's mini-batches; from the operating system.
    """

    context: Context
    features: Tensor
    labels: Tensor
    start: Tensor | None
    kept: KeptCurvature | None = None
    search: Source = None
    device: torch.device = CPU
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
class Calibration:
    """How a release is noised and what one draw of that noise guarantees; from public constants alone.

    Args:
        error_bound: Bound on the distance from the reference that sigma is calibrated to, in weight units.
        sigma: Noise scale per coordinate of one noisy step, above 0.
        epsilon: Of one draw.
        delta: Of one draw, the generator's share excluded.
        coordinates: Noised coordinates, over all noisy steps.
        grid: Fineness of the grid that noised weights are rounded to.
        gaussian: Whether ``m = error_bound / sigma`` is a Gaussian-DP parameter, so that draws compose by root-sum.
            Otherwise one draw is all there is: the figures hold at this epsilon and delta only.
    """

    error_bound: float
    sigma: float
    epsilon: float
    delta: float
    coordinates: int
    grid: int = GRID
    gaussian: bool = True

    @property
    def rounding_m(self) -> float:
        """Share of m that the finite precision of the noise takes (:func:`expunge.privacy.noise.rounding_m`)."""
        return rounding_m(self.coordinates, self.grid)

    @property
    def allowed_error(self) -> float:
        """Distance from the reference that the mechanism itself must meet: the bound less rounding's share."""
        return self.error_bound - self.rounding_m * self.sigma

    @property
    def m(self) -> float:
        """Sensitivity over noise."""
        return self.error_bound / self.sigma

    def draw(self, failure_probability: float = 0.0) -> Draw:
        """What one draw of it spends.

        Args:
            failure_probability: Of the bounds it rests on.

        Returns:
            The draw, to be recorded.
        """
        return Draw(self.m if self.gaussian else None, self.coordinates, failure_probability)

    def composes_with(self, spent: Sequence[Draw]) -> bool:
        """Whether the figures of this mechanism's draws, taken as many times as there were draws, cover earlier ones.

        ``sqrt(n) m >= sqrt(sum m_k^2)`` where no ``m_k`` is above m, but for a billionth.

        Args:
            spent: Earlier draws for the same records, of whatever mechanism.

        Returns:
            False if one was of a larger m, or either composes with no other draw.
        """
        return not spent or (
            self.gaussian and all(d.m is not None and d.m <= self.m * (1 + 1e-9) for d in spent)
        )

    def composed(self, draws: int) -> tuple[float, float]:
        """M and epsilon of several draws that saw the same records.

        Args:
            draws: At least 1.

        Returns:
            ``(m, epsilon)`` at delta; infinite where draws do not compose. One draw is what sigma was calibrated to,
            so that its epsilon is stated as it was asked for, not as rounding returns it.

        Raises:
            InputError: If there is no draw.
        """
        if draws == 1:
            return self.m, self.epsilon
        m, epsilon = composed_epsilon(self.m, draws, self.delta)
        return (m, epsilon) if self.gaussian else (math.inf, math.inf)


@dataclass(frozen=True)
class Unlearned:
    """Noiseless unlearned weights with their bound: lives in memory only, between unlearning and noise.

    Args:
        weights: Float64 on the CPU, shape (d,): the bound is established for these very numbers, and they are noised.
        origin: Initial weights, shape (d,).
        error_bound: Realised bound on the distance from the reference; sealed, never published.
        binding: What binds the bound: "theorem", "ball" or "exact".
        failure_probability: Added to delta.
        constants: Public constants.
        sealed: What depends on the forget set without noise; goes into the sealed annex.
        guarantee: Class, where it is a weaker one than the mechanism's; None: the mechanism's.
        assumptions: Besides the mechanism's, in words.
    """

    weights: Tensor
    origin: Tensor
    error_bound: float
    binding: str
    failure_probability: float = 0.0
    constants: tuple[Constant, ...] = ()
    sealed: dict[str, Any] = field(default_factory=dict)
    guarantee: GuaranteeClass | None = None
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assessment:
    """What a mechanism would certify, judged by policy.

    Args:
        mechanism: Its name.
        guarantee: Its class.
        epsilon: What it would state; the honest figure where refused, infinite where none exists.
        delta: Likewise.
        error_bound: Delta in weight units that it would state.
        seconds: Predicted unlearning time, in units of the context's ``training_seconds``.
        utility: What becomes of the model's accuracy, as far as it can be told in advance, in words.
        refusal: Why policy or the mechanism says no; empty where admissible.
        remedy: What would change that.
        weakness: Why the class is a weaker one than the mechanism's at its best; empty where it is not.
    """

    mechanism: str
    guarantee: GuaranteeClass
    epsilon: float
    delta: float
    error_bound: float
    seconds: float
    utility: str = ""
    refusal: str = ""
    remedy: str = ""
    weakness: str = ""

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
        guarantee: Guarantee class at its best; an assessment or a release may be of a weaker one.
        reference: The process that the certificate compares with, in words.
        formula: Of the error bound.
        needs: What it must be given besides the retain set, in words.
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
    def needs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def assumptions(self) -> tuple[str, ...]: ...  # noqa: D102

    def assess(self, context: Context) -> Assessment:
        """Judge a request from public constants alone."""

    def calibrate(self, context: Context) -> Calibration | None:
        """How a release is noised; None for exact mechanisms. Public constants alone."""

    def unlearn(self, problem: Problem) -> Unlearned:
        """Compute noiseless unlearned weights and their bound, or refuse."""

    def perturb(
        self, problem: Problem, unlearned: Unlearned, calibration: Calibration, noise: GaussianNoise
    ) -> Tensor:
        """Noise the weights, and whatever follows on retained data alone; called once a draw."""


def policy_calibration(context: Context) -> Calibration:
    """The Gaussian mechanism at policy's release: ``Delta_max = m(epsilon, delta) sigma``.

    Args:
        context: The request.

    Returns:
        The calibration.
    """
    release = context.policy.release
    bound = admitted_sensitivity(release.sigma, release.epsilon, release.delta)
    return Calibration(bound, release.sigma, release.epsilon, release.delta, context.parameters)


def add_noise(weights: Tensor, calibration: Calibration, noise: GaussianNoise) -> Tensor:
    """One draw on every coordinate, in float64, rounded to the calibration's grid before any cast.

    Args:
        weights: Noiseless, on the CPU, shape (d,).
        calibration: With sigma.
        noise: The stream.

    Returns:
        Shape (d,).
    """
    return torch.from_numpy(noise.add(weights.detach().numpy(), calibration.sigma, calibration.grid))


def check_problem(problem: Problem, *, uses_start: bool = True) -> None:
    """Refuse a request that no mechanism can work on, naming all that is wrong with it; records are never quoted.

    Args:
        problem: The request.
        uses_start: Whether the mechanism looks at the parent's weights and kept curvature, where there are any.

    Raises:
        CertificateRefusedError: If the retain set is empty or does not fit the model, or something is not finite.
    """
    faults = _record_faults(problem)
    if uses_start:
        faults += _parent_faults(problem)
    if faults:
        raise CertificateRefusedError(
            "the request cannot be worked on",
            expected="a retain set that fits the model, and finite weights of its size",
            got="; ".join(faults),
            remedy="check the data, or let the batch be retrained; where nobody is left, withdraw the model",
        )


def _record_faults(problem: Problem) -> list[str]:
    features, labels, spec = problem.features, problem.labels, problem.context.spec
    faults = []
    if features.ndim != 2 or features.shape[-1] != spec.in_features:
        faults.append(f"features of shape {tuple(features.shape)} where (n, {spec.in_features}) is expected")
    if labels.shape != features.shape[:1]:
        faults.append(f"labels of shape {tuple(labels.shape)} for features of shape {tuple(features.shape)}")
    if 0 in (features.numel(), labels.numel()):
        faults.append("an empty retain set")
    if not features.is_floating_point():
        faults.append(f"features of type {features.dtype} where float64 is expected")
    elif not bool(torch.isfinite(features).all()):
        faults.append("features that are not finite")
    if labels.dtype != torch.int64:
        faults.append(f"labels of type {labels.dtype} where int64 class indices are expected")
    elif bool(((labels < 0) | (labels >= spec.classes)).any()):
        faults.append(f"labels outside 0 to {spec.classes - 1}")
    return faults


def _parent_faults(problem: Problem) -> list[str]:
    start, kept, size = problem.start, problem.kept, problem.context.parameters
    faults = []
    if start is not None and start.shape != (size,):
        faults.append(f"parent's weights of shape {tuple(start.shape)} where ({size},) is expected")
    if start is not None and not (start.is_floating_point() and bool(torch.isfinite(start).all())):
        faults.append("parent's weights that are not finite floating-point numbers")
    if kept is not None and kept.size != size:
        faults.append(f"kept curvature of size {kept.size} where {size} is expected")
    return faults
