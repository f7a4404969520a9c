"""Verification: every number that can be recomputed is, and the answer says what is missing."""

import math
from collections.abc import Sequence
from typing import Any

from expunge.errors import InputError
from expunge.evidence.annex import annex_digest
from expunge.evidence.canonical import digest
from expunge.evidence.certificate import Certificate, scope_of
from expunge.evidence.ledger import LedgerEntry, check_ledger
from expunge.evidence.result import VerificationResult
from expunge.evidence.verify_ledger import verify_ledger
from expunge.privacy.accountant import compose_m
from expunge.privacy.bounds import convex_error_bound
from expunge.privacy.finetuning import gradient_clipping_m, model_clipping_total
from expunge.privacy.gaussian import gaussian_delta
from expunge.privacy.noise import GENERATOR, rounding_m, truncation_delta

__all__ = ["VerificationResult", "undone", "verify_certificate", "verify_ledger"]

_SLACK = 1e-9


def verify_certificate(
    certificate: Certificate,
    *,
    ledger: Sequence[LedgerEntry] | None = None,
    annex: bytes | None = None,
    model_digest: str | None = None,
    rolled_back: bool = False,
) -> VerificationResult:
    """Recompute everything a certificate states.

    Args:
        certificate: The certificate.
        ledger: The lineage's ledger, if at hand.
        annex: The sealed annex, if at hand.
        model_digest: Digest of the model's files, if at hand.
        rolled_back: Whether its release is known to have been undone; a ledger tells from the next release on.

    Returns:
        The outcome.
    """
    findings = [*_check_guarantee(certificate), *_check_statements(certificate)]
    missing, checked = (
        ["signatures (not part of this version)"],
        ["structure", "epsilon from error bound, sigma, delta"],
    )
    if ledger is None:
        missing.append("ledger: the sequential position was not checked")
    else:
        findings += _check_against_ledger(certificate, ledger)
        checked.append("ledger chain, and this certificate's entry in it")
        purge = next((e for e in ledger if e.kind == "purge" and e.batch == certificate.batch), None)
        if purge is None:
            missing.append("purge entry: superseded bytes are not yet proved gone")
        elif kept := purge.details.get("kept"):
            missing.append(f"purge: {len(kept)} objects were kept, because another dataset needs them")
    if rolled_back or any(_names(e.details.get("rolled_back"), certificate) for e in ledger or ()):
        findings.append(undone(certificate))
    if annex is None:
        missing.append("sealed annex: its digest was not checked")
    elif annex_digest(annex) != certificate.sealed_annex.digest:
        findings.append("the sealed annex is not the one this certificate names")
    else:
        checked.append("digest of the sealed annex")
    if model_digest is None:
        missing.append("model files: their digest was not checked (superseded weights are purged)")
    elif model_digest != certificate.model.digest:
        findings.append("the model's files are not the ones this certificate names")
    else:
        checked.append("digest of the model's files")
    return VerificationResult(tuple(findings), tuple(missing), tuple(checked))


def undone(certificate: Certificate) -> str:
    """The finding on a certificate whose release was rolled back: its people were in the model again.

    Args:
        certificate: The certificate.

    Returns:
        In words.
    """
    number = certificate.model.version
    return f"undone: version {number} was rolled back; the version before it served again"


def _names(releases: Any, certificate: Certificate) -> bool:
    named = releases if isinstance(releases, list) else []
    return any(isinstance(r, dict) and r.get("certificate_id") == certificate.certificate_id for r in named)


def _check_guarantee(certificate: Certificate) -> list[str]:
    c, s = certificate, certificate.sequential
    if c.guarantee == "exact":
        exact = c.epsilon == c.delta == c.sigma == c.error_bound.value == 0 and c.mechanism == "retrain"
        return (
            []
            if exact
            else ["an exact certificate states epsilon = delta = sigma = error bound = 0, by retraining"]
        )
    if c.sigma <= 0 or s.draws < 1:
        return ["a noised release needs sigma > 0 and at least one draw"]
    findings = []
    composed = compose_m([c.error_bound.value / c.sigma] * s.draws)
    if not math.isclose(s.composed_m, composed, rel_tol=_SLACK):
        findings.append(f"composed m {s.composed_m:.6g} where {composed:.6g} is recomputed")
    if gaussian_delta(c.epsilon, composed) > c.gaussian_delta * (1 + 1e-6):
        findings.append("epsilon is below what the error bound, sigma, draws and delta allow")
    if c.delta < (c.gaussian_delta + s.draws * _generator_share(c)) * (1 - 1e-15):  # but for the last digit
        findings.append("delta is below the shares of the Gaussian mechanism and of the noise generator")
    if not math.isclose(s.composed_epsilon, c.epsilon, rel_tol=_SLACK) or s.composed_delta != c.delta:
        findings.append("the sequential figures differ from epsilon and delta")
    bound = _bound_from_constants(c)
    if bound is not None and c.mechanism != "noisy-finetune":  # whose m has rounding in it already
        bound += _rounding_share(c)
    if bound is None:
        findings.append("the error bound cannot be recomputed from the constants")
    elif bound > c.error_bound.value * (1 + _SLACK):
        findings.append(
            f"the constants give an error bound of {bound:.6g}, above the stated {c.error_bound.value:.6g}"
        )
    return findings


def _bound_from_constants(certificate: Certificate) -> float | None:
    """What the public constants alone prove; the realised part is in the annex."""
    values = {c.name: c.value for c in certificate.constants if c.value is not None}
    try:
        if certificate.mechanism == "convex":
            return convex_error_bound(
                gradient_tolerance=values["gradient_tolerance"],
                rounding_allowance=values["rounding_allowance"],
                strong_convexity=values["l2"],
            )
        if certificate.mechanism == "newton":
            # N1 depends on the data: it was enforced at the release, and its figure is in the annex.
            return 2 * values["norm_bound"] if certificate.error_bound.binding == "ball" else 0.0
        if certificate.mechanism == "output-perturbation":
            return 2 * values["norm_bound"]
        if certificate.mechanism == "noisy-finetune" and "contraction" not in values:
            return certificate.sigma * gradient_clipping_m(
                certificate.sigma,
                size=certificate.parameters,
                norm_bound=values["norm_bound"],
                clip=values["clip"],
                learning_rate=values["learning_rate"],
                decay=values["decay"],
                steps=int(values["steps"]),
            )
        if certificate.mechanism == "noisy-finetune":
            delta = model_clipping_total(
                certificate.epsilon,
                certificate.gaussian_delta,
                size=certificate.parameters,
                norm_bound=values["norm_bound"],
                sigma=certificate.sigma,
                steps=int(values["steps"]),
            )
            within = delta <= certificate.gaussian_delta * (1 + _SLACK) and certificate.sequential.draws == 1
            return 0.0 if within else math.inf
    except (KeyError, InputError):
        return None
    return None


def _rounding_share(certificate: Certificate) -> float:
    """What the finite precision of the noise takes of the error bound; certificates before it was charged have none."""
    stated = {c.name: c.value for c in certificate.constants}.get("rounding_m")
    if stated is None:
        return 0.0
    return max(stated, rounding_m(certificate.parameters)) * certificate.sigma


def _generator_share(certificate: Certificate) -> float:
    """What one draw's generator takes of delta; that of an earlier version is charged what its certificate states."""
    values = {c.name: c.value for c in certificate.constants if c.value is not None}
    stated = values.get("generator_delta", 0.0)
    if certificate.noise != GENERATOR:
        return stated
    steps = int(values.get("steps", 1)) if certificate.mechanism == "noisy-finetune" else 1
    return max(stated, truncation_delta(certificate.parameters * steps, certificate.epsilon))


def _check_statements(certificate: Certificate) -> list[str]:
    c = certificate
    findings = []
    absent = [line for line in scope_of(c.guarantee) if line not in c.scope]
    if absent:
        findings.append(
            f"the scope leaves out {len(absent)} statement(s) that every {c.guarantee} certificate makes"
        )
    admitted = c.admitted
    vacuous = (
        c.epsilon > admitted.get("epsilon", 0.0)
        or c.delta > admitted.get("delta", 0.0)
        or c.guarantee not in admitted.get("classes", [])
    )
    if vacuous != c.vacuous:
        findings.append("the statement whether it is vacuous does not agree with the policy it names")
    if not all(gate.passed for gate in c.validation.gates):
        findings.append("a validation gate was not passed")
    if not c.coverage:
        findings.append("the coverage map is empty")
    return findings


def _check_against_ledger(certificate: Certificate, ledger: Sequence[LedgerEntry]) -> list[str]:
    findings = [f"ledger: {fault}" for fault in check_ledger(ledger)]
    entry = next((e for e in ledger if e.certificate_id == certificate.certificate_id), None)
    if entry is None:
        return [*findings, "the ledger has no entry for this certificate"]
    if entry.certificate_digest != digest(certificate.to_json()):
        findings.append(
            "the certificate's digest is not the one in the ledger: it was changed after it was issued"
        )
    stated = (certificate.sequential.step, certificate.sequential.accumulated_error, certificate.epsilon)
    if not all(
        math.isclose(a, b, rel_tol=_SLACK)
        for a, b in zip(stated, (entry.step, entry.accumulated_error, entry.epsilon), strict=True)
    ):
        findings.append("the certificate's sequential position differs from the ledger's")
    return findings
