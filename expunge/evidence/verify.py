"""Verification: every number that can be recomputed is, and the answer says what is missing."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from expunge.errors import CertificateRefusedError, InputError, VerificationError
from expunge.evidence.annex import ATTACK_GATES, annex_digest
from expunge.evidence.certificate import Certificate, Certificate2
from expunge.evidence.checked_ledger import CheckedLedger
from expunge.evidence.ledger import CLOCKS, LedgerEntry
from expunge.evidence.public_parts import unstated
from expunge.evidence.result import VerificationResult
from expunge.evidence.scope import NOBODY, scope_of
from expunge.privacy.accountant import compose_m
from expunge.privacy.bounds import convex_error_bound, iterated_newton_error_bound
from expunge.privacy.finetuning import gradient_clipping_m, model_clipping_total
from expunge.privacy.gaussian import gaussian_delta, gaussian_m
from expunge.privacy.noise import GENERATOR, rounding_m, truncation_delta
from expunge.privacy.truncation import exchanged_delta

_SLACK = 1e-9
_ROUNDING = 1e-6  # relative, of what is found by bisection
_MOST_STEPS = 1_000_000  # of noisy fine-tuning: recomputing more would let a forged certificate keep us busy
_MOST_NEWTON_STEPS = 100  # policy's own limit
# Of every mechanism: its guarantee class, and what may bind its error bound.
_CLASSES: Final = {
    "retrain": ("exact", ("exact",)),
    "convex": ("convex", ("theorem",)),
    "newton": ("conditional", ("theorem", "ball")),
    "output-perturbation": ("unconditional", ("ball",)),
    "noisy-finetune": ("unconditional", ("ball",)),
}
EARLIER_GENERATORS = (  # certificates with them are charged what they state
    "ChaCha20 keyed with 256 bits from the operating system; sum of 4 inverse-CDF draws; float64",
    "ChaCha20 keyed with 256 bits from the operating system; sum of 4 inverse-CDF draws; float64, "
    "rounded to a public grid",
)


def verify_certificate(
    certificate: Certificate,
    *,
    ledger: CheckedLedger | Sequence[LedgerEntry] | None = None,
    annex: bytes | None = None,
    model_digest: str | None = None,
    rolled_back: bool = False,
) -> VerificationResult:
    """Recompute everything a certificate states; who signed it is asked elsewhere.

    Args:
        certificate: The certificate.
        ledger: The lineage's ledger, if at hand; checked already where it serves many certificates.
        annex: The sealed annex, if at hand.
        model_digest: Digest of the model's files, if at hand.
        rolled_back: Whether its release is known to have been undone; a ledger tells, too.

    Returns:
        The outcome.
    """
    findings = [
        *_check_parent(certificate),
        *_check_guarantee(certificate),
        *_check_sequence(certificate),
        *_check_statements(certificate),
    ]
    missing: list[str] = []
    if _is_parent(certificate) and not findings:  # exact, of version 1: nothing in its files was drawn anew
        missing.append(
            "model: it is its parent, byte for byte; a retraining gives that only where nobody who left was trained on"
        )
    checked = ["structure", "epsilon from error bound, sigma, delta"]
    if ledger is None:
        missing.append("ledger: the sequential position was not checked")
    else:
        known = ledger if isinstance(ledger, CheckedLedger) else CheckedLedger.of(ledger)
        findings += [f"ledger: {fault}" for fault in known.outcome.findings]
        missing += [f"ledger: {line}" for line in known.outcome.missing]
        checked += [f"ledger: {line}" for line in known.outcome.checked]
        try:
            findings += known.disagreements(certificate)
        except VerificationError as error:
            findings.append(str(error))
        missing += known.policy_untold(certificate)
        checked.append("this certificate's entry in the ledger, field by field")
        rolled_back = rolled_back or certificate.certificate_id in known.undone
        purge = known.purges.get(certificate.batch)
        if purge is None:
            missing.append("purge entry: superseded bytes are not yet proved gone")
        elif kept := purge.details.get("kept"):
            missing.append(f"purge: {len(kept)} objects were kept, because another dataset needs them")
    if rolled_back:
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


def noise_share(certificate: Certificate) -> float:
    """What the finite precision of the noise takes of the error bound; certificates before it was charged have none.

    Args:
        certificate: The certificate.

    Returns:
        In weight units.
    """
    stated = constants_of(certificate).get("rounding_m")
    if stated is None and certificate.noise in EARLIER_GENERATORS:
        return 0.0
    return max(stated or 0.0, rounding_m(certificate.parameters)) * certificate.sigma


def constants_of(certificate: Certificate) -> dict[str, float]:
    """A certificate's constants that have a number.

    Args:
        certificate: The certificate.

    Returns:
        Values by name.
    """
    return {c.name: c.value for c in certificate.constants if c.value is not None}


def _is_parent(c: Certificate) -> bool:
    return c.model.digest == c.model.parent_digest


def _check_parent(c: Certificate) -> Iterator[str]:
    """Fresh noise, and from version 2 on a nonce in the model's files, never give the parent's digest again."""
    if _is_parent(c) and (c.guarantee != "exact" or c.version > 1):
        yield "the model is its parent: nothing was unlearned"


def _check_guarantee(certificate: Certificate) -> Iterator[str]:
    c, s = certificate, certificate.sequential
    guarantee, bindings = _CLASSES.get(c.mechanism, (None, ()))
    unproved = c.version >= 2 and c.mechanism == "convex" and c.guarantee == "conditional"
    if not (c.guarantee == guarantee or unproved) or c.error_bound.binding not in bindings:
        yield (
            f"the mechanism {c.mechanism} does not give the class {c.guarantee} with a bound of the kind "
            f"{c.error_bound.binding}"
        )
    if c.guarantee == "exact":
        if not c.epsilon == c.delta == c.gaussian_delta == c.sigma == c.error_bound.value == 0:
            yield "an exact certificate states epsilon = delta = sigma = error bound = 0, by retraining"
        return
    if c.sigma <= 0 or s.draws < 1:
        yield "a noised release needs sigma > 0 and at least one draw"
        return
    if c.noise != GENERATOR and c.noise not in EARLIER_GENERATORS:
        yield "the noise is of a generator that nobody has accounted for"
    composed = compose_m([c.error_bound.value / c.sigma]) * math.sqrt(s.draws)
    if not math.isclose(s.composed_m, composed, rel_tol=_SLACK):
        yield f"composed m {s.composed_m:.6g} where {composed:.6g} is recomputed"
    if gaussian_delta(c.epsilon, composed) > c.gaussian_delta * (1 + _ROUNDING):
        yield "epsilon is below what the error bound, sigma, draws and delta allow"
    try:
        share = _generator_share(c) + constants_of(c).get("failure_probability", 0.0)
        if c.delta < (c.gaussian_delta + s.draws * share) * (1 - 1e-15):  # but for the last digit
            yield "delta is below the shares of the Gaussian mechanism, of the noise generator and of bounds that fail"
    except ValueError:
        yield "the generator's share of delta cannot be recomputed from the constants"
    if not math.isclose(s.composed_epsilon, c.epsilon, rel_tol=_SLACK) or s.composed_delta != c.delta:
        yield "the sequential figures differ from epsilon and delta"
    if c.version > 1 and c.mechanism == "newton" and "failure_probability" not in constants_of(c):
        yield "the probability that a bound on the spectrum fails is not stated"
    bound = _bound_from_constants(c)
    if bound is not None and c.mechanism != "noisy-finetune":  # whose m has rounding in it already
        bound += noise_share(c)
    if bound is None:
        yield "the error bound cannot be recomputed from the constants"
    elif not bound <= c.error_bound.value * (1 + _SLACK):
        yield f"the constants give an error bound of {bound:.6g}, above the stated {c.error_bound.value:.6g}"


def _bound_from_constants(certificate: Certificate) -> float | None:
    """What the public constants alone prove; the realised part is in the annex."""
    values = constants_of(certificate)
    try:
        if certificate.mechanism == "convex":
            return convex_error_bound(
                gradient_tolerance=values["gradient_tolerance"],
                rounding_allowance=values["rounding_allowance"],
                strong_convexity=values["l2"],
            )
        if certificate.mechanism == "newton":
            if certificate.error_bound.binding == "ball":
                return 2 * values["norm_bound"]
            # N1 depends on the data: it was enforced at the release, and its figures are in the annex. But no data
            # give less than this: the damping exceeds the Hessian's norm, so the damped one is below twice of it.
            return iterated_newton_error_bound(
                hessian_lipschitz=values["hessian_lipschitz"],
                norm_bound=values["norm_bound"],
                damping=values["damping"],
                gradient_bound=values["gradient_bound"],
                steps=[(0.0, 2 * values["damping"])] * _MOST_NEWTON_STEPS,
            )[0]
        if certificate.mechanism == "output-perturbation":
            return 2 * values["norm_bound"]
        if certificate.mechanism == "noisy-finetune":
            return _finetuning_bound(certificate, values)
    except (KeyError, ValueError, ArithmeticError, InputError, CertificateRefusedError):
        return None
    return None


def _finetuning_bound(certificate: Certificate, values: dict[str, float]) -> float:
    steps = _steps(values)
    if "contraction" not in values:
        return certificate.sigma * gradient_clipping_m(
            certificate.sigma,
            size=certificate.parameters,
            norm_bound=values["norm_bound"],
            clip=values["clip"],
            learning_rate=values["learning_rate"],
            decay=values["decay"],
            steps=steps,
        )
    delta = model_clipping_total(
        certificate.epsilon,
        certificate.gaussian_delta,
        size=certificate.parameters,
        norm_bound=values["norm_bound"],
        sigma=certificate.sigma,
        steps=steps,
    )
    within = delta <= certificate.gaussian_delta * (1 + _SLACK) and certificate.sequential.draws == 1
    if not within:
        return math.inf
    # This account gives no distance: what is stated is that of a Gaussian mechanism with the same epsilon and delta,
    # and the lineage's budget is spent by it. Epsilon itself is checked above to within a millionth.
    m = gaussian_m(certificate.epsilon, certificate.gaussian_delta)
    return certificate.sigma * m * (1 - _ROUNDING)


def _steps(values: dict[str, float]) -> int:
    steps = values.get("steps", 1.0)
    if not 1 <= steps <= _MOST_STEPS:
        raise ValueError(f"{steps} steps")
    return int(steps)


def _generator_share(certificate: Certificate) -> float:
    """What one draw's generator takes of delta; that of an earlier version is charged what its certificate states."""
    values = constants_of(certificate)
    stated = values.get("generator_delta", 0.0)
    if certificate.noise in EARLIER_GENERATORS:
        return stated
    steps = _steps(values) if certificate.mechanism == "noisy-finetune" else 1
    return max(stated, truncation_delta(certificate.parameters * steps, certificate.epsilon))


def _check_sequence(certificate: Certificate) -> Iterator[str]:
    c, s, limits = certificate, certificate.sequential, certificate.sequential.limits
    if c.guarantee == "exact":
        if any(
            (s.step, s.accumulated_error, s.uniform_error, s.composed_m, s.composed_epsilon, s.composed_delta)
        ):
            yield "an exact training starts the sequential account anew: every figure of it is 0"
        return
    most = s.step * s.uniform_error * (1 + _SLACK)
    least = c.error_bound.value * (1 - _SLACK)
    if (
        s.step < 1
        or not least <= s.uniform_error
        or not s.uniform_error * (1 - _SLACK) <= s.accumulated_error <= most
    ):
        yield (
            "the sequential figures are impossible: error bound <= uniform error <= accumulated error <= step times "
            "uniform error"
        )
    within = (
        s.step <= limits.releases,
        s.accumulated_error <= limits.accumulated_error * (1 + _SLACK),
        s.composed_epsilon <= limits.composed_epsilon * (1 + _SLACK),
    )
    if not all(within):
        yield "the lineage's sequential limits are exceeded"


def _check_statements(certificate: Certificate) -> Iterator[str]:
    c = certificate
    absent = [line for line in scope_of(c.guarantee, c.version) if line not in c.scope]
    if absent:
        yield f"the scope leaves out {len(absent)} statement(s) that every {c.guarantee} certificate makes"
    # from version 2 on the class convex rests on rounding that is proved, or it is conditional
    assumes = c.guarantee == "conditional" or (c.guarantee == "convex" and c.version < 2)
    if assumes and not c.assumptions:
        yield f"a {c.guarantee} certificate states what it assumes, and this one states nothing"
    if not all(line.strip() for line in c.assumptions):
        yield "an assumption is blank"
    if isinstance(c, Certificate2):
        yield from unstated(c)
    yield from _check_constants(c)
    yield from _check_removal(c)
    if _vacuous(c) != c.vacuous:
        yield "the statement whether it is vacuous does not agree with the policy it names"
    if not c.validation.gates:
        yield "no validation gate is stated"
    if not all(gate.passed for gate in c.validation.gates):
        yield "a validation gate was not passed"
    if isinstance(c, Certificate2):
        yield from _check_attack_gates(c)
        yield from _check_pin(c)
    if not c.coverage:
        yield "the coverage map is empty"
    if c.model.version is not None and c.model.version <= c.model.parent_version:
        yield "the model's version is not above its parent's"
    try:
        issued = datetime.fromisoformat(c.issued_at)
        if issued > datetime.now(UTC) + CLOCKS:
            yield "it is issued in the future"
    except (ValueError, TypeError):  # no date, or without a time zone
        yield "issued_at is no ISO 8601 date with a time zone"


def _check_pin(c: Certificate2) -> Iterator[str]:
    """Policy is pinned when the batch is planned, hence before its certificate is issued."""
    try:
        if datetime.fromisoformat(c.policy.pinned_at) - datetime.fromisoformat(c.issued_at) > CLOCKS:
            yield "its policy was pinned after it was issued"
    except (ValueError, TypeError):
        yield "the date of its policy is no ISO 8601 date with a time zone"


def _check_attack_gates(c: Certificate2) -> Iterator[str]:
    """An attack that is a gate costs the exchanged bound something; the two are added again."""
    stated = c.attack_gates
    if any(gate.name in ATTACK_GATES for gate in c.validation.gates) is not (stated.false_alarm > 0):
        yield "attack gates and the false alarms that are stated of them do not agree"
    if stated.exchanged_delta < exchanged_delta(c.delta, stated.false_alarm) * (1 - _SLACK):
        yield "delta with the sides exchanged is below what delta and the gates' false alarms add up to"


def _check_removal(c: Certificate) -> Iterator[str]:
    """One ticket a person, and records that are gone from the dataset."""
    if len(set(c.tickets)) != len(c.tickets):
        yield "a ticket is stated twice"
    elif len(c.tickets) != c.forget.subjects:
        yield f"{c.forget.subjects} people are said to have asked, with {len(c.tickets)} tickets"
    if not c.forget.subjects:
        if c.forget.records or c.guarantee != "exact" or c.version == 1:
            yield "nobody is said to have been removed, and that is said of exact trainings alone"
        elif NOBODY not in c.scope:
            yield "nobody was removed, and the scope does not say so"
    if c.forget.records and c.dataset.before.md5 == c.dataset.after.md5:
        yield "records are said to be removed, and the dataset is the same before and after"


def _check_constants(c: Certificate) -> Iterator[str]:
    names = [constant.name for constant in c.constants]
    if len(set(names)) != len(names):
        yield "a constant is stated twice"
    for name, stated in (("sigma", c.sigma), ("error_bound", c.error_bound.value)):
        if constants_of(c).get(name, stated) != stated:
            yield f"the constant {name} is another than the {name.replace('_', ' ')} of the certificate"
    for constant in c.constants:
        if constant.value is not None and not 0 <= constant.value < math.inf:
            yield f"the constant {constant.name} is not a finite number from 0 on"
        if constant.name in ("hessian_lipschitz", "gradient_bound") and constant.provenance != "assumed":
            yield f"the constant {constant.name} of a deep network is assumed, whatever else is stated of it"
        if _unproved(c, constant.name) and constant.provenance != "assumed":
            yield "rounding is assumed in a convex release of the class conditional, whatever else is stated of it"
        if constant.provenance == "assumed" and c.guarantee != "conditional":
            yield f"the constant {constant.name} is assumed, and nothing is in a certificate of the class {c.guarantee}"


def _unproved(c: Certificate, name: str) -> bool:
    return name == "rounding_allowance" and c.mechanism == "convex" and c.guarantee == "conditional"


def _vacuous(c: Certificate) -> bool:
    """By the policy that it names; one that says nothing admits nothing."""

    def limit(name: str) -> float:
        value: Any = c.admitted.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0

    classes = c.admitted.get("classes")
    admitted = c.guarantee in classes if isinstance(classes, list) else False
    return not (admitted and c.epsilon <= limit("epsilon") and c.delta <= limit("delta"))
