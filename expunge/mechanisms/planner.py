"""Which mechanisms policy admits, and the cheapest first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from expunge.errors import BudgetExceededError, CertificateRefusedError
from expunge.mechanisms.contract import Assessment, Context, Mechanism
from expunge.mechanisms.convex import Convex
from expunge.mechanisms.newton import Newton
from expunge.mechanisms.noisy_finetune import NoisyFinetune
from expunge.mechanisms.output_perturbation import OutputPerturbation
from expunge.mechanisms.retrain import Retrain
from expunge.privacy.noise import truncation_delta

MECHANISMS: tuple[Mechanism, ...] = (Convex(), Newton(), NoisyFinetune(), OutputPerturbation(), Retrain())

EXACT = frozenset(mechanism.name for mechanism in MECHANISMS if mechanism.guarantee == "exact")


def mechanism_named(name: str) -> Mechanism:
    """The mechanism of that name.

    Args:
        name: As in certificates.

    Returns:
        The mechanism.

    Raises:
        CertificateRefusedError: If there is none.
    """
    for mechanism in MECHANISMS:
        if mechanism.name == name:
            return mechanism
    raise CertificateRefusedError(
        "unknown mechanism",
        expected=", ".join(m.name for m in MECHANISMS),
        got=name,
        remedy="check the batch",
    )


@dataclass(frozen=True)
class Plan:
    """Every mechanism's assessment, and the order in which the admissible ones are tried.

    Args:
        assessments: One a mechanism, cheapest first.
        order: Names of the admissible ones, cheapest first.
    """

    assessments: tuple[Assessment, ...]
    order: tuple[str, ...]

    @property
    def choice(self) -> str | None:
        """The mechanism that is tried first, if any is admissible."""
        return self.order[0] if self.order else None

    @property
    def why(self) -> str:
        """Why that one, in one sentence."""
        chosen = next((a for a in self.assessments if a.admissible), None)
        if chosen is None:
            return "Policy admits none of the mechanisms."
        cheaper = [a.mechanism for a in self.assessments if not a.admissible and a.seconds < chosen.seconds]
        refused = f"; refused though cheaper: {', '.join(cheaper)}" if cheaper else ""
        return f"{chosen.mechanism} is the cheapest that policy admits{refused}."


def make_plan(context: Context, mechanisms: Sequence[Mechanism] = MECHANISMS) -> Plan:
    """Judge every mechanism by policy and order the admissible ones by predicted cost.

    Args:
        context: Public facts of the request.
        mechanisms: To choose from.

    Returns:
        The plan; its order may be empty.

    Example:
        >>> # make_plan(context).order
        >>> # ('convex', 'retrain')
    """
    judged = [_judge(mechanism, mechanism.assess(context), context) for mechanism in mechanisms]
    # at equal cost the exact answer is the better one
    judged.sort(key=lambda assessment: (assessment.seconds, assessment.guarantee != "exact"))
    return Plan(tuple(judged), tuple(a.mechanism for a in judged if a.admissible))


def _judge(mechanism: Mechanism, assessment: Assessment, context: Context) -> Assessment:
    admit = context.policy.admit
    if assessment.refusal:
        return assessment
    if mechanism.name in context.suspects:
        return replace(
            assessment,
            refusal=f"suspect: an attack contradicted its certificate (entry {context.suspects[mechanism.name]} of the "
            "ledger)",
            remedy=f"find out why, then `expunge mechanism clear {mechanism.name} --reason TEXT`",
        )
    if assessment.guarantee not in admit.classes:
        return replace(
            assessment,
            refusal=f"policy does not admit the class {assessment.guarantee}"
            + (f": {assessment.weakness}" if assessment.weakness else ""),
            remedy="add it to admit.classes in policy.yaml, if its assumptions are acceptable",
        )
    calibration = mechanism.calibrate(context)
    if calibration is None:
        return assessment
    _, epsilon = calibration.composed(context.draws + 1)
    limit = min(admit.epsilon, context.policy.ledger.composed_epsilon)
    # as the release will state it, so that no draw is spent on what its gate cannot pass
    coordinates = max(draw.coordinates for draw in (calibration.draw(), *context.spent))
    delta = assessment.delta + (context.draws + 1) * truncation_delta(coordinates, epsilon)
    if epsilon > limit or delta > admit.delta:
        return replace(
            assessment,
            epsilon=epsilon,
            refusal=f"vacuous: ({epsilon:.3g}, {delta:.1g}) is above policy's ({limit:g}, {admit.delta:g})",
            remedy="lower epsilon or delta of its release in policy.yaml; every draw counts",
        )
    spends, budget = calibration.error_bound, context.limits.accumulated_error
    if spends > budget:
        return replace(
            assessment,
            refusal=f"one release spends {spends:.3g} of a sequential error budget of {budget:g}",
            remedy="raise ledger.accumulated_error in policy.yaml, or lower unconditional.norm_bound",
        )
    try:
        context.account.after_release(spends).check(context.limits)
    except BudgetExceededError as error:
        return replace(assessment, refusal=str(error), remedy="retraining starts the ledger anew")
    return assessment
