"""What the sealed annex lets its reader check: that the realised figures keep to what the certificate states.

Answers never quote a figure: they may be passed on to people who do not hold the key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from expunge.errors import ExpungeError
from expunge.evidence.annex import ATTACK_GATES, ATTACKS, DISCARDED
from expunge.evidence.certificate import Certificate, Certificate2
from expunge.evidence.result import Answer, VerificationResult
from expunge.evidence.verify import constants_of, noise_share
from expunge.privacy.bounds import iterated_newton_error_bound

_SLACK = 1e-9


@dataclass
class _Answer(Answer):
    spec: dict[str, Any] | None = None

    def state(self, holds: bool, what: str, otherwise: str) -> None:
        """Note one check; a figure that is no number compares false."""
        (self.checked if holds else self.findings).append(f"annex: {what if holds else otherwise}")


def verify_realised(
    certificate: Certificate, annex: dict[str, Any], spec: dict[str, Any] | None = None
) -> VerificationResult:
    """Compare the figures of an opened annex with the certificate that names it.

    Args:
        certificate: The certificate.
        annex: The annex's content.
        spec: The model's own description of its training, where the model is at hand.

    Returns:
        What holds, what is missing, what does not hold; without figures.
    """
    answer = _Answer(spec=spec)
    answer.state(
        annex.get("batch") == certificate.batch,
        "it is of this batch",
        "it is of another batch than the certificate",
    )
    try:
        realised = _number(annex, "realised_error_bound")
        bound = certificate.error_bound.value - noise_share(certificate)
        answer.state(
            realised <= bound * (1 + _SLACK),
            "the realised error is within the bound",
            "the realised error is above the bound that sigma was calibrated to",
        )
        _CHECKS.get(certificate.mechanism, _unknown)(answer, certificate, annex, realised)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        answer.findings.append(f"annex: a figure is missing or no number ({str(error)[:60]})")
    except ExpungeError as error:
        answer.findings.append(
            f"annex: the error bound cannot be recomputed from its figures ({error.message})"
        )
    try:
        _attacked(answer, certificate, annex)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        answer.findings.append(f"annex: what attacks found is malformed ({str(error)[:60]})")
    return answer.result()


def _attacked(answer: _Answer, certificate: Certificate, annex: dict[str, Any]) -> None:
    """The gates that the certificate names against what the attacks found, and that against their limits."""
    attacks = annex.get(ATTACKS)
    named = any(gate.name in ATTACK_GATES for gate in certificate.validation.gates)
    if attacks is None:
        if named:
            answer.findings.append("annex: the certificate names an attack of which it knows nothing")
        else:
            answer.missing.append("annex: no attack is recorded: the release is of an earlier version")
        return
    if attacks["attacked"] is not True:
        if named and certificate.version >= 2:
            answer.findings.append("annex: the certificate names an attack that was not made")
        answer.missing.append("annex: no attack was made; the annex says why")
        return
    level, margin, found = _number(attacks, "level"), _number(attacks, "margin"), attacks["gates"]
    answer.state(
        all(
            one["alarm"] is (_number(one, "p_value") <= level and abs(_number(one, "auc") - 0.5) >= margin)
            for one in found.values()
        ),
        "the attacks' alarms follow from what they found",
        "an attack's alarm does not follow from what it found",
    )
    passed = {gate.name for gate in certificate.validation.gates if gate.passed}
    exact = certificate.guarantee == "exact"  # attacks on a retrained model stop nothing
    answer.state(
        attacks["enforced"] is not exact
        and (
            exact
            or all(
                name in passed and not one["alarm"] and not one.get("contradicts", False)
                for name, one in found.items()
            )
        ),
        "the gates of the certificate are those that the attacks let pass",
        "the certificate says otherwise of a gate than the attack on the release",
    )
    if isinstance(certificate, Certificate2) and not exact:
        answer.state(
            0 < level * len(found) <= certificate.attack_gates.false_alarm * (1 + _SLACK),
            "the levels of the attacks add up to no more false alarms than stated",
            "the levels of the attacks add up to more false alarms than stated",
        )
    if discarded := len(annex.get(DISCARDED, [])):
        answer.checked.append(f"annex: it holds the attacks on {discarded} discarded release(s) of the batch")


def _number(content: dict[str, Any], name: str) -> float:
    value = content[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(name)
    return float(value)


def _convex(answer: _Answer, certificate: Certificate, annex: dict[str, Any], realised: float) -> None:
    values = constants_of(certificate)
    norm, rounding = _number(annex, "gradient_norm"), _number(annex, "rounding_check")
    tolerance, allowance = values["gradient_tolerance"], values["rounding_allowance"]
    answer.state(
        0 <= norm <= tolerance,
        "the gradient's norm at the release is within its tolerance",
        "the gradient's norm at the release is above its tolerance",
    )
    answer.state(
        0 <= rounding <= allowance,
        "the checked rounding of the gradient is within its allowance",
        "the checked rounding of the gradient is above its allowance",
    )
    _recomputed(answer, realised, (norm + tolerance + 2 * allowance) / values["l2"])
    _counted(answer, annex)


def _newton(answer: _Answer, certificate: Certificate, annex: dict[str, Any], realised: float) -> None:
    values, steps = constants_of(certificate), annex["steps"]
    damping = values["damping"]
    ends = [(_number(step, "residual"), _number(step, "lambda_min")) for step in steps]
    answer.state(
        all(abs(_number(step, "lambda_max")) < damping for step in steps),
        "the damping exceeds the norm of the Hessian at every step",
        "the damping does not exceed the norm of the Hessian at some step",
    )
    answer.state(
        all(residual >= 0 and lowest + damping > 0 for residual, lowest in ends),
        "the residuals are measured, and the damped Hessian is positive definite at every step",
        "a residual is negative, or the damped Hessian is not positive definite at some step",
    )
    bound, binding = iterated_newton_error_bound(
        hessian_lipschitz=values.get("hessian_lipschitz", math.inf),
        norm_bound=values["norm_bound"],
        damping=damping,
        gradient_bound=values.get("gradient_bound", math.inf),
        steps=[(residual, lowest + damping) for residual, lowest in ends],
    )
    _recomputed(answer, realised, bound)
    answer.state(
        binding == certificate.error_bound.binding,
        "what binds the error bound is what the certificate says",
        "something else binds the error bound than the certificate says",
    )
    failure = sum(_number(step, "failure_probability") for step in steps)
    if {"hessian_lipschitz", "gradient_bound"} <= set(values):
        spared = certificate.delta - certificate.gaussian_delta
        answer.state(
            certificate.sequential.draws * failure <= spared * (1 + _SLACK),
            "delta has room for the probability that a bound on the spectrum fails",
            "delta has no room for the probability that a bound on the spectrum fails",
        )
    for step in steps:
        _count(step)
    answer.missing.append("annex: no limit of the solver's iterations is stated to hold them against")


def _clipped(answer: _Answer, certificate: Certificate, annex: dict[str, Any], realised: float) -> None:
    answer.state(
        _number(annex, "parent_norm") >= 0,
        "the norm of the parent's weights is stated",
        "the norm of the parent's weights is impossible",
    )
    stated = (
        2 * constants_of(certificate)["norm_bound"] if certificate.mechanism == "output-perturbation" else 0.0
    )
    _recomputed(answer, realised, stated)


def _retrained(answer: _Answer, certificate: Certificate, annex: dict[str, Any], realised: float) -> None:
    _counted(answer, annex)


def _unknown(answer: _Answer, certificate: Certificate, annex: dict[str, Any], realised: float) -> None:
    answer.missing.append(f"annex: nothing is known of figures of the mechanism {certificate.mechanism}")


def _recomputed(answer: _Answer, realised: float, expected: float) -> None:
    answer.state(
        math.isclose(realised, expected, rel_tol=1e-6),
        "the realised error follows from the annex's other figures",
        "the realised error does not follow from the annex's other figures",
    )


def _counted(answer: _Answer, annex: dict[str, Any]) -> None:
    """The solver's iterations against the limit in the model's own description: one more may have been begun."""
    count, spec = _count(annex), answer.spec or {}
    if not spec.get("linearize"):
        answer.missing.append(
            "annex: iterations were not held against a limit (a linearised model states it: --model)"
        )
        return
    answer.state(
        count <= _number(spec, "max_products") + 1,
        "the solver's iterations are within the model's limit",
        "the solver's iterations are above the model's limit",
    )


def _count(figures: dict[str, Any]) -> int:
    count = figures["products"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ValueError("products")
    return count


_CHECKS: dict[str, Callable[[_Answer, Certificate, dict[str, Any], float], None]] = {
    "convex": _convex,
    "newton": _newton,
    "output-perturbation": _clipped,
    "noisy-finetune": _clipped,
    "retrain": _retrained,
}
