"""The release: noise on the noiseless weights, and the record from which the certificate is written.

Two things add to the Gaussian mechanism's delta, and not alike. ``H(P, Q) = sup_T P(T) - e^epsilon Q(T)`` is the
smallest delta at epsilon in one direction; it is jointly convex.

1. *A bound that fails* with probability at most eta, by randomness that is independent of the noise (Lanczos's start).
   Given that randomness, the release is ``G`` where the bound holds, with ``H(G, Q), H(Q, G) <= delta``, and anything,
   ``B``, where it fails: ``P = (1 - eta) G + eta B``. The reference draws no such thing, so write it
   ``Q = (1 - eta) Q + eta Q``. By convexity ``H(P, Q)`` and ``H(Q, P)`` are at most ``(1 - eta) delta + eta``: eta is
   added once in either direction. That ``e^epsilon eta`` is added in the second, as the distance ``eta`` of P from G
   alone would give, is not needed: what fails is a part of the mixture, and takes its share of Q's own mass with it.
2. *Noise that is not Gaussian* with probability at most p (:mod:`expunge.privacy.noise`). Which noise that is depends
   on the noise itself, and it happens to the reference as well: the two shares are p and ``e^epsilon p``, in either
   direction, and both can be reached: :func:`truncation_delta`.

n draws are n of each: the union of what fails.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.errors import CertificateRefusedError
from expunge.mechanisms.contract import Constant, Mechanism, Problem, Unlearned
from expunge.privacy.noise import GENERATOR, GaussianNoise, truncation_delta


@dataclass(frozen=True)
class ReleaseRecord:
    """What was done, with every public figure a certificate states.

    Args:
        mechanism: Name.
        guarantee: Class.
        reference: The process compared with, in words.
        formula: Of the error bound.
        error_bound: Policy's bound, in weight units; 0 for exact ones.
        binding: "theorem", "ball" or "exact".
        sigma: Noise scale; 0 for exact ones.
        m: error_bound / sigma of one draw; 0 for exact ones.
        draws: Noise draws that saw these records, discarded ones included.
        composed_m: Over all draws.
        epsilon: Of all draws, at gaussian_delta.
        gaussian_delta: The Gaussian mechanism's share of delta.
        delta: gaussian_delta + generator + failure probability of bounds, of every draw.
        noise: The generator; empty for exact ones.
        parameters: Number of coordinates.
        constants: With provenance.
        assumptions: In words.
    """

    mechanism: str
    guarantee: str
    reference: str
    formula: str
    error_bound: float
    binding: str
    sigma: float
    m: float
    draws: int
    composed_m: float
    epsilon: float
    gaussian_delta: float
    delta: float
    noise: str
    parameters: int
    constants: tuple[Constant, ...]
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return asdict(self)


@dataclass(frozen=True)
class Release:
    """Weights that may leave the process, and their record.

    Args:
        weights: Noised (or exact) float64 weights, shape (d,).
        origin: Initial weights, shape (d,).
        record: Public.
        sealed: For the annex.
    """

    weights: Tensor
    origin: Tensor
    record: ReleaseRecord
    sealed: dict[str, Any]


def release(mechanism: Mechanism, problem: Problem, unlearned: Unlearned, *, draws: int) -> Release:
    """Noise the unlearned weights once and state what that guarantees.

    The stated epsilon is that of policy's error bound, never of the realised one.

    Args:
        mechanism: Which unlearned.
        problem: The request.
        unlearned: Noiseless weights; the caller forgets them.
        draws: Noise draws for these records, this one included.

    Returns:
        The release.

    Raises:
        CertificateRefusedError: If the realised bound is above policy's, a weight is not finite, or sigma was
            calibrated for another number of weights.
    """
    if not bool(torch.isfinite(unlearned.weights).all()):
        raise CertificateRefusedError("unlearned weights are not finite", remedy="retrain")
    context = problem.context
    size = len(unlearned.weights)
    realised = unlearned.error_bound  # first: of what states no bound there is no release
    common: dict[str, Any] = {
        "mechanism": mechanism.name,
        "guarantee": unlearned.guarantee or mechanism.guarantee,
        "reference": mechanism.reference,
        "formula": mechanism.formula,
        "binding": unlearned.binding,
        "parameters": size,
        "assumptions": (*mechanism.assumptions, *unlearned.assumptions),
    }
    sealed = {**unlearned.sealed, "realised_error_bound": realised}
    calibration = mechanism.calibrate(context)
    if calibration is None:
        record = ReleaseRecord(
            **common,
            error_bound=0.0,
            sigma=0.0,
            m=0.0,
            draws=draws,
            composed_m=0.0,
            epsilon=0.0,
            gaussian_delta=0.0,
            delta=0.0,
            noise="",
            constants=unlearned.constants,
        )
        return Release(unlearned.weights, unlearned.origin, record, sealed)
    if not unlearned.error_bound <= calibration.allowed_error:
        raise CertificateRefusedError(
            "the error bound is above the release's",
            expected=f"at most {calibration.allowed_error:.3g}",
            remedy="retrain",
        )
    composed_m, epsilon = calibration.composed(draws)
    if not math.isfinite(epsilon):
        raise CertificateRefusedError(
            f"{mechanism.name} allows one noise draw a batch",
            expected="1 draw",
            got=f"{draws} draws",
            remedy="take another mechanism or form in policy.yaml, or retrain",
        )
    if size != context.parameters:  # what rounding and the generator are charged for
        raise CertificateRefusedError(
            "the noise was calibrated for another number of weights",
            expected=f"{context.parameters}",
            got=f"{size}",
            remedy="report this; nothing was released",
        )
    weights = mechanism.perturb(problem, unlearned, calibration, GaussianNoise())
    if not bool(torch.isfinite(weights).all()):
        raise CertificateRefusedError("released weights are not finite", remedy="retrain")
    # n draws, each charged the largest share that any of them has: no less than all of their shares together
    drawn = (calibration.draw(unlearned.failure_probability), *context.spent)
    generator = truncation_delta(max(draw.coordinates for draw in drawn), epsilon)
    failure = max(draw.failure_probability for draw in drawn)
    record = ReleaseRecord(
        **common,
        error_bound=calibration.error_bound,
        sigma=calibration.sigma,
        m=calibration.m,
        draws=draws,
        composed_m=composed_m,
        epsilon=epsilon,
        gaussian_delta=calibration.delta,
        delta=calibration.delta + draws * generator + draws * failure,
        noise=GENERATOR,
        constants=(
            *unlearned.constants,
            Constant(
                "sigma", calibration.sigma, "policy", "noise scale per parameter, fixed before the request"
            ),
            Constant(
                "error_bound",
                calibration.error_bound,
                "policy",
                "what sigma is calibrated to; met or refused",
            ),
            Constant(
                "rounding_m",
                calibration.rounding_m,
                "measured",
                "finite precision of the noise, taken off the error bound",
            ),
            Constant("generator_delta", generator, "bounded", "truncation of the noise generator"),
            *_failing(mechanism, failure),
        ),
    )
    return Release(weights, unlearned.origin, record, sealed)


def _failing(mechanism: Mechanism, failure: float) -> tuple[Constant, ...]:
    """Of each draw; an earlier one for these records may have been of another mechanism."""
    if not failure and mechanism.guarantee != "conditional":
        return ()
    return (
        Constant(
            "failure_probability",
            failure,
            "bounded",
            "that a bound on the spectrum fails, in either direction",
        ),
    )
